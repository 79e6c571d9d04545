//! The thread that reads kernel and initial RAM disk into guest memory, before anything runs.

use super::Arg::Is;
use super::{Rule, rule};

const DUPLICATE: u64 = libc::F_DUPFD_CLOEXEC as u64;
const CLOSE_ON_EXEC: u64 = libc::F_SETFD as u64;

pub(super) const RULES: &[Rule] = &[
    rule(libc::SYS_read, &[], "the kernel's segments and the initial RAM disk"),
    rule(libc::SYS_pread64, &[], "the kernel's headers"),
    rule(libc::SYS_lseek, &[], "where a file has data and where holes"),
    rule(libc::SYS_statx, &[], "a file's length; there is no path that could be named"),
    rule(libc::SYS_fcntl, &[Is(1, DUPLICATE)], "a second handle on the kernel's file"),
    rule(libc::SYS_fcntl, &[Is(1, CLOSE_ON_EXEC)], "taking an inherited descriptor"),
];
