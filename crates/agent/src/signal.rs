//! Signals to a container's first process, and to all of its processes.
#![allow(unsafe_code, reason = "the type for signals knows the real-time ones only by their number")]

use std::fs;
use std::path::Path;

use hull_protocol::agent::{AgentError, AgentErrorKind};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The last signal there is.
const SIGNAL_MAX: i32 = 64;

/// The signal with a number.
pub(crate) fn numbered(number: i32) -> Result<Signal, AgentError> {
    if !(1..=SIGNAL_MAX).contains(&number) {
        return Err(AgentError {
            kind: AgentErrorKind::Invalid,
            message: format!("there is no signal {number}"),
        });
    }
    // SAFETY: the number is that of a signal, and not zero. The ones that a C library keeps for itself would
    // upset a program that sends them to itself; these go to a container's processes only.
    Ok(unsafe { Signal::from_raw_unchecked(number) })
}

/// Sends a signal to a process, which the caller has not reaped.
pub(crate) fn send(pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    kill_process(pid, signal).or_else(too_late_is_done)
}

/// Sends a signal to every process in the PID namespace of `first`, which the caller has not reaped.
pub(crate) fn send_to_all(first: Pid, signal: Signal) -> rustix::io::Result<()> {
    let Some(namespace) = namespace(first) else { return Ok(()) };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number: Option<i32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        // Opened before it is looked at: should the number pass to another process meanwhile, the descriptor
        // still means the one that has gone.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if self::namespace(pid).as_ref() == Some(&namespace) {
            pidfd_send_signal(process, signal).or_else(too_late_is_done)?;
        }
    }
    Ok(())
}

/// The name of a process's PID namespace; none for one that has ended.
pub(crate) fn namespace(pid: Pid) -> Option<std::path::PathBuf> {
    fs::read_link(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("ns/pid")).ok()
}

fn too_late_is_done(error: Errno) -> rustix::io::Result<()> {
    if error == Errno::SRCH { Ok(()) } else { Err(error) }
}
