//! Volumes, and which microVMs were made with which, in the state.
//!
//! Owner: the state, in transactions. Invariants: a microVM is made with volumes that are there; a volume with which one
//! was made stays until that has gone.

use hull_protocol::api::{Microvm, Volume, VolumeUser};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use super::{Key, State, StateError, some_of, use_key};

pub(super) const TABLES: &str = "
CREATE TABLE volumes (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL, UNIQUE (tenant, name)
) STRICT;
CREATE TABLE volume_users (
    microvm TEXT NOT NULL REFERENCES microvms (id) ON DELETE CASCADE,
    volume TEXT NOT NULL REFERENCES volumes (id),
    read_only INTEGER NOT NULL,
    PRIMARY KEY (microvm, volume)
) STRICT;
CREATE INDEX users_of_volume ON volume_users (volume)";

impl State {
    /// Every volume, in the order they were made.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn volumes(&self) -> Result<Vec<Volume>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT record FROM volumes ORDER BY rowid")?;
        let records: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        records.iter().map(|record| Ok(serde_json::from_str(record)?)).collect()
    }

    /// The volume of a tenant's with this name, else the one with this id.
    ///
    /// # Errors
    /// When there is none.
    pub fn volume(&self, tenant: &str, name: &str) -> Result<Volume, StateError> {
        let record: Option<String> = self
            .lock()
            .query_row(
                "SELECT record FROM volumes WHERE tenant = ?1 AND (name = ?2 OR id = ?2) ORDER BY name = ?2 DESC",
                params![tenant, name],
                |row| row.get(0),
            )
            .optional()?;
        Ok(serde_json::from_str(&record.ok_or_else(|| StateError::NoVolume(name.to_owned()))?)?)
    }

    /// Adds a volume, and the key it was made with.
    ///
    /// # Errors
    /// When its tenant has one of that name, or the key was used already.
    pub fn insert_volume(&self, volume: &Volume, key: Option<&Key>) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if let Some(key) = key {
            use_key(&transaction, key, &volume.id)?;
        }
        let written = transaction.execute(
            "INSERT INTO volumes (id, tenant, name, record) VALUES (?1, ?2, ?3, ?4)",
            params![volume.id, volume.tenant, volume.name, serde_json::to_string(volume)?],
        );
        constrained(written, || StateError::VolumeTaken(volume.name.clone()))?;
        Ok(transaction.commit()?)
    }

    /// Writes a volume's record anew.
    ///
    /// # Errors
    /// When it has gone, or the database fails.
    pub fn update_volume(&self, volume: &Volume) -> Result<(), StateError> {
        let record = serde_json::to_string(volume)?;
        let written = self
            .lock()
            .execute("UPDATE volumes SET record = ?2 WHERE id = ?1", params![volume.id, record])?;
        if written == 0 { Err(StateError::NoVolume(volume.name.clone())) } else { Ok(()) }
    }

    /// Forgets a volume that no microVM was made with.
    ///
    /// # Errors
    /// When one was.
    pub fn remove_volume(&self, volume: &Volume) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let users = users(&transaction, &volume.id)?;
        if !users.is_empty() {
            let names = some_of(users.iter().map(|user| user.name.as_str()));
            return Err(StateError::VolumeInUse(volume.name.clone(), names));
        }
        transaction.execute("DELETE FROM volumes WHERE id = ?1", params![volume.id])?;
        Ok(transaction.commit()?)
    }

    /// The microVMs that were made with a volume.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn volume_users(&self, volume: &str) -> Result<Vec<VolumeUser>, StateError> {
        users(&self.lock(), volume)
    }
}

fn constrained(written: rusqlite::Result<usize>, why: impl FnOnce() -> StateError) -> Result<(), StateError> {
    match written {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
            Err(why())
        }
        Err(error) => Err(error.into()),
    }
}

