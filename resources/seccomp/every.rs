//! What every thread of the VMM does: lock, allocate, log, be interrupted, end.

use super::Arg::{Is, Masked};
use super::{Rule, rule};

/// The two bits of a futex operation that say nothing of what it does.
const FUTEX_KIND: u64 = !((libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64) & 0xffff_ffff;
const WAIT: u64 = libc::FUTEX_WAIT as u64;
const WAKE: u64 = libc::FUTEX_WAKE as u64;
const WAIT_BITSET: u64 = libc::FUTEX_WAIT_BITSET as u64;
const EXEC: u64 = libc::PROT_EXEC as u64;
const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
const DONTNEED: u64 = libc::MADV_DONTNEED as u64;

pub(super) const RULES: &[Rule] = &[
    rule(libc::SYS_futex, &[Masked(1, FUTEX_KIND, WAIT)], "locks of the C library"),
    rule(libc::SYS_futex, &[Masked(1, FUTEX_KIND, WAKE)], "locks, channels and the gate: wake who waits"),
    rule(
        libc::SYS_futex,
        &[Masked(1, FUTEX_KIND, WAIT_BITSET)],
        "locks, channels, the gate; joining a thread",
    ),
    rule(
        libc::SYS_mmap,
        &[Masked(2, EXEC, 0), Masked(3, ANONYMOUS, ANONYMOUS)],
        "allocation: memory that no file is behind and nobody executes",
    ),
    rule(libc::SYS_mprotect, &[Masked(2, EXEC, 0)], "allocation: an arena grows; nothing becomes executable"),
    rule(libc::SYS_munmap, &[], "allocation; a vCPU's shared page when it ends"),
    rule(libc::SYS_mremap, &[], "allocation: a large buffer grows; keeps its protection"),
    rule(libc::SYS_madvise, &[Is(2, DONTNEED)], "allocation; the stack of a thread that ends"),
    rule(libc::SYS_brk, &[], "allocation on the main heap"),
    rule(libc::SYS_write, &[], "log lines, eventfds, the console's output"),
    rule(libc::SYS_close, &[], "whatever is dropped"),
    rule(
        libc::SYS_clock_gettime,
        &[],
        "timers and log limits, where the clock cannot be read without a call",
    ),
    rule(libc::SYS_rt_sigprocmask, &[], "the C library when it signals a thread or ends one"),
    rule(libc::SYS_rt_sigreturn, &[], "the end of the handler of a kick"),
    rule(libc::SYS_restart_syscall, &[], "a wait goes on after the process was stopped and continued"),
    rule(libc::SYS_sigaltstack, &[], "the runtime when a thread ends"),
    rule(libc::SYS_exit, &[], "a thread ends"),
    rule(libc::SYS_exit_group, &[], "the process ends: regularly on main, by a bug on any thread"),
];
