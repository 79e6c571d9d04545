//! System calls: what each thread of a VMM may ask of the kernel, seccomp(2).
//!
//! The allow-lists are in `resources/seccomp/`, one for each [`Role`] and one for all, with a reason beside each
//! rule. Owner: the thread, which puts up its own wall as it starts. Invariants: a call that is in no rule ends the
//! process; no thread can execute memory it wrote, start a thread or program, or open anything.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

#[path = "../../../resources/seccomp/console.rs"]
mod console;
#[path = "../../../resources/seccomp/every.rs"]
mod every;
#[path = "../../../resources/seccomp/io.rs"]
mod io;
#[path = "../../../resources/seccomp/kvm.rs"]
mod kvm;
#[path = "../../../resources/seccomp/loader.rs"]
mod loader;
#[path = "../../../resources/seccomp/main.rs"]
mod main;
#[path = "../../../resources/seccomp/vcpu.rs"]
mod vcpu;

/// The signal that kicks a vCPU out of the guest: the first that the C library leaves to programs.
const KICK_SIGNAL: u64 = 34;

/// Why a wall could not be put up.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A rule makes no sense.
    #[error("the rules for system calls cannot be compiled")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused.
    #[error("the kernel does not filter system calls: it needs CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
}

/// What a thread of the VMM is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The main thread, once the machine runs.
    Main,
    /// The event loop with all devices.
    Io,
    /// A virtual processor.
    Vcpu,
    /// The console's writer.
    Console,
    /// The reader of kernel and initial RAM disk.
    Loader,
}

impl Role {
    /// Every role there is, by name.
    pub const NAMES: [(&str, Self); 5] = [
        ("main", Self::Main),
        ("io", Self::Io),
        ("vcpu", Self::Vcpu),
        ("console", Self::Console),
        ("loader", Self::Loader),
    ];

    /// The rules of the role.
    fn rules(self) -> impl Iterator<Item = &'static Rule> {
        let own = match self {
            Self::Main => main::RULES,
            Self::Io => io::RULES,
            Self::Vcpu => vcpu::RULES,
            Self::Console => console::RULES,
            Self::Loader => loader::RULES,
        };
        every::RULES.iter().chain(own)
    }
}

/// A call that is allowed if all of its conditions hold. Several rules for one call are alternatives.
struct Rule {
    call: libc::c_long,
    conditions: &'static [Arg],
    #[cfg_attr(not(test), expect(dead_code, reason = "for who reads the lists"))]
    reason: &'static str,
}

const fn rule(call: libc::c_long, conditions: &'static [Arg], reason: &'static str) -> Rule {
    Rule { call, conditions, reason }
}

/// A condition on an argument, by its index. The kernel looks at the low half of all but addresses.
enum Arg {
    /// It is this.
    Is(u8, u64),
    /// Under a mask, it is this.
    Masked(u8, u64, u64),
    /// It is no address.
    Null(u8),
    /// It is this process's id.
    OwnProcess(u8),
}

impl Arg {
    fn condition(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (half, whole) = (SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword);
        match *self {
            Self::Is(index, value) => SeccompCondition::new(index, half, SeccompCmpOp::Eq, value),
            Self::Masked(index, mask, value) => {
                SeccompCondition::new(index, half, SeccompCmpOp::MaskedEq(mask), value)
            }
            Self::Null(index) => SeccompCondition::new(index, whole, SeccompCmpOp::Eq, 0),
            Self::OwnProcess(index) => {
                SeccompCondition::new(index, half, SeccompCmpOp::Eq, u64::from(std::process::id()))
            }
        }
    }
}

/// Leaves the calling thread the calls of its role, and no way back.
///
/// # Errors
/// When the kernel refuses: the thread is as free as before then, and must not go on.
pub fn confine(role: Role) -> Result<(), SeccompError> {
    Ok(seccompiler::apply_filter(&compile(role)?)?)
}

fn compile(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Rule { call, conditions, .. } in role.rules() {
        let alternatives = calls.entry(*call).or_default();
        if !conditions.is_empty() {
            let conditions = conditions.iter().map(Arg::condition).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    let (otherwise, allowed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(calls, otherwise, allowed, TargetArch::x86_64)?.try_into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use std::collections::BTreeSet;

    use super::*;

    fn calls(role: Role) -> BTreeSet<libc::c_long> {
        role.rules().map(|rule| rule.call).collect()
    }

    #[test]
    fn the_lists_stay_short() {
        for (name, role) in Role::NAMES {
            let (calls, program) = (calls(role).len(), compile(role).unwrap().len());
            println!("{name}: {calls} system calls, {program} instructions");
        }
        assert!(calls(Role::Vcpu).len() < 20);
        let union: BTreeSet<_> = Role::NAMES.into_iter().flat_map(|(_, role)| calls(role)).collect();
        println!("all: {} system calls", union.len());
        assert!(union.len() <= 45, "{} system calls", union.len());
    }

    #[test]
    fn a_call_is_free_or_has_conditions_but_not_both() {
        for (name, role) in Role::NAMES {
            for call in calls(role) {
                let rules: Vec<_> = role.rules().filter(|rule| rule.call == call).collect();
                let free = rules.iter().filter(|rule| rule.conditions.is_empty()).count();
                assert!(free == 0 || rules.len() == 1, "{name}: call {call}");
                assert!(rules.iter().all(|rule| !rule.reason.is_empty()), "{name}: call {call}");
            }
        }
    }

    #[test]
    fn nobody_may_open_start_or_trace_anything() {
        for (name, role) in Role::NAMES {
            for call in [
                libc::SYS_open,
                libc::SYS_openat,
                libc::SYS_openat2,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_bind,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_ptrace,
                libc::SYS_process_vm_writev,
                libc::SYS_kill,
                libc::SYS_mount,
                libc::SYS_setns,
                libc::SYS_unshare,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_prctl,
                libc::SYS_prlimit64,
                libc::SYS_memfd_create,
            ] {
                assert!(!calls(role).contains(&call), "{name} may call {call}");
            }
        }
    }
}
