//! A process's standard streams: its pipes, and the pumps between them and the host's connections.
//!
//! Owner: the thread of the process. Invariant: a process has exactly the streams that its specification names.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use hull_protocol::agent::{AgentError, ProcessSpec, StreamKind};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::process::Place;
use crate::pump::Pump;
use crate::setup::failed;
use crate::stage;
use crate::streams::Offer;

/// The host's connections for a process, by stream.
pub(crate) type Connections = HashMap<StreamKind, Offer>;

/// The streams a process has.
fn kinds(spec: &ProcessSpec) -> Vec<StreamKind> {
    match (&spec.terminal, spec.stdin) {
        (Some(_), _) => vec![StreamKind::Terminal],
        (None, true) => vec![StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr],
        (None, false) => vec![StreamKind::Stdout, StreamKind::Stderr],
    }
}

/// Waits for the host's connections.
pub(crate) fn connect(place: &Place, spec: &ProcessSpec) -> Result<Connections, AgentError> {
    kinds(spec)
        .into_iter()
        .map(|kind| {
            let connection = place.streams.take(&spec.id, kind, 0, Some(place.stream_wait));
            let connection = connection
                .ok_or_else(|| failed("starting the process", format!("{kind:?} was not connected")))?;
            Ok((kind, connection))
        })
        .collect()
}

/// The agent's end of one of a process's streams.
pub(crate) enum End {
    Outward(StreamKind, File),
    Inward(StreamKind, File),
}

/// The command for the stage, with the process's ends of its pipes, and the agent's ends.
pub(crate) fn prepare(place: &Place, spec: &ProcessSpec) -> io::Result<(Command, Vec<End>)> {
    let mut command = Command::new(&place.stage);
    command.arg(stage::ARGUMENT).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut ends = Vec::new();
    if spec.terminal.is_some() {
        return Ok((command, ends));
    }
    if spec.stdin {
        let (theirs, ours) = io::pipe()?;
        command.stdin(theirs);
        ends.push(End::Inward(StreamKind::Stdin, OwnedFd::from(ours).into()));
    }
    let (ours, theirs) = io::pipe()?;
    command.stdout(theirs);
    ends.push(End::Outward(StreamKind::Stdout, OwnedFd::from(ours).into()));
    let (ours, theirs) = io::pipe()?;
    command.stderr(theirs);
    ends.push(End::Outward(StreamKind::Stderr, OwnedFd::from(ours).into()));
    Ok((command, ends))
}

/// The agent's two uses of its end of a terminal.
pub(crate) fn terminal_ends(terminal: &OwnedFd) -> io::Result<Vec<End>> {
    Ok(vec![
        End::Outward(StreamKind::Terminal, terminal.try_clone()?.into()),
        End::Inward(StreamKind::Terminal, terminal.try_clone()?.into()),
    ])
}

/// Starts the pumps; returns those whose end is the end of the output.
pub(crate) fn pump(
    place: &Place,
    spec: &ProcessSpec,
    ends: Vec<End>,
    connections: &Connections,
    over: &Arc<OwnedFd>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut outward = Vec::new();
    for end in ends {
        let (End::Outward(kind, file) | End::Inward(kind, file)) = &end;
        // Only this end: the process's own blocks as it expects.
        rustix::fs::fcntl_setfl(file, rustix::fs::fcntl_getfl(file)? | OFlags::NONBLOCK)?;
        let over = over.clone();
        let pump = Pump { streams: place.streams.clone(), process: spec.id.clone(), kind: *kind, over };
        let connection = connections.get(kind).ok_or(Errno::NOTCONN)?.clone();
        let thread = thread::Builder::new().name(format!("{kind:?}"));
        match end {
            End::Outward(_, source) => outward.push(thread.spawn(move || pump.outward(source, connection))?),
            End::Inward(_, sink) => drop(thread.spawn(move || pump.inward(connection, sink))?),
        }
    }
    Ok(outward)
}
