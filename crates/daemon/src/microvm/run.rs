//! One run of a microVM: from the start of its VMM to the end of it.
//!
//! A task of its own, watched by the actor. Invariant: whatever happens, when it returns the VMM has ended and its
//! sockets are gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hull_protocol::agent::{
    AgentError, AgentErrorKind, Command, Event, ProcessExit, ProcessSpec, ProcessState, Secret, Setup,
    StreamKind, VolumeDisk, WindowSize, volume_serial,
};
use hull_protocol::api::{ExitStatus, Microvm as Record, Network, VolumeUse};
use hull_protocol::control::Command::PowerButton as Press;
use hull_protocol::exit::ExitReason;
use hull_protocol::health::Health;
use hull_protocol::network::PublishedPort;
use hull_protocol::stream::{Kind, PAYLOAD_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::agent::{Agent, connect_stream, lost};
use super::control::{Control, STATUS};
use super::exec::{Execs, Session};
use super::health;
use super::output::{Input, Output};
use super::turns::Turn;
use super::vmm::{Files, Parts, StartError, Vmm};
use crate::clock::unix_ns;
use crate::fleet::Host;
use crate::metrics::boot::{Boot, Phase};
use crate::network::guest;
use crate::network::host::networks_of;
use crate::plan::Resolved;
use crate::secrets::{SecretError, Secrets};
use crate::trace;

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

    /// Waits until it may boot; nothing when it is killed before.
    async fn turn(&mut self) -> Option<Turn> {
        let (turns, kill) = (self.host.clone(), self.kill.clone());
        let turn = tokio::select! {
            turn = turns.turns.take(&self.record.tenant) => Some(turn),
            () = kill.notified() => None,
        };
        self.reached(Phase::Turn, Instant::now());
        turn
    }

    /// Starts the VMM; the ports of the host that lead to it.
    async fn start(&mut self) -> Result<(Vmm, Option<Vec<PublishedPort>>), StartError> {
        let attached = self.host.networks.attach(&self.host.state, &self.record).await?;
        self.reached(Phase::Network, Instant::now());
        let ports = attached.ports.clone();
        self.networks = attached.networks.clone();
        let record = self.record.clone();
        let (host, id, image) = (self.host.clone(), self.id.clone(), self.image.clone());
        let (kernel, resolved) = (self.kernel.clone(), self.resolved.clone());
        let runtime = tokio::runtime::Handle::current();
        let started = trace::spawn_blocking(move || {
            let _watching_needs_it = runtime.enter();
            let parts = Parts { record: &record, resolved: &resolved, attached };
            Vmm::start(&host, &id, &image, kernel.as_deref(), parts)
        });
        let vmm = started.await.unwrap_or_else(|error| {
            Err(StartError::Io("the microVM".into(), std::io::Error::other(error.to_string())))
        })?;
        self.reached(Phase::Prepare, vmm.started().unwrap_or_else(Instant::now));
        Ok((vmm, Some(ports)))
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

    /// The guest's agent, as soon as it is ready.
    async fn meet(&mut self, files: &Files) -> Result<Agent, RunError> {
        let control = self.boot.as_ref().and(self.control.clone());
        let mut connecting = pin!(async {
            let connected = tokio::time::timeout(BOOT_WAIT, Agent::connect(&files.vsock())).await;
            Ok::<_, RunError>(connected.map_err(|_| RunError::Silent(files.last_words()))??)
        });
        let agent = tokio::select! {
            agent = connecting.as_mut() => Some(agent?),
            () = answered(control) => None,
        };
        self.reached(Phase::Vmm, Instant::now());
        let agent = match agent {
            Some(agent) => agent,
            None => connecting.await?,
        };
        self.reached(Phase::Guest, Instant::now());
        self.turn = None;
        Ok(agent)
    }

    /// Sets the guest up and starts its process.
    async fn begin(
        &mut self,
        agent: &mut Agent,
        files: &Files,
        process: &ProcessSpec,
    ) -> Result<JoinSet<()>, RunError> {
        agent.request(Command::Setup(Box::new(self.setup()))).await?;
        self.give_secrets(agent).await?;
        self.reached(Phase::Setup, Instant::now());
        let started = agent.ask(Command::Start(Box::new(process.clone()))).await;
        let pumps = self.connect(files, process).await?;
        match started.await {
            Ok(Err(error)) => Err(error.into()),
            _ => {
                self.reached(Phase::Process, Instant::now());
                Ok(pumps)
            }
        }
    }

    /// Hands the container's secrets to the agent.
    async fn give_secrets(&self, agent: &mut Agent) -> Result<(), RunError> {
        let secrets = Secrets::of(&self.host.paths, &self.id);
        for (plan, number) in self.resolved.mounts.secrets.iter().zip(0..) {
            let value = secrets.read(&plan.name)?;
            let secret = Secret { number, mode: plan.mode, uid: plan.uid, gid: plan.gid, value };
            agent.request(Command::Secret(Box::new(secret))).await?;
        }
        Ok(())
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

    fn setup(&self) -> Setup {
        let (cards, networking) = (&self.record.cards, &self.record.spec.networking);
        Setup {
            time_unix_ns: unix_ns(),
            hostname: self.resolved.hostname.clone(),
            read_only: self.resolved.read_only,
            data_disk: true,
            hosts: guest::hosts(&self.resolved.hostname, cards, networking),
            resolv_conf: guest::resolv_conf(&self.networks, networking),
            interfaces: guest::interfaces(cards, &self.networks),
            volumes: volumes(&self.record),
            mounts: self.resolved.mounts.mounts.clone(),
            processes_max: self.resolved.limits.processes.map(u32::from),
        }
    }

    /// Connects the process's streams; returns the tasks that end with its output.
    async fn connect(&self, files: &Files, process: &ProcessSpec) -> Result<JoinSet<()>, RunError> {
        let vsock = files.vsock();
        let connect = async |kind| connect_stream(&vsock, &process.id, kind).await;
        let mut outward = JoinSet::new();
        if process.terminal.is_some() {
            let (source, sink) = connect(StreamKind::Terminal).await?.into_split();
            outward.spawn(carry_out(source, Kind::Stdout, self.output.clone()));
            tokio::spawn(carry_in(self.output.take_input(), sink));
            return Ok(outward);
        }
        if process.stdin {
            let (source, sink) = connect(StreamKind::Stdin).await?.into_split();
            let input = self.output.take_input();
            tokio::spawn(async move {
                carry_in(input, sink).await;
                drop(source);
            });
        }
        for (kind, shown) in [(StreamKind::Stdout, Kind::Stdout), (StreamKind::Stderr, Kind::Stderr)] {
            let (source, sink) = connect(kind).await?.into_split();
            let output = self.output.clone();
            outward.spawn(async move {
                carry_out(source, shown, output).await;
                drop(sink);
            });
        }
        Ok(outward)
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

/// Returns when a VMM has answered for the first time: its machine runs then.
async fn answered(control: Option<Control>) {
    match control {
        Some(control) if control.ask(STATUS).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// The disks of its volumes.
fn volumes(record: &Record) -> Vec<VolumeDisk> {
    let disk = |(place, volume): (usize, &VolumeUse)| VolumeDisk {
        serial: volume_serial(place),
        name: volume.name.clone(),
        read_only: volume.read_only,
    };
    record.volumes.iter().enumerate().map(disk).collect()
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

async fn carry_out(mut source: OwnedReadHalf, kind: Kind, output: Arc<Output>) {
    let mut chunk = vec![0; PAYLOAD_MAX];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        output.publish(kind, Bytes::copy_from_slice(chunk.get(..length).unwrap_or_default())).await;
    }
}

/// Passes input on to a process, to its end or the process's.
pub(super) async fn carry_in(mut input: mpsc::Receiver<Input>, mut sink: OwnedWriteHalf) {
    while let Some(Input::Bytes(bytes)) = input.recv().await {
        if sink.write_all(&bytes).await.is_err() {
            // The process has closed its input; what is still sent is dropped, as a shell's pipe would.
            break;
        }
    }
    let _gone_already = sink.shutdown().await;
    while input.recv().await.is_some() {}
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
