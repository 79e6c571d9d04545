//! One process of a container, from its start to its exit.
//!
//! Runs on a thread of its own: it starts the stage ([`crate::stage`]) as the first process of a PID namespace,
//! and the stage becomes the process. Invariant: the exit is told after the last byte of output has left.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use hull_jail::cgroup::Cgroup;
use hull_jail::namespaces;
use hull_protocol::agent::{AgentError, AgentErrorKind, ProcessExit, ProcessSpec, StreamKind, WindowSize};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::pump::Pump;
use crate::setup::failed;
use crate::signal;
use crate::stage::{self, Stage};
use crate::streams::{Offer, Streams};

/// The longest report of a stage that failed, in bytes.
const REPORT_MAX: usize = 16 << 10;

/// What a process is known by while it runs, and after.
#[derive(Default)]
pub(crate) struct Process {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    terminal: Option<OwnedFd>,
    exit: Option<ProcessExit>,
    /// The host has been sent its exit, if there is a host.
    told: bool,
}

#[derive(Default)]
enum Phase {
    /// Its streams are not connected yet, or its root is being made ready.
    #[default]
    Starting,
    /// It has not been reaped: its number is its own.
    Running(Pid),
    Ended,
}

/// What a start needs besides the process's own specification.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) hostname: String,
    pub(crate) cgroups: PathBuf,
    pub(crate) stage: PathBuf,
    pub(crate) streams: Arc<Streams>,
    /// How long the host may take to connect the streams it named.
    pub(crate) stream_wait: Duration,
}

/// A process that runs.
pub(crate) struct Running {
    child: Child,
    /// Those whose end is the end of the output.
    outward: Vec<JoinHandle<()>>,
    cgroup: Option<Cgroup>,
}

type Connections = HashMap<StreamKind, Offer>;

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its exit, once it has ended.
    pub(crate) fn exit(&self) -> Option<ProcessExit> {
        self.state().exit
    }

    /// Its exit has been sent to the host, if there is one.
    pub(crate) fn tell(&self) {
        self.state().told = true;
        self.changed.notify_all();
    }

    /// Waits until its exit has been sent; false after `limit`.
    pub(crate) fn told_within(&self, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), limit, |state| !state.told);
        waited.unwrap_or_else(PoisonError::into_inner).0.told
    }

    /// Sends a signal. One to a process that has ended is no error: it came too late.
    pub(crate) fn signal(&self, number: i32, group: bool) -> Result<(), AgentError> {
        let signal = signal::numbered(number)?;
        // Under the lock: it is not reaped meanwhile, so that its number cannot become another's.
        let state = self.state();
        let sent = match state.phase {
            Phase::Starting => {
                let message = "the process has not started yet".into();
                return Err(AgentError { kind: AgentErrorKind::Invalid, message });
            }
            Phase::Running(pid) if group => signal::send_to_all(pid, signal),
            Phase::Running(pid) => signal::send(pid, signal),
            Phase::Ended => Ok(()),
        };
        sent.map_err(|error| failed("sending the signal", error))
    }

    /// Sets its terminal's size.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<(), AgentError> {
        let set = self.state().terminal.as_ref().map_or(Ok(()), |terminal| set_size(terminal, size));
        set.map_err(|error| failed("setting the window size", error))
    }

    /// Starts it: comes back once it runs, or has failed to.
    pub(crate) fn start(&self, place: &Place, spec: &ProcessSpec) -> Result<Running, AgentError> {
        let cannot = |error: io::Error| failed("starting the container", error);
        let connections = connect(place, spec)?;
        // Without control groups the guest's own memory is the only limit.
        let cgroup = Cgroup::create(&place.cgroups, "container").ok();
        let (mut command, mut ends) = prepare(place, spec).map_err(cannot)?;
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        command
            .fd_mappings(vec![FdMapping { parent_fd: theirs.into(), child_fd: stage::SOCKET }])
            .map_err(|error| cannot(io::Error::other(error.to_string())))?;
        let mut child = first_of_namespace(&mut command).map_err(cannot)?;
        // It holds the process's ends of the pipes and of the socket: with it they close.
        drop(command);
        let stage = Stage {
            process: spec.clone(),
            root: place.root.clone(),
            read_only: place.read_only,
            hostname: place.hostname.clone(),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
        };
        let attached = direct(&ours, &stage).and_then(|terminal| {
            let ends = match &terminal {
                Some(terminal) => terminal_ends(terminal).map_err(cannot)?,
                None => std::mem::take(&mut ends),
            };
            let outward = pump(place, spec, ends, &connections).map_err(cannot)?;
            let mut state = self.state();
            state.phase = Phase::Running(pid(&child).ok_or_else(|| cannot(Errno::CHILD.into()))?);
            state.terminal = terminal;
            Ok(outward)
        });
        match attached {
            Ok(outward) => Ok(Running { child, outward, cgroup }),
            Err(error) => {
                let _killed = child.kill();
                let _reaped = child.wait();
                Err(error)
            }
        }
    }

    /// Waits for its end and for the last of its output.
    pub(crate) fn wait(&self, place: &Place, spec: &ProcessSpec, mut running: Running) -> ProcessExit {
        if let Some(pid) = pid(&running.child) {
            let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while ended().is_err_and(|error| error == Errno::INTR) {}
        }
        let status = {
            let mut state = self.state();
            state.phase = Phase::Ended;
            running.child.wait()
        };
        for pump in running.outward {
            let _its_panic_was_logged = pump.join();
        }
        place.streams.close(&spec.id);
        let oom_killed = running.cgroup.is_some_and(|cgroup| cgroup.oom_kills() > 0);
        let exit = ProcessExit { status: status.map_or(255, shell_status), oom_killed };
        let mut state = self.state();
        state.terminal = None;
        state.exit = Some(exit);
        exit
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// The status as a shell has it.
fn shell_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128))).unwrap_or(255)
}

