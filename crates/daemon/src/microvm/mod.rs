//! One microVM: an actor that owns its record, and the handle to it.
//!
//! Invariants: the actor is the only writer of its state; a state is on disk before it is shown; a command is
//! judged by [`crate::admission`] alone.

mod actor;
mod agent;
mod change;
pub mod console;
mod control;
pub mod exec;
mod health;
pub mod log;
pub mod output;
mod restart;
mod run;
pub mod transfer;
pub mod turns;
mod vmm;

use std::sync::Arc;
use std::time::Duration;

use hull_protocol::agent::WindowSize;
use hull_protocol::api::{ExitStatus, Microvm as Record, State};
use hull_protocol::life::MicrovmPatch;
use hull_protocol::trace::TraceId;
use hull_protocol::units::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use self::actor::Actor;
use self::console::Reader;
use self::exec::Execs;
use self::log::Log;
use self::output::Output;
pub(crate) use self::run::chain;
use self::transfer::{Transfer, TransferError};
use self::vmm::{Files, Vmm};
use crate::admission::{Ask, Verdict, admit};
use crate::capacity::OverCapacity;
use crate::fleet::Host;
use crate::plan::Resolved;
use crate::secrets::SecretError;
use crate::space::NoSpace;
use crate::state::StateError;
use crate::tenants::quota::OverQuota;
use crate::trace;
use crate::volumes::holders::Held;
use hull_protocol::secret::SecretValue;
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
    /// The host has no room for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A name that none can have.
    #[error(transparent)]
    Name(#[from] crate::fleet::BadName),
    /// Somebody else has changed it.
    #[error("it has changed since: it is at revision {0} now; look at it again")]
    Changed(u64),
    /// Its VMM did not do as asked.
    #[error("its VMM did not obey")]
    Vmm(#[source] std::io::Error),
    /// A limit is kept from now on, but not by what runs.
    #[error("it has been changed, but the host does not enforce the new limits before its next start")]
    Limit(#[source] std::io::Error),
    /// The agent refused.
    #[error("{0}")]
    Agent(String),
    /// A question was not answered.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A secret has no value, or cannot be given one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It could not be remembered.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its files could not be removed.
    #[error("it is gone, but its files could not be removed: the next daemon tries again")]
    Files(#[source] std::io::Error),
}

/// Why a host cannot have one more running microVM now.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// It has promised its memory or processors already.
    #[error(transparent)]
    Capacity(#[from] OverCapacity),
    /// Its disk is full.
    #[error(transparent)]
    Space(#[from] NoSpace),
    /// One of these, for those who are not to know how much of it there is.
    #[error("the host has no room for it now: ask for less, or try again later")]
    Full,
    /// Its tenant runs as much as it may.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// Another one has its volume.
    #[error(transparent)]
    Held(#[from] Held),
}

/// Who has asked for something.
struct Reply {
    to: oneshot::Sender<Result<(), MicrovmError>>,
    /// In which trace.
    trace: Option<TraceId>,
}

enum Command {
    Start,
    Stop(Duration),
    Signal(i32),
    Resize(WindowSize),
    Pause,
    Unpause,
    Restart(Duration),
    Update(Box<MicrovmPatch>, Option<u64>),
    /// A volume of this id is so large now.
    Grow(String, Bytes),
    /// A secret of this name has this value, or none any more.
    Secret(String, Option<SecretValue>),
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
            Self::Pause => Ask::Pause,
            Self::Unpause => Ask::Unpause,
            Self::Restart(_) => Ask::Restart,
            Self::Update(..) => Ask::Update,
            Self::Grow(..) => Ask::Grow,
            Self::Secret(..) => Ask::Secret,
            Self::Delete(force) => Ask::Delete(*force),
            Self::Attach => Ask::Attach,
        }
    }
}

/// The handle to a microVM's actor.
#[derive(Clone)]
pub struct Microvm {
    tenant: Arc<str>,
    commands: mpsc::Sender<(Command, Reply)>,
    view: watch::Receiver<Record>,
    output: Arc<Output>,
    execs: Arc<Execs>,
    /// Where its guest is asked.
    vsock: Arc<std::path::Path>,
    /// What its guest wrote on its console.
    console: Arc<std::path::Path>,
}

impl Microvm {
    /// Starts the actor of a microVM whose record is in the state already. Needs the runtime.
    pub fn spawn(host: Arc<Host>, record: Record, resolved: Resolved) -> Self {
        Self::spawn_with(host, record, resolved, None)
    }

    /// Starts the actor of a microVM that ran under an earlier daemon: what still runs goes on, and what does not has
    /// failed, and is started again where its restart policy says so.
    pub fn resume(host: Arc<Host>, mut record: Record, resolved: Resolved) -> Self {
        match Vmm::adopt(&host, &record.id, record.vmm_pid) {
            Ok(vmm) => Self::spawn_with(host, record, resolved, Some(vmm)),
            Err(error) => {
                vmm::lost(&host, &mut record, &error);
                if let Err(error) = host.state.update(&record) {
                    tracing::error!("microVM {}: {}", record.id, chain(&error));
                }
                Self::spawn_with(host, record, resolved, None)
            }
        }
    }

    fn spawn_with(host: Arc<Host>, record: Record, resolved: Resolved, adopted: Option<Vmm>) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let files = Files::new(&host, &record.id);
        let (vsock, console) = (files.vsock().into(), files.console().into());
        let output = Arc::new(Output::new(Log::new(files.data())));
        let execs = Arc::new(Execs::new(record.id.clone(), resolved.process.clone()));
        let streams = (output.clone(), execs.clone());
        let tenant = record.tenant.as_str().into();
        let (actor, view) = Actor::new(host, record, resolved, streams, adopted);
        tokio::spawn(actor.live(inbox));
        Self { tenant, commands, view, output, execs, vsock, console }
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Its record as of now.
    pub fn record(&self) -> Record {
        self.view.borrow().clone()
    }

    /// Its streams and its log.
    pub fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// A reader of what its guest writes on its console.
    pub fn console(&self) -> Reader {
        Reader::new(self.console.clone())
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

    /// Stops it in place: no instruction of the guest is executed until it goes on.
    ///
    /// # Errors
    /// When it does not run, or its VMM does not obey.
    pub async fn pause(&self) -> Result<(), MicrovmError> {
        self.ask(Command::Pause).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is not paused, or its VMM does not obey.
    pub async fn unpause(&self) -> Result<(), MicrovmError> {
        self.ask(Command::Unpause).await
    }

    /// Stops it, if it runs, and starts it again; returns when its process runs or has failed to.
    ///
    /// # Errors
    /// When it is being removed, or the host cannot have it any more.
    pub async fn restart(&self, grace: Duration) -> Result<(), MicrovmError> {
        self.ask(Command::Restart(grace)).await
    }

    /// Changes its name, labels, limits or restart policy; with `revision`, only if it is at that one.
    ///
    /// # Errors
    /// When the name is taken, or it is at another revision.
    pub async fn update(&self, patch: MicrovmPatch, revision: Option<u64>) -> Result<(), MicrovmError> {
        self.ask(Command::Update(Box::new(patch), revision)).await
    }

    /// Whether it may be told now that a volume has grown.
    ///
    /// # Errors
    /// When it cannot hear it, and would not see it by itself either.
    pub fn may_grow(&self) -> Result<(), MicrovmError> {
        match admit(self.record().state, Ask::Grow) {
            Verdict::Refuse(why) => Err(MicrovmError::Refused(why)),
            Verdict::Go | Verdict::Done => Ok(()),
        }
    }

    /// Has its guest see that a volume is larger now, and grow the file system on it.
    ///
    /// # Errors
    /// When the guest does not: it sees it at its next start.
    pub async fn grow(&self, volume: &str, size: Bytes) -> Result<(), MicrovmError> {
        self.ask(Command::Grow(volume.to_owned(), size)).await
    }

    /// Gives a secret that it was made with a value, or takes that from it. What runs keeps what it has.
    ///
    /// # Errors
    /// When it has no such secret, or the host cannot keep it.
    pub async fn set_secret(&self, name: &str, value: Option<SecretValue>) -> Result<(), MicrovmError> {
        self.ask(Command::Secret(name.to_owned(), value)).await
    }

    /// Removes it, its disk, its log and its secrets; `force`: even if it runs.
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
        let (to, answer) = oneshot::channel();
        let reply = Reply { to, trace: trace::current() };
        self.commands.send((command, reply)).await.map_err(|_| MicrovmError::Gone)?;
        answer.await.unwrap_or(Err(MicrovmError::Gone))
    }
}

/// Whether a daemon that starts starts this one, too.
pub(crate) fn starts_at_load(record: &Record, stays: bool) -> bool {
    restart::at_load(record.spec.restart, record.state, record.stop_requested, stays)
}

/// Makes the directory of a new microVM.
pub(crate) fn make_directory(host: &Host, id: &str) -> std::io::Result<()> {
    Files::new(host, id).create()
}
