//! System calls: what each thread of a VMM may ask of the kernel, seccomp(2).
//!
//! The allow-lists are in `resources/seccomp/`, one for each [`Role`] and one for all, with a reason beside each
//! rule. Owner: the thread, which puts up its own wall as it starts. Invariants: a call that is in no rule ends the
//! process; no thread can execute memory it wrote, start a thread or program, or open anything.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
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

/// The program of a role's list: a search by halves for the call's number, and what the list says of that call. The
/// kernel follows the program for every number there is when it is installed, and again for most calls: one comparison
/// after the other would take it several times as long.
fn compile(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let lists: Vec<_> = allowed(role)?
        .into_iter()
        .map(|(call, rules)| Ok((call, filter(BTreeMap::from([(call, rules)]))?)))
        .collect::<Result<_, seccompiler::BackendError>>()?;
    let start = lists.first().and_then(|(_, list)| list.get(..LOADED)).unwrap_or_default();
    Ok(start.iter().cloned().chain(search(&lists)).collect())
}

/// The instructions with which every filter begins: they kill what calls by another architecture's numbers, and load the
/// number of the call.
const LOADED: usize = 4;

/// Finds the one list that can have the call, in the order of their numbers. Each list ends with a verdict.
fn search(lists: &[(i64, BpfProgram)]) -> BpfProgram {
    let (low, high) = lists.split_at(lists.len() / 2);
    match (low, high) {
        ([], [(_, list)]) => list.get(LOADED..).unwrap_or_default().to_vec(),
        (_, [(first, _), ..]) => {
            let (low, high) = (search(low), search(high));
            let jump = |code: u32, k, jf| sock_filter { code: code as u16, jt: 0, jf, k };
            // From the first of the high ones on, the low ones are jumped over.
            let is_high = jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, *first as u32, 1);
            let over_low = jump(libc::BPF_JMP | libc::BPF_JA, low.len() as u32, 0);
            [is_high, over_low].into_iter().chain(low).chain(high).collect()
        }
        (_, []) => BpfProgram::new(),
    }
}

/// A role's calls, each with its alternatives; none for a call that is free.
fn allowed(role: Role) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Rule { call, conditions, .. } in role.rules() {
        let alternatives = calls.entry(*call).or_default();
        if !conditions.is_empty() {
            let conditions = conditions.iter().map(Arg::condition).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    Ok(calls)
}

/// A program that allows these calls and compares with one after the other.
fn filter(calls: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram, seccompiler::BackendError> {
    let (otherwise, allowed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(calls, otherwise, allowed, TargetArch::x86_64)?.try_into()
}

#[cfg(test)]
mod tests;