fn set_size(terminal: &OwnedFd, size: WindowSize) -> rustix::io::Result<()> {
    tcsetwinsize(terminal, Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 })
}

/// The streams a process has.
fn kinds(spec: &ProcessSpec) -> Vec<StreamKind> {
    match (&spec.terminal, spec.stdin) {
        (Some(_), _) => vec![StreamKind::Terminal],
        (None, true) => vec![StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr],
        (None, false) => vec![StreamKind::Stdout, StreamKind::Stderr],
    }
}

fn connect(place: &Place, spec: &ProcessSpec) -> Result<Connections, AgentError> {
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
enum End {
    Outward(StreamKind, File),
    Inward(StreamKind, File),
}

/// The command for the stage, with the process's ends of its pipes, and the agent's ends.
fn prepare(place: &Place, spec: &ProcessSpec) -> io::Result<(Command, Vec<End>)> {
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

fn terminal_ends(terminal: &OwnedFd) -> io::Result<Vec<End>> {
    Ok(vec![
        End::Outward(StreamKind::Terminal, terminal.try_clone()?.into()),
        End::Inward(StreamKind::Terminal, terminal.try_clone()?.into()),
    ])
}

/// Starts a command as the first process of a PID namespace. The namespace is set for a thread, which could
/// start no threads afterwards, so it is one that does nothing else.
fn first_of_namespace(command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
            namespaces::new_pids_for_children()?;
            command.spawn()
        })?;
        spawned.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    })
}

/// Tells the stage what to become and waits until it has; the terminal, if it made one.
fn direct(socket: &UnixStream, stage: &Stage) -> Result<Option<OwnedFd>, AgentError> {
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

/// Starts the pumps; returns those whose end is the end of the output.
fn pump(
    place: &Place,
    spec: &ProcessSpec,
    ends: Vec<End>,
    connections: &Connections,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut outward = Vec::new();
    for end in ends {
        let (End::Outward(kind, _) | End::Inward(kind, _)) = &end;
        let pump = Pump { streams: place.streams.clone(), process: spec.id.clone(), kind: *kind };
        let connection = connections.get(kind).ok_or(Errno::NOTCONN)?.clone();
        let thread = thread::Builder::new().name(format!("{kind:?}"));
        match end {
            End::Outward(_, source) => outward.push(thread.spawn(move || pump.outward(source, connection))?),
            End::Inward(_, sink) => drop(thread.spawn(move || pump.inward(connection, sink))?),
        }
    }
    Ok(outward)
}
