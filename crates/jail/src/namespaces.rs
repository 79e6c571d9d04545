//! New namespaces for the calling process, namespaces(7).
#![allow(unsafe_code, reason = "unshare(2) may change the table of descriptors; not with these flags")]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Children of the calling **thread** from now on live in a PID namespace of their own, the first of them as
/// its init. The thread can start no threads any more.
///
/// # Errors
/// When the kernel refuses.
pub fn new_pids_for_children() -> rustix::io::Result<()> {
    // SAFETY: CLONE_NEWPID touches neither memory nor descriptors of this process.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }
}

/// Mounts, host name, System V IPC and message queues, and the view of control groups of its own.
///
/// # Errors
/// When the kernel refuses.
pub fn new_for_container() -> rustix::io::Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWCGROUP;
    // SAFETY: none of these flags touches memory or descriptors; NEWNS unshares the working directory,
    // which a single-threaded caller shares with nobody.
    unsafe { unshare_unsafe(flags) }
}

/// Mounts, network, host name, System V IPC and view of control groups of its own; and, for who has no right to that,
/// a user namespace that gives it.
///
/// # Errors
/// When the kernel refuses.
pub fn new_for_vmm(own_users: bool) -> rustix::io::Result<()> {
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    flags.set(UnshareFlags::NEWUSER, own_users);
    // SAFETY: as above; NEWUSER changes capabilities only.
    unsafe { unshare_unsafe(flags) }
}
