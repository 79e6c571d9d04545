//! VMMs that an earlier daemon left running: taken over, or what is left of them cleared away.

use std::fs;
use std::io;
use std::time::SystemTime;

use hull_protocol::api::{ExitStatus, Microvm as Record, State};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::unix::pipe::Receiver;

use super::super::control::Control;
use super::super::restart;
use super::{Files, Life, Vmm};
use crate::cgroup::open_process;
use crate::clock::rfc3339;
use crate::fleet::Host;

/// Why a microVM has failed that did not run any more when a daemon started.
const UNSEEN: &str = "it ended while no daemon ran: nobody saw how";
/// The same, of one that could not be governed any more.
const DEAF: &str = "its VMM took no connections when the daemon started, and was ended";

impl Vmm {
    /// The VMM that an earlier daemon left running, with this process id, if it still runs.
    pub(in super::super) fn adopt(host: &Host, id: &str, pid: Option<u32>) -> io::Result<Self> {
        let files = Files::new(host, id);
        let control = Control::connect(&files.control())?;
        let group = host.groups.group(id);
        // The number may not have been written down: its group knows it, too.
        let pid = pid.or_else(|| group.processes().first().copied());
        let process = pid.and_then(|pid| Some((pid, vmm_process(pid)?)));
        Ok(Self { life: Life::Adopted(process), files, control: Some(control) })
    }
}

/// Clears away what is left of a microVM whose VMM could not be taken over, and has its record say so.
pub(in super::super) fn lost(host: &Host, record: &mut Record, refused: &io::Error) {
    let deaf = end_deaf(host, record, refused);
    Files::new(host, &record.id).forget_sockets();
    host.groups.group(&record.id).remove();
    record.state = if restart::after_loss(record) { State::Restarting } else { State::Failed };
    record.vmm_pid = None;
    record.ports.clear();
    record.finished_at = Some(rfc3339(SystemTime::now()));
    record.exit = Some(ExitStatus {
        status: 125,
        error: Some(if deaf { DEAF } else { UNSEEN }.into()),
        reason: None,
        oom_killed: false,
    });
    record.revision = record.revision.saturating_add(1);
}

/// Ends a VMM that an earlier daemon left running and that did not take this one's connection: nobody can govern it.
/// Whether there was one.
fn end_deaf(host: &Host, record: &Record, refused: &io::Error) -> bool {
    let group = host.groups.group(&record.id);
    let grouped = !group.processes().is_empty();
    group.kill();
    // A full queue is a living process's, so that the number is still its own.
    let full = refused.kind() == io::ErrorKind::WouldBlock;
    let process = record.vmm_pid.filter(|_| full).and_then(vmm_process);
    let killed = process.is_some_and(|process| pidfd_send_signal(process, Signal::KILL).is_ok());
    grouped || killed
}

/// The process with this id, if it is a VMM: the number may be another's by now.
fn vmm_process(pid: u32) -> Option<Receiver> {
    let process = open_process(pid)?;
    // Looked at after it was opened: the name is that of the process held, or of nobody.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let process = (name.trim() == "hull-vmm").then_some(process)?;
    // A process's descriptor becomes readable at its end, as a pipe's does at its writer's.
    Receiver::from_owned_fd_unchecked(process).ok()
}
