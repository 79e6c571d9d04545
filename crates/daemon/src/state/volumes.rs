//! Volumes, and which microVMs were made with which, in the state.
//!
//! Owner: the state, in transactions. Invariants: a microVM is made with volumes of its own tenant's that are there; a
//! volume with which one was made stays until that has gone.

use hull_protocol::api::{Microvm, Volume, VolumeUser};
use rusqlite::{Connection, OptionalExtension, Params, Transaction, params};

use super::{Key, State, StateError, some_of, unique, use_key};

pub(super) const TABLES: &str = "
CREATE TABLE volumes (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenants (name), name TEXT NOT NULL, record TEXT NOT NULL,
    UNIQUE (tenant, name)
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
        read(&self.lock(), "SELECT record FROM volumes ORDER BY rowid", [])
    }

    /// Every volume of a tenant's, in the order they were made.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn volumes_of(&self, tenant: &str) -> Result<Vec<Volume>, StateError> {
        let query = "SELECT record FROM volumes WHERE tenant = ?1 ORDER BY rowid";
        read(&self.lock(), query, params![tenant])
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
            use_key(&transaction, key, (&volume.tenant, &volume.id))?;
        }
        let written = transaction.execute(
            "INSERT INTO volumes (id, tenant, name, record) VALUES (?1, ?2, ?3, ?4)",
            params![volume.id, volume.tenant, volume.name, serde_json::to_string(volume)?],
        );
        unique(written, &volume.tenant, || StateError::VolumeTaken(volume.name.clone()))?;
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

fn read(connection: &Connection, query: &str, of: impl Params) -> Result<Vec<Volume>, StateError> {
    let mut query = connection.prepare(query)?;
    let records: Vec<String> = query.query_map(of, |row| row.get(0))?.collect::<Result<_, _>>()?;
    records.iter().map(|record| Ok(serde_json::from_str(record)?)).collect()
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
            "INSERT INTO volume_users (microvm, volume, read_only) \
             SELECT ?1, id, ?3 FROM volumes WHERE id = ?2 AND tenant = ?4",
            params![microvm.id, volume.id, volume.read_only, microvm.tenant],
        )?;
        // It was removed a moment ago.
        if written == 0 {
            return Err(StateError::NoVolume(volume.name.clone()));
        }
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
            tenant: "default".into(),
            size: Bytes::mib(16),
            labels: Default::default(),
            created_at: "2026-01-01T00:00:00Z".into(),
            used: None,
            users: Vec::new(),
        }
    }

    fn acme(state: &State) {
        state.write_tenant(&serde_json::from_str(r#"{"name":"acme"}"#).unwrap()).unwrap();
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
        let mut late = Microvm { volumes: uses, ..microvm("2", "late") };
        let refused = state.insert(&mut late, &[], None);
        assert!(matches!(refused, Err(StateError::NoVolume(name)) if name == "data"));
        // As it would be if it were another tenant's.
        acme(&state);
        state.insert_volume(&Volume { tenant: "acme".into(), ..data }, None).unwrap();
        let refused = state.insert(&mut late, &[], None);
        assert!(matches!(refused, Err(StateError::NoVolume(name)) if name == "data"));
        assert_eq!(state.microvms().unwrap(), []);
        assert_eq!(state.remove_tenant("acme").unwrap(), Err((0, 0, 1)));
    }

    #[test]
    fn names_are_a_tenants_own_and_keys_are_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.db")).unwrap();
        let key = Key { key: "k".into(), request: "r".into() };
        state.insert_volume(&volume("v1", "data"), Some(&key)).unwrap();
        let taken = state.insert_volume(&volume("v2", "data"), None);
        assert!(matches!(taken, Err(StateError::VolumeTaken(_))));
        let other = Volume { tenant: "acme".into(), ..volume("v2", "data") };
        let nobodys = state.insert_volume(&other, None);
        assert!(matches!(nobodys, Err(StateError::NoTenant(name)) if name == "acme"));
        acme(&state);
        state.insert_volume(&other, Some(&key)).unwrap();
        assert_eq!(state.volumes_of("acme").unwrap(), [other]);
        let again = state.insert_volume(&volume("v3", "other"), Some(&key));
        assert!(matches!(again, Err(StateError::KeyUsed { same: true, .. })));
        assert_eq!(state.volume("default", "data").unwrap().id, "v1");
        assert_eq!(state.volume("default", "v1").unwrap().name, "data");
        assert!(matches!(state.volume("default", "v2"), Err(StateError::NoVolume(_))));
        let larger = Volume { size: Bytes::gib(1), ..volume("v1", "data") };
        state.update_volume(&larger).unwrap();
        assert_eq!(state.volumes().unwrap()[0], larger);
        assert!(state.update_volume(&volume("v9", "gone")).is_err());
    }
}
