//! One run of a microVM: from the start of its VMM to the end of it.
//!
//! A task of its own, watched by the actor. Invariant: whatever happens, when it returns the VMM has ended and its
//! sockets are gone.

mod boot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_protocol::agent::{
    AgentError, AgentErrorKind, Command, Event, ProcessExit, ProcessState, WindowSize,
};
use hull_protocol::api::{ExitStatus, Microvm as Record, Network};
use hull_protocol::control::Command::PowerButton as Press;
use hull_protocol::exit::ExitReason;
use hull_protocol::health::Health;
use hull_protocol::network::PublishedPort;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub(super) use self::boot::carry_in;
use super::agent::{Agent, lost};
use super::control::Control;
use super::exec::{Execs, Session};
use super::health;
use super::output::Output;
use super::turns::Turn;
use super::vmm::{Files, StartError, Vmm};
use crate::clock::unix_ns;
use crate::fleet::Host;
use crate::metrics::boot::{Boot, Phase};
use crate::network::host::networks_of;
use crate::plan::Resolved;
use crate::secrets::SecretError;

/// How long a guest may take to its agent. Emulated hosts are slow; a guest that hangs is told from its console.
const BOOT_WAIT: Duration = Duration::from_secs(180);
/// How long an orderly power-off may take.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);
/// How long a guest whose connection broke may take to be seen as dead.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);
/// How long a killed process may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(20);
/// How long one may take before the guest's power button is pressed.
const PRESS_WAIT: Duration = Duration::from_secs(5);

/// What a run can be told while it runs.
#[derive(Debug)]
pub(super) enum Order {
    Signal(i32, oneshot::Sender<Result<(), AgentError>>),
    Resize(WindowSize),
    /// The disk with this id has grown to so many bytes.
    Grow(String, u64, oneshot::Sender<Result<(), AgentError>>),
    /// The stop signal, and how long until it is killed.
    Stop(Duration),
    /// It was paused: its clock stood still.
    Resumed,
}

/// What a run tells.
#[derive(Debug)]
pub(super) enum Told {
    /// The VMM runs.
    Started {
        /// Its process id.
        pid: Option<u32>,
        /// Its control socket.
        control: Option<Control>,
        /// The ports of the host that lead to it; none: an earlier daemon has started it.
        ports: Option<Vec<PublishedPort>>,
    },
    /// The process runs, on this kernel.
    Running(String),
    /// What the health checks say by now.
    Health(Health),
}

/// What is to be run.
pub(super) struct Run {
    pub(super) host: Arc<Host>,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) kernel: Option<String>,
    pub(super) resolved: Resolved,
    /// As it was when the run began.
    pub(super) record: Record,
    /// How far its start has come; none where an earlier daemon has started it.
    pub(super) boot: Option<Boot>,
    pub(super) output: Arc<Output>,
    pub(super) execs: Arc<Execs>,
    /// What an earlier daemon's checks came to.
    pub(super) health: Option<Health>,
    /// Its networks, once it has its cards.
    pub(super) networks: Vec<Network>,
    /// A VMM that runs already, under an earlier daemon.
    pub(super) adopted: Option<Vmm>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Ends it at once.
    pub(super) kill: Arc<Notify>,
    /// Whether it is paused.
    pub(super) paused: watch::Receiver<bool>,
    pub(super) told: mpsc::Sender<Told>,
    /// Its VMM's control socket, once there is one.
    pub(super) control: Option<Control>,
    /// Until its guest has booted.
    pub(super) turn: Option<Turn>,
}

/// Why a container did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the guest did not answer within {BOOT_WAIT:?}; its console says: {0}")]
    Silent(String),
    #[error("the connection to the guest failed")]
    Io(#[from] std::io::Error),
    #[error("{reason}; it said last: {words}", reason = describe(*.reason))]
    VmmEnded { reason: Option<ExitReason>, words: String },
    #[error("killed")]
    Killed,
}

/// What is said of a VMM that ended and gave no reason.
const NO_REASON: &str =
    "its VMM gave no reason: it was killed by the host, whose kernel's log may say why, or could not begin";

