//! What survives the daemon: one SQLite database, one row for each microVM, network and lease.
//!
//! Owner: the fleet. Invariant: a change is on disk before anybody is told of it (write-ahead log, full
//! synchronization).

mod networks;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_protocol::api::Microvm;
use rusqlite::{Connection, ErrorCode, params};

/// The version of the tables below; older ones are brought up to it, one step at a time.
const VERSION: i64 = 2;
const MIGRATIONS: [&str; VERSION as usize] = [
    "CREATE TABLE microvms (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT",
    networks::TABLES,
];

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
    /// Another network has the name.
    #[error("there is a network {0} already: choose another name, or remove it ('hull network rm {0}')")]
    NetworkTaken(String),
    /// A network that is not there.
    #[error("there is no network '{0}': 'hull network ls' lists all")]
    NoNetwork(String),
    /// Somebody still has addresses of it.
    #[error("the network {0} is in use by {1}: remove those first")]
    NetworkInUse(String, String),
    /// A lease that cannot be.
    #[error("{0}")]
    Lease(String),
}

/// The database.
pub struct State(Mutex<Connection>);

pub use networks::Wish;

impl State {
    /// Opens it, and makes it if it is not there.
    ///
    /// # Errors
    /// When the file cannot be used or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
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

    /// Adds a microVM with its leases, which are written into its record: both or neither.
    ///
    /// # Errors
    /// When the name is taken, a lease cannot be had, or the database fails.
    pub fn insert(&self, microvm: &mut Microvm, wishes: &[Wish]) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let written = transaction.execute(
            "INSERT INTO microvms (id, name, record) VALUES (?1, ?2, '{}')",
            params![microvm.id, microvm.name],
        );
        match written {
            Ok(_) => {}
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
                return Err(StateError::NameTaken(microvm.name.clone()));
            }
            Err(error) => return Err(error.into()),
        }
        microvm.cards = networks::lease(&transaction, &microvm.id, wishes)?;
        let record = serde_json::to_string(microvm)?;
        transaction.execute("UPDATE microvms SET record = ?2 WHERE id = ?1", params![microvm.id, record])?;
        Ok(transaction.commit()?)
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
mod tests;
