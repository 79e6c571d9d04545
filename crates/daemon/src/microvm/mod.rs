//! One microVM: an actor that owns its record, and the handle to it.
//!
//! Invariants: the actor is the only writer of its state; a state is on disk before it is shown; a command is
//! judged by [`crate::admission`] alone.

mod actor;
mod agent;
mod control;
pub mod exec;
mod health;
pub mod log;
pub mod output;
mod run;
pub mod transfer;
mod vmm;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hull_protocol::agent::WindowSize;
use hull_protocol::api::{ExitStatus, Microvm as Record, State};
use tokio::sync::{mpsc, oneshot, watch};

use self::actor::Actor;
use self::exec::Execs;
use self::log::Log;
use self::output::Output;
pub(crate) use self::run::chain;
use self::transfer::{Transfer, TransferError};
use self::vmm::{Files, Vmm};
use crate::admission::{Ask, Verdict, admit};
use crate::clock::rfc3339;
use crate::fleet::Host;
use crate::plan::Resolved;
use crate::state::StateError;
use hull_protocol::transfer::Query;

/// How many commands wait for the actor.
const COMMANDS: usize = 32;

/// Why a microVM did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum MicrovmError {
    /// Not in this state.
    #[error("{0}")]
    Refused(&'static str),
    /// It is being removed.
    #[error("it is being removed")]
    Gone,
    /// The agent refused.
    #[error("{0}")]
    Agent(String),
    /// A question was not answered.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// It could not be remembered.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its files could not be removed.
    #[error("its files could not be removed")]
    Files(#[source] std::io::Error),
}

type Reply = oneshot::Sender<Result<(), MicrovmError>>;

enum Command {
    Start,
    Stop(Duration),
    Signal(i32),
    Resize(WindowSize),
    Delete(bool),
    /// Asks only whether it may be attached to.
    Attach,
}

impl Command {
    fn ask(&self) -> Ask {
        match self {
            Self::Start => Ask::Start,
            Self::Stop(_) => Ask::Stop,
            Self::Signal(_) => Ask::Signal,
            Self::Resize(_) => Ask::Resize,
            Self::Delete(force) => Ask::Delete(*force),
            Self::Attach => Ask::Attach,
        }
    }
}

/// The handle to a microVM's actor.
#[derive(Clone)]
pub struct Microvm {
    commands: mpsc::Sender<(Command, Reply)>,
    view: watch::Receiver<Record>,
    output: Arc<Output>,
    execs: Arc<Execs>,
    /// Where its guest is asked.
    vsock: Arc<std::path::Path>,
}

impl Microvm {
    /// Starts the actor of a microVM whose record is in the state already. Needs the runtime.
    pub fn spawn(host: Arc<Host>, record: Record, resolved: Resolved) -> Self {
        Self::spawn_with(host, record, resolved, None)
    }

    /// Starts the actor of a microVM that ran under an earlier daemon: what still runs goes on, and what does not has
    /// failed.
    pub fn resume(host: Arc<Host>, mut record: Record, resolved: Resolved) -> Self {
        match Vmm::adopt(&host, &record.id, record.vmm_pid) {
            Ok(vmm) => Self::spawn_with(host, record, resolved, Some(vmm)),
            Err(_) => {
                Files::new(&host, &record.id).forget_sockets();
                record.state = State::Failed;
                record.vmm_pid = None;
                record.ports.clear();
                record.finished_at = Some(rfc3339(SystemTime::now()));
                record.exit = Some(ExitStatus {
                    status: 125,
                    error: Some("it ended while no daemon ran: nobody saw how".into()),
                    reason: None,
                    oom_killed: false,
                });
                let microvm = Self::spawn_with(host.clone(), record, resolved, None);
                if let Err(error) = host.state.update(&microvm.record()) {
                    tracing::error!("microVM {}: {}", microvm.record().id, chain(&error));
                }
                microvm
            }
        }
    }

    fn spawn_with(host: Arc<Host>, record: Record, resolved: Resolved, adopted: Option<Vmm>) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let output = Arc::new(Output::new(Log::new(Files::new(&host, &record.id).data())));
        let vsock = Files::new(&host, &record.id).vsock().into();
        let execs = Arc::new(Execs::new(record.id.clone(), resolved.process.clone()));
        let streams = (output.clone(), execs.clone());
        let (actor, view) = Actor::new(host, record, resolved, streams, adopted);
        tokio::spawn(actor.live(inbox));
        Self { commands, view, output, execs, vsock }
    }

    /// Its record as of now.
    pub fn record(&self) -> Record {
        self.view.borrow().clone()
    }

    /// Its streams and its log.
    pub fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// The processes that run beside its own.
    pub fn execs(&self) -> &Arc<Execs> {
        &self.execs
    }

    /// Whether it may be reached into now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn may_exec(&self) -> Result<(), MicrovmError> {
        match admit(self.record().state, Ask::Exec) {
            Verdict::Refuse(why) => Err(MicrovmError::Refused(why)),
            Verdict::Go | Verdict::Done => Ok(()),
        }
    }

    /// Asks its agent for files or processes.
    ///
    /// # Errors
    /// When it does not run, or the agent refuses.
    pub async fn ask_for(&self, query: &Query) -> Result<Transfer, MicrovmError> {
        self.may_exec()?;
        Ok(Transfer::ask(&self.vsock, query).await?)
    }

    /// Starts it; returns when its process runs or has failed to.
    ///
    /// # Errors
    /// When it may not be started now. A start that fails is no error here: the record says how.
    pub async fn start(&self) -> Result<(), MicrovmError> {
        self.ask(Command::Start).await
    }

    /// Stops it: its stop signal, after `grace` SIGKILL; returns when it has stopped.
    ///
    /// # Errors
    /// When it is being removed.
    pub async fn stop(&self, grace: Duration) -> Result<(), MicrovmError> {
        self.ask(Command::Stop(grace)).await?;
        if self.record().state == State::Created {
            return Ok(());
        }
        self.wait().await.map(drop)
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(&self, number: i32) -> Result<(), MicrovmError> {
        self.ask(Command::Signal(number)).await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn resize(&self, size: WindowSize) -> Result<(), MicrovmError> {
        self.ask(Command::Resize(size)).await
    }

    /// Removes it, its disk and its log; `force`: even if it runs.
    ///
    /// # Errors
    /// When it runs, or its files cannot be removed.
    pub async fn delete(&self, force: bool) -> Result<(), MicrovmError> {
        self.ask(Command::Delete(force)).await
    }

    /// Whether it may be attached to now.
    ///
    /// # Errors
    /// When it may not.
    pub async fn may_attach(&self) -> Result<(), MicrovmError> {
        self.ask(Command::Attach).await
    }

    /// Waits until it has stopped or failed; at once when it has never run since.
    ///
    /// # Errors
    /// When it is removed without having run.
    pub async fn wait(&self) -> Result<ExitStatus, MicrovmError> {
        let mut view = self.view.clone();
        let ended = |record: &Record| matches!(record.state, State::Stopped | State::Failed);
        let record = view.wait_for(ended).await.map_err(|_| MicrovmError::Gone)?;
        record.exit.clone().ok_or(MicrovmError::Gone)
    }

    /// Whether it has been removed.
    pub fn is_gone(&self) -> bool {
        self.commands.is_closed()
    }

    async fn ask(&self, command: Command) -> Result<(), MicrovmError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| MicrovmError::Gone)?;
        answer.await.unwrap_or(Err(MicrovmError::Gone))
    }
}

/// Makes the directory of a new microVM.
pub(crate) fn make_directory(host: &Host, id: &str) -> std::io::Result<()> {
    Files::new(host, id).create()
}