fn describe(reason: Option<ExitReason>) -> String {
    reason.map_or_else(|| NO_REASON.to_owned(), |reason| reason.to_string())
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

impl Run {
    /// Runs it to its end; how it ended, and whether that was its own process's end.
    pub(super) async fn run(mut self) -> (ExitStatus, bool) {
        let files = Files::new(&self.host, &self.id);
        let vmm = match self.adopted.take() {
            Some(vmm) => {
                self.networks = networks_of(&self.host.state, &self.record.cards).unwrap_or_default();
                Ok((vmm, None))
            }
            None => match self.turn().await {
                Some(turn) => {
                    self.turn = Some(turn);
                    self.start().await.map_err(RunError::from)
                }
                None => Err(RunError::Killed),
            },
        };
        if let Ok((vmm, ports)) = &vmm {
            self.control = vmm.control();
            let paused = *self.paused.borrow();
            vmm.agree(paused).await;
            self.tell(Told::Started { pid: vmm.pid(), control: vmm.control(), ports: ports.clone() }).await;
        }
        let ended = match vmm {
            Ok((mut vmm, _)) => {
                let ended = self.attend(&mut vmm).await;
                if ended.is_err() {
                    vmm.kill().await;
                }
                ended
            }
            Err(error) => Err(error),
        };
        self.turn = None;
        if let Err(error) = &ended {
            tracing::warn!("the microVM's run failed: {}", chain(error));
        }
        self.execs.lost();
        files.forget_sockets();
        self.host.networks.detach(&self.id).await;
        let group = self.host.groups.group(&self.id);
        let _it_waits_for_the_kernel = tokio::task::spawn_blocking(move || group.remove()).await;
        match ended {
            Ok((exit, reason)) => {
                (ExitStatus { status: exit.status, error: None, reason, oom_killed: exit.oom_killed }, true)
            }
            Err(error) => (failure(&error), matches!(error, RunError::Killed)),
        }
    }

    /// Its start had this phase behind it then.
    fn reached(&mut self, phase: Phase, then: Instant) {
        if let Some(boot) = &mut self.boot {
            boot.done(phase, then);
        }
    }

    async fn tell(&self, told: Told) {
        let _the_actor_has_gone = self.told.send(told).await;
    }

    /// Attends to a VMM until both its process and it have ended.
    async fn attend(&mut self, vmm: &mut Vmm) -> Result<(ProcessExit, Option<ExitReason>), RunError> {
        let (kill, files) = (self.kill.clone(), vmm.files().clone());
        let outcome = tokio::select! {
            outcome = self.converse(&files) => outcome,
            reason = vmm.ended() => Err(RunError::VmmEnded { reason, words: files.last_words() }),
            () = kill.notified() => Err(RunError::Killed),
        };
        let outcome = match outcome {
            // A guest that dies takes its agent's connection along: why it died says more.
            Err(RunError::Io(error)) => match tokio::time::timeout(LAST_WORDS_WAIT, vmm.ended()).await {
                Ok(reason) => Err(RunError::VmmEnded { reason, words: files.last_words() }),
                Err(_) => Err(error.into()),
            },
            outcome => outcome,
        };
        let (exit, mut agent) = outcome?;
        let _its_end_is_the_answer = agent.ask(Command::Shutdown { grace_ms: 0 }).await;
        let reason = tokio::select! {
            reason = tokio::time::timeout(SHUTDOWN_WAIT, vmm.ended()) => reason.ok(),
            () = kill.notified() => None,
        };
        if reason.is_none() {
            // The process has ended and its output is whole: only the guest's own farewell is missing.
            vmm.kill().await;
        }
        Ok((exit, reason.flatten()))
    }

    /// Speaks with the guest's agent until the process has ended and its output is out.
    async fn converse(&mut self, files: &Files) -> Result<(ProcessExit, Agent), RunError> {
        // One that an earlier daemon left paused does not answer.
        drop(self.paused.wait_for(|paused| !*paused).await);
        let mut agent = self.meet(files).await?;
        let process = self.resolved.process.clone();
        let known = agent.ready.processes.iter().find(|known| known.id == process.id).cloned();
        let pumps = match known {
            // It ended while no daemon was there, its output taken by the last one.
            Some(ProcessState { exit: Some(exit), .. }) => return Ok((exit, agent)),
            Some(_) => self.connect(files, &process).await?,
            None => self.begin(&mut agent, files, &process).await?,
        };
        self.execs.connected(Session::new(agent.caller(), files.vsock()), &agent.ready.processes);
        self.tell(Told::Running(agent.ready.kernel.clone())).await;
        let plan = self.resolved.health.clone();
        let (execs, paused) = (self.execs.clone(), self.paused.clone());
        let checks = health::watch(plan, self.health.take(), execs, paused, self.told.clone());
        let exit = self.follow(&mut agent, &process.id).await?;
        drop(checks);
        self.execs.lost();
        self.drain(pumps).await;
        Ok((exit, agent))
    }

    /// Waits until every byte of output is out; not for ever when it is told to stop meanwhile, because a client
    /// that does not read, or a guest that lies, could keep it.
    async fn drain(&mut self, mut pumps: JoinSet<()>) {
        let mut deadline = None;
        loop {
            tokio::select! {
                ended = pumps.join_next() => if ended.is_none() { return },
                Some(order) = self.orders.recv() => match order {
                    Order::Stop(grace) => deadline = Some(tokio::time::Instant::now() + grace),
                    Order::Signal(_, done) | Order::Grow(_, _, done) => drop(done.send(Ok(()))),
                    Order::Resize(_) | Order::Resumed => {}
                },
                () = at(deadline) => return,
            }
        }
    }

    /// Obeys orders until the process has ended.
    async fn follow(&mut self, agent: &mut Agent, process: &str) -> Result<ProcessExit, RunError> {
        let mut deadline = None;
        loop {
            tokio::select! {
                event = agent.events.recv() => match event {
                    Some(Event::Exited { process: ended, exit }) if ended == process => return Ok(exit),
                    Some(Event::Exited { process: ended, exit }) => self.execs.ended(&ended, exit),
                    None => {
                        let error = std::io::Error::other("the guest's agent closed its connection");
                        return Err(error.into());
                    }
                },
                Some(order) = self.orders.recv() => {
                    if let Some(grace) = obey(agent, process, self.resolved.stop_signal, order).await {
                        deadline = Some(tokio::time::Instant::now() + grace);
                    }
                }
                () = at(deadline) => {
                    let kill = Command::Signal { process: process.to_owned(), signal: 9, group: false };
                    let _its_exit_is_the_answer = agent.ask(kill).await;
                    deadline = None;
                    tokio::spawn(end(self.control.clone(), self.kill.clone()));
                }
            }
        }
    }
}

/// Ends a VM whose process does not: by its power button, then for good.
async fn end(control: Option<Control>, kill: Arc<Notify>) {
    tokio::time::sleep(PRESS_WAIT).await;
    if let Some(control) = control {
        let _last_resort_follows = control.ask(Press).await;
    }
    tokio::time::sleep(KILL_WAIT).await;
    kill.notify_one();
}

/// Sleeps until then; for ever when there is no such time.
async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Obeys one order; returns how long a stop may take from here on.
async fn obey(agent: &mut Agent, process: &str, stop_signal: i32, order: Order) -> Option<Duration> {
    let process = process.to_owned();
    match order {
        Order::Signal(signal, done) => {
            let answer = agent.ask(Command::Signal { process, signal, group: false }).await;
            tokio::spawn(async move {
                let _nobody_waits = done.send(answer.await.unwrap_or(Ok(())));
            });
            None
        }
        Order::Resize(size) => {
            let _best_effort = agent.ask(Command::Resize { process, size }).await;
            None
        }
        Order::Grow(serial, size, done) => {
            let answer = agent.ask(Command::Grow { serial, size }).await;
            tokio::spawn(async move {
                let _nobody_waits = done.send(answer.await.unwrap_or_else(|_| Err(lost())));
            });
            None
        }
        Order::Resumed => {
            let _best_effort = agent.ask(Command::SetTime(unix_ns())).await;
            None
        }
        Order::Stop(grace) => {
            let _its_exit_is_the_answer =
                agent.ask(Command::Signal { process, signal: stop_signal, group: false }).await;
            Some(grace)
        }
    }
}

/// How a failure looks to whoever waits: Docker's statuses.
fn failure(error: &RunError) -> ExitStatus {
    let (status, reason) = match error {
        RunError::Agent(AgentError { kind: AgentErrorKind::NotFound, .. }) => (127, None),
        RunError::Agent(AgentError { kind: AgentErrorKind::NotExecutable, .. }) => (126, None),
        RunError::Killed => (137, Some(ExitReason::Killed)),
        RunError::VmmEnded { reason, .. } => (125, *reason),
        _ => (125, None),
    };
    ExitStatus { status, error: Some(chain(error)), reason, oom_killed: false }
}
