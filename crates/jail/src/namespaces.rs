//! Namespaces for the calling process, namespaces(7): new ones, and those of another process.
#![allow(unsafe_code, reason = "unshare(2) may change the table of descriptors; not with these flags")]

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

/// A PID namespace.
#[derive(Clone, Copy, Debug)]
pub enum Pids<'a> {
    /// A new one: the first process started in it is its init.
    New,
    /// That of a process, by a PID file descriptor; not always its first.
    Of(BorrowedFd<'a>),
}

/// Has `start` start a process in a PID namespace, or told that it is not there: because the kernel refuses, or the
/// process that has it has ended. The namespace is set for a thread, which could start no threads afterwards, so
/// it is one that does nothing else.
///
/// # Errors
/// What `start` returns, or when the host gives no thread.
pub fn start_in<T: Send>(
    pids: Pids<'_>,
    start: impl FnOnce(io::Result<()>) -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let starting = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, move || {
            let entered = match pids {
                // SAFETY: CLONE_NEWPID touches neither memory nor descriptors of this process.
                Pids::New => unsafe { unshare_unsafe(UnshareFlags::NEWPID) },
                Pids::Of(process) => move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID),
            };
            start(entered.map_err(io::Error::from))
        })?;
        starting.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    })
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
