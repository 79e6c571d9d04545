//! Processes beside a container's own: the table of them, and what drives each from its start to its end.
//!
//! Owner: shared by the run, which tells what the agent says, and the handlers; each process that runs has a task of
//! its own. Invariants: the table is bounded; a client that does not read stalls its own process and nothing else; one
//! that goes away leaves a process whose output is thrown away.

mod drive;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hull_protocol::agent::{
    AgentError, Command, FURTHER_MAX, PROCESS_ID_MAX, ProcessExit, ProcessSpec, ProcessState, WindowSize,
};
use hull_protocol::exec::{Exec, ExecSpec, ExecState};
use tokio::sync::oneshot;

use self::drive::Task;
pub use self::drive::{Front, front};
use super::agent::{Caller, lost};
use crate::clock::rfc3339;
use crate::fleet::new_id;
use crate::plan::{PlanError, exec_process};
use crate::trace;

/// The most that one microVM's table holds: of those that have ended the oldest is forgotten for a new one.
const TABLE_MAX: usize = 256;
/// What a process has ended with whose microVM ended under it: it was killed.
const KILLED: i32 = 137;

/// Why a further process could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// None has that id.
    #[error("there is no such exec in this microVM")]
    NotFound,
    /// Not in this state.
    #[error("{0}")]
    Refused(&'static str),
    /// The table is full of those that have not ended.
    #[error("{TABLE_MAX} execs of this microVM have not ended: let some end, or start them")]
    TooMany,
    /// The agent refused.
    #[error("{0}")]
    Agent(#[from] AgentError),
}

/// The connection to a guest that runs.
#[derive(Clone)]
pub(super) struct Session {
    caller: Caller,
    vsock: PathBuf,
}

impl Session {
    pub(super) fn new(caller: Caller, vsock: PathBuf) -> Self {
        Self { caller, vsock }
    }
}

struct Entry {
    record: Exec,
    /// What is started; none once it has been, or when an earlier daemon did.
    process: Option<ProcessSpec>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// In the order they were made.
    table: Vec<Entry>,
    /// Who waits for the end of a process, by its id.
    waiting: HashMap<String, oneshot::Sender<ProcessExit>>,
}

impl State {
    fn entry(&mut self, id: &str) -> Result<&mut Entry, ExecError> {
        self.table.iter_mut().find(|entry| entry.record.id == id).ok_or(ExecError::NotFound)
    }

    /// Adds an entry; the oldest that has ended goes when there is no room.
    fn add(&mut self, entry: Entry) -> Result<(), ExecError> {
        if self.table.len() >= TABLE_MAX {
            let over = |entry: &Entry| entry.record.state == ExecState::Exited;
            let oldest = self.table.iter().position(over).ok_or(ExecError::TooMany)?;
            self.table.remove(oldest);
        }
        self.table.push(entry);
        Ok(())
    }

    fn running(&self) -> usize {
        self.table.iter().filter(|entry| entry.record.state == ExecState::Running).count()
    }
}

/// The processes of one microVM beside its own.
pub struct Execs {
    microvm: String,
    /// The container's own process.
    container: ProcessSpec,
    state: Mutex<State>,
}

impl Execs {
    /// None yet.
    pub fn new(microvm: String, container: ProcessSpec) -> Self {
        Self { microvm, container, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a process in; it is not started.
    ///
    /// # Errors
    /// When it cannot be, or there are too many.
    pub fn create(&self, spec: ExecSpec) -> Result<Exec, ExecError> {
        let id = new_id();
        let process = exec_process(id.clone(), &spec, &self.container)?;
        let record = Exec {
            id,
            microvm: self.microvm.clone(),
            state: ExecState::Created,
            spec: Some(spec),
            status: None,
            error: None,
            created_at: rfc3339(SystemTime::now()),
        };
        self.state().add(Entry { record: record.clone(), process: Some(process) })?;
        Ok(record)
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<Exec> {
        self.state().entry(id).ok().map(|entry| entry.record.clone())
    }

    /// Starts it, with a client at its streams or without; the receiver hears whether it runs. Whatever becomes of
    /// the caller, it is driven to its end.
    ///
    /// # Errors
    /// When it has been started already, too many run, or the microVM does not.
    pub fn start(
        self: &Arc<Self>,
        id: &str,
        front: Option<Front>,
    ) -> Result<oneshot::Receiver<Result<(), AgentError>>, ExecError> {
        let mut state = self.state();
        let session = state.session.clone().ok_or(ExecError::Refused("the microVM does not run"))?;
        if state.running() >= FURTHER_MAX {
            return Err(ExecError::Refused(
                "as many processes run beside the container's own as may: end one",
            ));
        }
        let entry = state.entry(id)?;
        let process = entry.process.take().ok_or(ExecError::Refused("it has been started already"))?;
        entry.record.state = ExecState::Running;
        let ended = wait_for(&mut state, id);
        drop(state);
        let (told, started) = oneshot::channel();
        let task = Task { execs: self.clone(), session, process, ended };
        trace::spawn(task.run(front, told));
        Ok(started)
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), ExecError> {
        let caller = self.caller_of(id)?;
        Ok(caller.request(Command::Signal { process: id.to_owned(), signal, group: false }).await?)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn resize(&self, id: &str, size: WindowSize) -> Result<(), ExecError> {
        let caller = self.caller_of(id)?;
        Ok(caller.request(Command::Resize { process: id.to_owned(), size }).await?)
    }

    fn caller_of(&self, id: &str) -> Result<Caller, ExecError> {
        let mut state = self.state();
        match state.entry(id)?.record.state {
            ExecState::Created => Err(ExecError::Refused("it has not been started yet")),
            ExecState::Exited => Err(ExecError::Refused("it has ended")),
            ExecState::Running => {
                let session = state.session.as_ref().ok_or(ExecError::Refused("the microVM does not run"))?;
                Ok(session.caller.clone())
            }
        }
    }

    /// Runs a process of the daemon's own, which is in no table; its status and the beginning of its output.
    ///
    /// # Errors
    /// When it cannot be started, or took too long and was killed.
    pub(super) async fn capture(
        self: &Arc<Self>,
        process: ProcessSpec,
        limit: Duration,
    ) -> Result<(i32, Vec<u8>), AgentError> {
        let (session, ended) = {
            let mut state = self.state();
            let session = state.session.clone().ok_or_else(lost)?;
            (session, wait_for(&mut state, &process.id))
        };
        Task { execs: self.clone(), session, process, ended }.capture(limit).await
    }

    /// The container's own process.
    pub(super) fn container(&self) -> &ProcessSpec {
        &self.container
    }

    /// The guest runs. What an earlier daemon started there is taken over: nobody has its streams any more.
    pub(super) fn connected(self: &Arc<Self>, session: Session, processes: &[ProcessState]) {
        let mut state = self.state();
        state.session = Some(session.clone());
        // The list is a guest's: what is no id of ours, and what is too much, is left alone.
        let ours = |known: &&ProcessState| known.id != self.container.id && known.id.len() <= PROCESS_ID_MAX;
        for known in processes.iter().filter(ours).take(TABLE_MAX) {
            if state.entry(&known.id).is_ok() {
                continue;
            }
            let record = Exec {
                id: known.id.clone(),
                microvm: self.microvm.clone(),
                state: if known.exit.is_some() { ExecState::Exited } else { ExecState::Running },
                spec: None,
                status: known.exit.map(|exit| exit.status),
                error: None,
                created_at: rfc3339(SystemTime::now()),
            };
            if state.add(Entry { record, process: None }).is_err() {
                break;
            }
            if known.exit.is_none() {
                let ended = wait_for(&mut state, &known.id);
                let terminal = known.terminal.then_some(WindowSize { rows: 0, cols: 0 });
                let process = ProcessSpec { id: known.id.clone(), terminal, ..self.container.clone() };
                let task = Task { execs: self.clone(), session: session.clone(), process, ended };
                tokio::spawn(task.take_over());
            }
        }
    }

    /// The agent says that a process has ended.
    pub(super) fn ended(&self, process: &str, exit: ProcessExit) {
        if let Some(waiting) = self.state().waiting.remove(process) {
            let _nobody_waits = waiting.send(exit);
        }
    }

    /// The guest runs no more, and nothing in it.
    pub(super) fn lost(&self) {
        let mut state = self.state();
        state.session = None;
        state.waiting.clear();
        for entry in &mut state.table {
            // None of these can be started at the next start: the user sees why.
            if entry.record.state == ExecState::Created {
                entry.process = None;
                conclude(&mut entry.record, KILLED, Some("the microVM ended before it was started".into()));
            }
        }
    }

    /// Nobody waits for the end of a process any more.
    fn forget(&self, id: &str) {
        self.state().waiting.remove(id);
    }

    /// Notes how one ended.
    fn conclude(&self, id: &str, status: i32, error: Option<String>) {
        let mut state = self.state();
        state.waiting.remove(id);
        if let Ok(entry) = state.entry(id) {
            conclude(&mut entry.record, status, error);
        }
    }
}

fn conclude(record: &mut Exec, status: i32, error: Option<String>) {
    record.state = ExecState::Exited;
    record.status = Some(status);
    record.error = error;
}

fn wait_for(state: &mut State, id: &str) -> oneshot::Receiver<ProcessExit> {
    let (ended, hears) = oneshot::channel();
    state.waiting.insert(id.to_owned(), ended);
    hears
}

#[cfg(test)]
mod tests;
