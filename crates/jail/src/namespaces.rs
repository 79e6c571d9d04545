//! Namespaces for the calling process, namespaces(7): new ones, and those of another process.
#![allow(unsafe_code, reason = "unshare(2) may change the table of descriptors; not with these flags")]

use std::os::fd::BorrowedFd;

use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

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

/// Children of the calling **thread** from now on live in the PID namespace of `process`, which need not be its
/// first. The thread can start no threads any more.
///
/// # Errors
/// When the process has ended, or the kernel refuses.
pub fn join_pids_for_children(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
}

/// The mounts, host name, System V IPC and message queues, and view of control groups of `process`, a PID file
/// descriptor. Root and working directory become the root of its mounts.
///
/// # Errors
/// When the process has ended, or the kernel refuses; the caller has threads then, or the kernel is older than Linux
/// 5.8.
pub fn join_container(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(process, all)
}

/// Puts the calling **thread** alone at the root of the mounts of `process`, a PID file descriptor. The other threads
/// stay where they are.
///
/// # Errors
/// When the process has ended, or the kernel refuses.
pub fn join_mounts_alone(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: from here on this thread has a root, a working directory and a mask of its own; memory and descriptors
    // stay shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    move_into_thread_name_spaces(process, ThreadNameSpaceType::MOUNT)
}
