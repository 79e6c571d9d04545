//! One process of a container, from its start to its exit.
//!
//! Runs on a thread of its own: it starts the stage ([`crate::stage`]) as the first process of a PID namespace, or in
//! that of a container, and the stage becomes the process. Invariants: the exit is told after the last byte that the
//! process wrote has left; a process that has ended is reaped whatever its output waits for, since a container's first
//! process ends only when all others have been.

use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hull_jail::cgroup::Cgroup;
use hull_protocol::agent::{AgentError, AgentErrorKind, Mount, ProcessExit, ProcessSpec, WindowSize};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::setup::failed;
use crate::stage::Stage;
use crate::streams::Streams;
use crate::{plumbing, signal, spawn};

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
    pub(crate) mounts: Vec<Mount>,
    pub(crate) cgroups: PathBuf,
    /// The most processes that the container may have.
    pub(crate) processes_max: Option<u32>,
    pub(crate) stage: PathBuf,
    pub(crate) streams: Arc<Streams>,
    /// How long the host may take to connect the streams it named.
    pub(crate) stream_wait: Duration,
}

/// Holds a container to so many processes: one that cannot be held does not start.
fn limit(cgroup: Option<&Cgroup>, most: u32) -> Result<(), AgentError> {
    let none = || io::Error::from(io::ErrorKind::Unsupported);
    let done = cgroup.ok_or_else(none).and_then(|cgroup| cgroup.limit_processes(most));
    done.map_err(|error| failed("limiting the number of processes", error))
}

/// A process that runs.
pub(crate) struct Running {
    child: Child,
    /// Those whose end is the end of the output.
    outward: Vec<JoinHandle<()>>,
    cgroup: Option<Cgroup>,
    /// How many processes the container had lost for lack of memory at the start.
    oom_kills: u64,
    /// Closed when it has ended, which the pumps see.
    not_over: PipeWriter,
}

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

    /// Its number, while it runs. It may be another's by the time it is used.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.state().phase {
            Phase::Running(pid) => Some(pid),
            Phase::Starting | Phase::Ended => None,
        }
    }

    /// A descriptor of it, for who joins its namespaces: it means this process even when its number is another's.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, AgentError> {
        let refused =
            |message: &str| Err(AgentError { kind: AgentErrorKind::Invalid, message: message.into() });
        // Under the lock: it is not reaped meanwhile.
        match self.state().phase {
            Phase::Starting => refused("the container's process has not started yet"),
            Phase::Ended => refused("the container's process has ended"),
            Phase::Running(pid) => pidfd_open(pid, PidfdFlags::empty())
                .map_err(|error| failed("finding the container's process", error)),
        }
    }

    /// Starts it: comes back once it runs, or has failed to. With a container, it joins that; else it is the first of
    /// one of its own.
    pub(crate) fn start(
        &self,
        place: &Place,
        spec: &ProcessSpec,
        container: Option<OwnedFd>,
    ) -> Result<Running, AgentError> {
        let cannot = |error: io::Error| failed("starting the process", error);
        let connections = plumbing::connect(place, spec)?;
        // Without control groups the guest's own memory is the only limit.
        let cgroup = Cgroup::create(&place.cgroups, "container").ok();
        if let Some(most) = place.processes_max {
            limit(cgroup.as_ref(), most)?;
        }
        let stage = Stage {
            process: spec.clone(),
            root: place.root.clone(),
            read_only: place.read_only,
            hostname: place.hostname.clone(),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            mounts: if container.is_some() { Vec::new() } else { place.mounts.clone() },
            joins: container.is_some(),
        };
        let oom_kills = cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        let (over, not_over) = io::pipe().map_err(cannot)?;
        let over = Arc::new(OwnedFd::from(over));
        let (command, mut ends) = plumbing::prepare(place, spec).map_err(cannot)?;
        let (mut child, socket) = spawn::stage(command, container).map_err(cannot)?;
        let attached = spawn::direct(&socket, &stage).and_then(|terminal| {
            let ends = match &terminal {
                Some(terminal) => plumbing::terminal_ends(terminal).map_err(cannot)?,
                None => std::mem::take(&mut ends),
            };
            let outward = plumbing::pump(place, spec, ends, &connections, &over).map_err(cannot)?;
            let mut state = self.state();
            state.phase = Phase::Running(pid(&child).ok_or_else(|| cannot(Errno::CHILD.into()))?);
            state.terminal = terminal;
            Ok(outward)
        });
        match attached {
            Ok(outward) => Ok(Running { child, outward, cgroup, oom_kills, not_over }),
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
        drop(running.not_over);
        for pump in running.outward {
            let _its_panic_was_logged = pump.join();
        }
        place.streams.close(&spec.id);
        let oom_killed = running.cgroup.is_some_and(|cgroup| cgroup.oom_kills() > running.oom_kills);
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
