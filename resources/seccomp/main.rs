//! The main thread, once the machine runs: the control socket.

use super::Arg::{Is, Null, OwnProcess};
use super::{KICK_SIGNAL, Rule, rule};

const ACCEPT: u64 = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
const SEND: u64 = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as u64;
const RECEIVE: u64 = libc::MSG_TRUNC as u64;

pub(super) const RULES: &[Rule] = &[
    rule(libc::SYS_ppoll, &[], "waits for the control socket and the VM's end"),
    rule(libc::SYS_accept4, &[Is(3, ACCEPT)], "takes the next control connection"),
    rule(libc::SYS_recvfrom, &[Is(3, RECEIVE)], "hears a control request"),
    rule(libc::SYS_sendto, &[Is(3, SEND), Null(4)], "answers it, on the connection it came by"),
    rule(libc::SYS_read, &[], "the eventfd that tells of the end"),
    rule(libc::SYS_getpid, &[], "the C library before it signals a thread"),
    rule(
        libc::SYS_tgkill,
        &[OwnProcess(0), Is(2, KICK_SIGNAL)],
        "kicks a vCPU out of the guest, and only that",
    ),
];
