//! What survives the daemon: one SQLite database, one row for each microVM.
//!
//! Owner: the fleet. Invariant: a change is on disk before anybody is told of it (write-ahead log, full
//! synchronization).

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_protocol::api::Microvm;
use rusqlite::{Connection, ErrorCode, params};

/// The version of the tables below; older ones are brought up to it, one step at a time.
const VERSION: i64 = 1;
const MIGRATIONS: [&str; VERSION as usize] =
    ["CREATE TABLE microvms (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT"];

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another microVM has the name.
    #[error("the name {0} is taken: choose another, or remove the microVM that has it")]
    NameTaken(String),
    /// A newer daemon has written it.
    #[error(
        "the state was written by a newer version of hull (format {0}, this one knows {VERSION}): upgrade hull"
    )]
    Newer(i64),
    /// The database failed.
    #[error("the state database failed (is the disk full?)")]
    Database(#[from] rusqlite::Error),
    /// A record is not what this version writes.
    #[error("a record in the state database cannot be understood")]
    Record(#[from] serde_json::Error),
}

/// The database.
pub struct State(Mutex<Connection>);

impl State {
    /// Opens it, and makes it if it is not there.
    ///
    /// # Errors
    /// When the file cannot be used or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > VERSION {
            return Err(StateError::Newer(found));
        }
        for (version, step) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
            let both = format!("BEGIN; {step}; PRAGMA user_version = {version}; COMMIT");
            connection.execute_batch(&both)?;
        }
        Ok(Self(Mutex::new(connection)))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every microVM.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn microvms(&self) -> Result<Vec<Microvm>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT record FROM microvms ORDER BY rowid")?;
        let records: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        records.iter().map(|record| Ok(serde_json::from_str(record)?)).collect()
    }

    /// Adds a microVM.
    ///
    /// # Errors
    /// When the name is taken, or the database fails.
    pub fn insert(&self, microvm: &Microvm) -> Result<(), StateError> {
        let record = serde_json::to_string(microvm)?;
        let written = self.lock().execute(
            "INSERT INTO microvms (id, name, record) VALUES (?1, ?2, ?3)",
            params![microvm.id, microvm.name, record],
        );
        match written {
            Ok(_) => Ok(()),
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
                Err(StateError::NameTaken(microvm.name.clone()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a microVM's record anew.
    ///
    /// # Errors
    /// When the database fails.
    pub fn update(&self, microvm: &Microvm) -> Result<(), StateError> {
        let record = serde_json::to_string(microvm)?;
        self.lock().execute("UPDATE microvms SET record = ?2 WHERE id = ?1", params![microvm.id, record])?;
        Ok(())
    }

    /// Forgets a microVM.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, id: &str) -> Result<(), StateError> {
        self.lock().execute("DELETE FROM microvms WHERE id = ?1", params![id])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::api::State as Life;

    use super::*;

    fn microvm(id: &str, name: &str) -> Microvm {
        Microvm {
            id: id.into(),
            name: name.into(),
            state: Life::Created,
            spec: Default::default(),
            image_digest: "sha256:0".into(),
            command: vec!["true".into()],
            created_at: "2026-01-01T00:00:00Z".into(),
            started_at: None,
            finished_at: None,
            exit: None,
            vmm_pid: None,
            guest_kernel: None,
            health: None,
        }
    }

    #[test]
    fn what_is_written_is_there_after_a_restart_and_names_are_unique() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let first = State::open(&path).unwrap();
        first.insert(&microvm("1", "a")).unwrap();
        first.insert(&microvm("2", "b")).unwrap();
        assert!(matches!(first.insert(&microvm("3", "a")), Err(StateError::NameTaken(name)) if name == "a"));
        first.update(&Microvm { state: Life::Failed, ..microvm("2", "b") }).unwrap();
        first.remove("1").unwrap();
        drop(first);
        let again = State::open(&path).unwrap().microvms().unwrap();
        assert_eq!(again, [Microvm { state: Life::Failed, ..microvm("2", "b") }]);
    }

    #[test]
    fn the_state_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(State::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(State::open(&path), Err(StateError::Newer(99))));
    }
}
