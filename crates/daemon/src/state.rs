//! What survives the daemon: one SQLite database, one row for each microVM, network, lease and volume.
//!
//! Owner: the fleet. Invariants: a change is on disk before anybody is told of it (write-ahead log, full
//! synchronization); what is there can be changed and removed when the disk is full.

mod networks;
mod room;
mod tenants;
mod volumes;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_protocol::api::Microvm;
use room::Room;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

/// The version of the tables below; older ones are brought up to it, one step at a time.
const VERSION: i64 = 6;
const MIGRATIONS: [&str; VERSION as usize] = [
    "CREATE TABLE microvms (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT",
    networks::TABLES,
    "CREATE TABLE keys (key TEXT PRIMARY KEY, request TEXT NOT NULL, microvm TEXT NOT NULL, \
     made INTEGER NOT NULL) STRICT",
    tenants::TABLES,
    networks::PLAIN_LEASES,
    volumes::TABLES,
];
/// How long a key is remembered, in seconds.
const KEY_LIFE: i64 = 24 * 60 * 60;
/// How many keys of a tenant are remembered; the oldest go first.
const KEYS_MAX: i64 = 100_000;

/// What is named is not there: `SQLITE_CONSTRAINT_FOREIGNKEY`.
const NO_PARENT: i32 = rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY;

/// What makes a request to create something the same as an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Chosen by the client.
    pub key: String,
    /// Digest of what was asked for.
    pub request: String,
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another microVM has the name.
    #[error("the name {0} is taken: choose another, or remove the microVM that has it")]
    NameTaken(String),
    /// The key was used already.
    #[error("the idempotency key was used before")]
    KeyUsed {
        /// The id of what was made with it.
        made: String,
        /// Whether the same was asked for.
        same: bool,
    },
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
    /// A card that is not lent to a plain VM.
    #[error("no plain VM has been lent the card {0} of that network: it may have been given back")]
    NoCard(String),
    /// A plain VM's card that it still has.
    #[error("the card {0} is in use by its VM: end that first")]
    CardInUse(String),
    /// Somebody still has addresses of it.
    #[error("the network {0} is in use by {1}: remove those first")]
    NetworkInUse(String, String),
    /// A tenant that is not there.
    #[error("there is no tenant '{0}' (any more)")]
    NoTenant(String),
    /// A lease that cannot be.
    #[error("{0}")]
    Lease(String),
    /// Another volume has the name.
    #[error("there is a volume {0} already: choose another name, or remove it ('hull volume rm {0}')")]
    VolumeTaken(String),
    /// A volume that is not there.
    #[error("there is no volume '{0}': 'hull volume ls' lists all")]
    NoVolume(String),
    /// A microVM was made with it.
    #[error("the volume {0} belongs to {1}: remove those microVMs first")]
    VolumeInUse(String, String),
}

/// The database. Its connection is closed before its room is: see there.
pub struct State {
    connection: Mutex<Connection>,
    room: Room,
}

pub use networks::Wish;

impl State {
    /// Opens it, and makes it if it is not there.
    ///
    /// # Errors
    /// When the file cannot be used or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open(path)?;
        // Nobody else reads it, and then no index is shared: that one is made anew at every start, which takes room.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A table that is made anew takes nothing along that names it.
        connection.pragma_update(None, "foreign_keys", false)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > VERSION {
            return Err(StateError::Newer(found));
        }
        for (version, step) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
            let both = format!("BEGIN; {step}; PRAGMA user_version = {version}; COMMIT");
            connection.execute_batch(&both)?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        let room = Room::of(path);
        room.keep();
        Ok(Self { connection: Mutex::new(connection), room })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Adds a microVM with its leases, which are written into its record, and the key it was made with: all or none.
    ///
    /// # Errors
    /// When the name is taken, the key was used already, a lease cannot be had, or the database fails.
    pub fn insert(
        &self,
        microvm: &mut Microvm,
        wishes: &[Wish],
        key: Option<&Key>,
    ) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if let Some(key) = key {
            use_key(&transaction, key, (&microvm.tenant, &microvm.id))?;
        }
        let written = transaction.execute(
            "INSERT INTO microvms (id, tenant, name, record) VALUES (?1, ?2, ?3, '{}')",
            params![microvm.id, microvm.tenant, microvm.name],
        );
        unique(written, &microvm.tenant, || StateError::NameTaken(microvm.name.clone()))?;
        microvm.cards = networks::lease(&transaction, &microvm.id, wishes)?;
        volumes::remember_uses(&transaction, microvm)?;
        let record = serde_json::to_string(microvm)?;
        transaction.execute("UPDATE microvms SET record = ?2 WHERE id = ?1", params![microvm.id, record])?;
        transaction.commit()?;
        self.room.keep();
        Ok(())
    }

    /// The id of what this tenant has made with this key, and whether the same was asked for.
    ///
    /// # Errors
    /// When the database fails.
    pub fn made_with(&self, tenant: &str, key: &Key) -> Result<Option<(String, bool)>, StateError> {
        Ok(find_key(&self.lock(), tenant, key)?)
    }

    /// Writes a microVM's record anew.
    ///
    /// # Errors
    /// When its new name is taken, or the database fails.
    pub fn update(&self, microvm: &Microvm) -> Result<(), StateError> {
        let record = serde_json::to_string(microvm)?;
        let written = self.lock().execute(
            "UPDATE microvms SET record = ?2, name = ?3 WHERE id = ?1",
            params![microvm.id, record, microvm.name],
        );
        unique(written, &microvm.tenant, || StateError::NameTaken(microvm.name.clone()))
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

/// The first of some names, for a message.
fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.take(6).collect();
    let more = names.len() > 5;
    names.truncate(5);
    format!("{}{}", names.join(", "), if more { " and others" } else { "" })
}

/// Whether a tenant's row was written, or its name is another's.
fn unique(
    written: rusqlite::Result<usize>,
    tenant: &str,
    taken: impl FnOnce() -> StateError,
) -> Result<(), StateError> {
    match written {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.extended_code == NO_PARENT => {
            Err(StateError::NoTenant(tenant.to_owned()))
        }
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
            Err(taken())
        }
        Err(error) => Err(error.into()),
    }
}

fn find_key(connection: &Connection, tenant: &str, key: &Key) -> rusqlite::Result<Option<(String, bool)>> {
    let query = "SELECT microvm, request FROM keys WHERE tenant = ?1 AND key = ?2";
    let known = connection.query_row(query, params![tenant, key.key], |row| {
        Ok((row.get(0)?, row.get::<_, String>(1)? == key.request))
    });
    known.optional()
}

/// Takes a tenant's key for what is made with this id, if it is free; old ones are forgotten on the way.
fn use_key(connection: &Connection, key: &Key, (tenant, id): (&str, &str)) -> Result<(), StateError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    connection.execute("DELETE FROM keys WHERE made < ?1", params![now.saturating_sub(KEY_LIFE)])?;
    connection.execute(
        "DELETE FROM keys WHERE rowid IN \
         (SELECT rowid FROM keys WHERE tenant = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)",
        params![tenant, KEYS_MAX],
    )?;
    if let Some((made, same)) = find_key(connection, tenant, key)? {
        return Err(StateError::KeyUsed { made, same });
    }
    connection.execute(
        "INSERT INTO keys (tenant, key, request, microvm, made) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![tenant, key.key, key.request, id, now],
    )?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