fn users(connection: &Connection, volume: &str) -> Result<Vec<VolumeUser>, StateError> {
    let mut query = connection.prepare(
        "SELECT m.id, m.name, u.read_only FROM volume_users AS u JOIN microvms AS m ON m.id = u.microvm \
         WHERE u.volume = ?1 ORDER BY m.rowid",
    )?;
    let users = query.query_map(params![volume], |row| {
        Ok(VolumeUser { id: row.get(0)?, name: row.get(1)?, read_only: row.get(2)?, attached: false })
    })?;
    Ok(users.collect::<Result<_, _>>()?)
}

/// Remembers what a new microVM is made with, in the transaction that makes it.
pub(super) fn remember_uses(transaction: &Transaction<'_>, microvm: &Microvm) -> Result<(), StateError> {
    for volume in &microvm.volumes {
        let written = transaction.execute(
            "INSERT INTO volume_users (microvm, volume, read_only) VALUES (?1, ?2, ?3)",
            params![microvm.id, volume.id, volume.read_only],
        );
        // It was removed a moment ago.
        constrained(written, || StateError::NoVolume(volume.name.clone()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::api::VolumeUse;
    use hull_protocol::units::Bytes;

    use super::super::tests::microvm;
    use super::*;

    fn volume(id: &str, name: &str) -> Volume {
        Volume {
            id: id.into(),
            name: name.into(),
            tenant: "t".into(),
            size: Bytes::mib(16),
            labels: Default::default(),
            created_at: "2026-01-01T00:00:00Z".into(),
            used: None,
            users: Vec::new(),
        }
    }

    #[test]
    fn a_volume_stays_as_long_as_a_microvm_was_made_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path).unwrap();
        let data = volume("v1", "data");
        state.insert_volume(&data, None).unwrap();
        let uses = vec![VolumeUse { id: "v1".into(), name: "data".into(), read_only: true }];
        let mut user = microvm("1", "web");
        user.volumes.clone_from(&uses);
        state.insert(&mut user, &[], None).unwrap();
        assert!(
            matches!(state.remove_volume(&data), Err(StateError::VolumeInUse(name, by)) if name == "data" && by == "web")
        );
        drop(state);
        let state = State::open(&path).unwrap();
        let users = state.volume_users("v1").unwrap();
        assert!(users.len() == 1 && users[0].read_only && users[0].name == "web");
        state.remove("1").unwrap();
        state.remove_volume(&data).unwrap();
        // Whoever was about to use it is refused, and nothing is left of the attempt.
        let late = state.insert(&mut Microvm { volumes: uses, ..microvm("2", "late") }, &[], None);
        assert!(matches!(late, Err(StateError::NoVolume(name)) if name == "data"));
        assert_eq!(state.microvms().unwrap(), []);
    }

    #[test]
    fn names_are_a_tenants_own_and_keys_are_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.db")).unwrap();
        let key = Key { key: "k".into(), request: "r".into() };
        state.insert_volume(&volume("v1", "data"), Some(&key)).unwrap();
        let taken = state.insert_volume(&volume("v2", "data"), None);
        assert!(matches!(taken, Err(StateError::VolumeTaken(_))));
        state.insert_volume(&Volume { tenant: "u".into(), ..volume("v2", "data") }, None).unwrap();
        let again = state.insert_volume(&volume("v3", "other"), Some(&key));
        assert!(matches!(again, Err(StateError::KeyUsed { same: true, .. })));
        assert_eq!(state.volume("t", "data").unwrap().id, "v1");
        assert_eq!(state.volume("t", "v1").unwrap().name, "data");
        assert!(matches!(state.volume("t", "v2"), Err(StateError::NoVolume(_))));
        let larger = Volume { size: Bytes::gib(1), ..volume("v1", "data") };
        state.update_volume(&larger).unwrap();
        assert_eq!(state.volumes().unwrap()[0], larger);
        assert!(state.update_volume(&volume("v9", "gone")).is_err());
    }
}
