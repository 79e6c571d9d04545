//! The processes of a container: its own, which is the first, and those that were started beside it.
//!
//! Owner: the server, behind its lock. Invariants: only the first may be started while there is none; at most
//! [`FURTHER_MAX`] others run, and of those that have ended the last [`ENDED_MAX`] are remembered.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_protocol::agent::{
    AgentError, AgentErrorKind, FURTHER_MAX, PROCESS_ID_MAX, ProcessSpec, ProcessState,
};

use crate::process::Process;

/// How many exits of processes beside the container's own are remembered.
const ENDED_MAX: usize = 128;

struct Entry {
    id: String,
    terminal: bool,
    process: Arc<Process>,
}

/// The table.
#[derive(Default)]
pub(crate) struct Processes {
    first: Option<Entry>,
    /// In the order of their starts.
    further: Vec<Entry>,
}

/// A process that may be started.
pub(crate) struct Admitted {
    pub(crate) process: Arc<Process>,
    /// The container's own process, which it is to join.
    pub(crate) container: Option<OwnedFd>,
}

fn invalid(message: impl Into<String>) -> AgentError {
    AgentError { kind: AgentErrorKind::Invalid, message: message.into() }
}

impl Processes {
    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.first.iter().chain(&self.further)
    }

    /// The process with an id.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Process>, AgentError> {
        let found = self.all().find(|entry| entry.id == id);
        found
            .map(|entry| entry.process.clone())
            .ok_or_else(|| invalid(format!("there is no process {}", shown(id))))
    }

    /// The container's own.
    pub(crate) fn first(&self) -> Option<Arc<Process>> {
        self.first.as_ref().map(|entry| entry.process.clone())
    }

    /// Takes a process in that is about to be started.
    pub(crate) fn admit(&mut self, spec: &ProcessSpec) -> Result<Admitted, AgentError> {
        if spec.id.is_empty() || spec.id.len() > PROCESS_ID_MAX {
            return Err(invalid(format!("a process's id has 1 to {PROCESS_ID_MAX} bytes")));
        }
        if self.all().any(|entry| entry.id == spec.id) {
            return Err(invalid(format!("the process {} has been started already", spec.id)));
        }
        let process = Arc::new(Process::default());
        let entry =
            Entry { id: spec.id.clone(), terminal: spec.terminal.is_some(), process: process.clone() };
        let Some(first) = &self.first else {
            self.first = Some(entry);
            return Ok(Admitted { process, container: None });
        };
        let container = first.process.descriptor()?;
        if self.further.iter().filter(|entry| entry.process.exit().is_none()).count() >= FURTHER_MAX {
            return Err(invalid(format!(
                "{FURTHER_MAX} processes run beside the container's own, which is the limit: end one of them"
            )));
        }
        self.further.push(entry);
        self.forget_old_exits();
        Ok(Admitted { process, container: Some(container) })
    }

    fn forget_old_exits(&mut self) {
        let ended = self.further.iter().filter(|entry| entry.process.exit().is_some()).count();
        let mut too_many = ended.saturating_sub(ENDED_MAX);
        self.further.retain(|entry| {
            let forgotten = too_many > 0 && entry.process.exit().is_some();
            too_many = too_many.saturating_sub(usize::from(forgotten));
            !forgotten
        });
    }

    /// A process did not start.
    pub(crate) fn remove(&mut self, id: &str) {
        if self.first.as_ref().is_some_and(|first| first.id == id) {
            self.first = None;
        }
        self.further.retain(|entry| entry.id != id);
    }

    /// For a host that comes back.
    pub(crate) fn states(&self) -> Vec<ProcessState> {
        let state = |entry: &Entry| ProcessState {
            id: entry.id.clone(),
            exit: entry.process.exit(),
            terminal: entry.terminal,
        };
        self.all().map(state).collect()
    }
}

/// Enough of an id to know it by.
fn shown(id: &str) -> String {
    id.chars().take(PROCESS_ID_MAX).collect()
}
