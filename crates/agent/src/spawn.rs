//! The start of the stage before a process: in its PID namespace, with its order, until it has become the process.
//!
//! Owner: the thread of the process. Invariant: what the stage reports is bounded; silence is success.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use command_fds::{CommandFdExt, FdMapping};
use hull_jail::namespaces::{self, Pids};
use hull_protocol::agent::AgentError;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::join;
use crate::setup::failed;
use crate::stage::{self, Stage};

/// The longest report of a stage that failed, in bytes.
const REPORT_MAX: usize = 16 << 10;

/// Starts a command as the stage: as the first process of a PID namespace, or in that of a container. Returns it and
/// the socket to it.
pub(crate) fn stage(mut command: Command, container: Option<OwnedFd>) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut mappings = vec![FdMapping { parent_fd: theirs.into(), child_fd: stage::SOCKET }];
    if let Some(container) = &container {
        mappings.push(FdMapping { parent_fd: container.try_clone()?, child_fd: join::CONTAINER });
    }
    command.fd_mappings(mappings).map_err(|error| io::Error::other(error.to_string()))?;
    // With the command go the process's ends of the pipes and of the socket.
    let pids = container.as_ref().map_or(Pids::New, |container| Pids::Of(container.as_fd()));
    let child = namespaces::start_in(pids, |entered| entered.and_then(|()| command.spawn()))?;
    Ok((child, ours))
}

/// Tells the stage what to become and waits until it has; the terminal, if it made one.
pub(crate) fn direct(socket: &UnixStream, stage: &Stage) -> Result<Option<OwnedFd>, AgentError> {
    let cannot = |error: io::Error| failed("starting the container", error);
    let order = serde_json::to_vec(stage).map_err(|error| cannot(error.into()))?;
    { socket }.write_all(&order).and_then(|()| socket.shutdown(std::net::Shutdown::Write)).map_err(cannot)?;
    let (mut terminal, mut report) = (None, Vec::new());
    loop {
        let mut bytes = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
                .map_err(|error| cannot(error.into()))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                terminal = descriptors.last().or(terminal);
            }
        }
        report.extend(bytes.get(..received.bytes).unwrap_or_default());
        if received.bytes == 0 || report.len() > REPORT_MAX {
            break;
        }
    }
    // The socket closes by itself when the stage becomes the process: silence is success.
    let text = report.strip_prefix(stage::TERMINAL_NOTE).unwrap_or(&report);
    if text.is_empty() {
        return Ok(terminal);
    }
    Err(serde_json::from_slice(text)
        .unwrap_or_else(|error| failed("the stage before the process broke off", error)))
}
