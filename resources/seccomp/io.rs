//! The event loop that runs every device.

use super::Arg::{Is, Masked, Null};
use super::{Rule, rule};

const ACCEPT: u64 = libc::SOCK_CLOEXEC as u64;
const NOT_WAITING: u64 = libc::MSG_DONTWAIT as u64;
const PEEK: u64 = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u64;
const SEND: u64 = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as u64;
const HOLE: u64 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
const ZERO: u64 = (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u64;

/// All but the offloads there are: checksum, segments of TCP and UDP over IPv4 and IPv6.
const NO_OFFLOAD: u64 = !(libc::TUN_F_CSUM
    | libc::TUN_F_TSO4
    | libc::TUN_F_TSO6
    | libc::TUN_F_TSO_ECN
    | libc::TUN_F_USO4
    | libc::TUN_F_USO6) as u64;

pub(super) const RULES: &[Rule] = &[
    rule(libc::SYS_epoll_pwait, &[], "waits for notifications, sockets and timers"),
    rule(libc::SYS_epoll_ctl, &[], "a device watches a socket or stops to"),
    rule(libc::SYS_read, &[], "eventfds and the console's input"),
    rule(libc::SYS_clock_nanosleep, &[], "console input waits until the guest has read the last"),
    rule(libc::SYS_preadv, &[], "disk: a read"),
    rule(libc::SYS_pwritev, &[], "disk: a write"),
    rule(libc::SYS_pwrite64, &[], "disk: zeroes, where the file system cannot make them"),
    rule(libc::SYS_fdatasync, &[], "disk: a flush"),
    rule(libc::SYS_fallocate, &[Is(1, HOLE)], "disk: a discard"),
    rule(libc::SYS_fallocate, &[Is(1, ZERO)], "disk: zeroes; the file never grows"),
    rule(libc::SYS_accept4, &[Is(3, ACCEPT)], "vsock: a client of the host"),
    rule(libc::SYS_recvfrom, &[Is(3, PEEK)], "vsock: a client's first line, to its end and no further"),
    rule(libc::SYS_recvfrom, &[Is(3, NOT_WAITING)], "vsock: taking that line; emptying a socket that closes"),
    rule(libc::SYS_recvmsg, &[Is(2, NOT_WAITING)], "vsock: from the client straight into guest memory"),
    rule(libc::SYS_sendto, &[Is(3, SEND), Null(4)], "vsock: what a slow client had not taken"),
    rule(libc::SYS_sendmsg, &[Is(2, SEND)], "vsock: from guest memory straight to the client"),
    rule(libc::SYS_shutdown, &[], "vsock: a direction ends"),
    rule(libc::SYS_readv, &[], "network: a frame from the tap straight into guest memory"),
    rule(libc::SYS_writev, &[], "network: a frame from guest memory straight to the tap"),
    rule(
        libc::SYS_ioctl,
        &[Is(1, libc::TUNSETOFFLOAD), Masked(2, NO_OFFLOAD, 0)],
        "network: what frames the guest takes; no other request of the tap or any driver",
    ),
    rule(libc::SYS_getrandom, &[Is(2, 0)], "entropy straight into guest memory"),
];
