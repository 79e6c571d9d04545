#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const ARCH: u32 = 0xc000_003e;

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

/// What a filter says of a call, as the kernel runs it (seccomp(2)), and after how many instructions.
fn verdict(program: &[sock_filter], call: u32, arch: u32, args: [u64; 6]) -> (u32, usize) {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    let data: Vec<u8> = [call.to_le_bytes(), arch.to_le_bytes()]
        .into_iter()
        .flatten()
        .chain([0; 8])
        .chain(args.into_iter().flat_map(u64::to_le_bytes))
        .collect();
    let (mut at, mut accumulator) = (0, 0_u32);
    for count in 1..=program.len() {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let taken = match u32::from(code) {
            LOAD => {
                let from = k as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            libc::BPF_RET => return (k, count),
            libc::BPF_JMP => {
                at += k as usize;
                continue;
            }
            code if code == libc::BPF_JMP | libc::BPF_JEQ => accumulator == k,
            code if code == libc::BPF_JMP | libc::BPF_JGT => accumulator > k,
            code if code == libc::BPF_JMP | libc::BPF_JGE => accumulator >= k,
            code => panic!("no filter has instruction {code:#x}"),
        };
        at += usize::from(if taken { jt } else { jf });
    }
    panic!("the program goes round");
}

fn one_after_the_other(role: Role) -> BpfProgram {
    filter(allowed(role).unwrap()).unwrap()
}

#[test]
fn the_search_gives_every_number_the_lists_verdict_in_few_steps() {
    let numbers = (0..1024).chain((0..1024).map(|call| call | 0x4000_0000)).chain([1 << 31, u32::MAX]);
    let numbers: Vec<u32> = numbers.collect();
    for (name, role) in Role::NAMES {
        let (search, list) = (compile(role).unwrap(), one_after_the_other(role));
        for call in &numbers {
            let (found, steps) = verdict(&search, *call, ARCH, [0; 6]);
            assert_eq!(found, verdict(&list, *call, ARCH, [0; 6]).0, "{name}: call {call}");
            // What is in no list is refused before an argument is looked at.
            let known = calls(role).contains(&i64::from(*call));
            assert!(known || steps <= 20, "{name}: call {call} is refused after {steps}");
            for arch in [0, 0x4000_0003, ARCH + 1] {
                assert_eq!(verdict(&search, *call, arch, [0; 6]), (libc::SECCOMP_RET_KILL_PROCESS, 3));
            }
        }
    }
}

proptest! {
    #[test]
    fn the_search_judges_arguments_as_the_list_does(
        (_, role) in select(&Role::NAMES[..]),
        picks in prop::array::uniform6((any::<prop::sample::Index>(), select(&[0, 1, u64::MAX, 1 << 32, 1 << 63][..]))),
    ) {
        let (search, list) = (compile(role).unwrap(), one_after_the_other(role));
        // Arguments around everything that a program compares with.
        let args = picks.map(|(index, flip)| u64::from(index.get(&list).k) ^ flip);
        for call in calls(role) {
            let call = u32::try_from(call).unwrap();
            let (found, _) = verdict(&search, call, ARCH, args);
            prop_assert_eq!(found, verdict(&list, call, ARCH, args).0, "call {} {:x?}", call, args);
        }
    }
}
