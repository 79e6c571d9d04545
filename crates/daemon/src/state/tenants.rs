//! Tenants and their tokens in the state.
//!
//! Owner: [`crate::tenants::Tenants`], under its lock. Invariants: what belongs to a tenant names one that is there; a
//! tenant that has microVMs, networks or volumes stays; its tokens and idempotency keys go with it.

use hull_protocol::api::{Tenant, Token};
use rusqlite::params;

use super::{State, StateError};

/// The tables; what was there belongs to the host's own tenant. Names and idempotency keys become each tenant's own,
/// which takes tables anew (SQLite, "Making other kinds of table schema changes").
pub(super) const TABLES: &str = "
CREATE TABLE tenants (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
INSERT INTO tenants VALUES ('default', '{\"name\":\"default\"}');
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
    digest TEXT NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE owned_microvms (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenants (name), name TEXT NOT NULL, record TEXT NOT NULL,
    UNIQUE (tenant, name)
) STRICT;
INSERT INTO owned_microvms (rowid, id, tenant, name, record)
    SELECT rowid, id, 'default', name, record FROM microvms ORDER BY rowid;
DROP TABLE microvms;
ALTER TABLE owned_microvms RENAME TO microvms;
CREATE TABLE owned_keys (
    tenant TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE, key TEXT NOT NULL, request TEXT NOT NULL,
    microvm TEXT NOT NULL, made INTEGER NOT NULL, PRIMARY KEY (tenant, key)
) STRICT;
INSERT INTO owned_keys SELECT 'default', key, request, microvm, made FROM keys ORDER BY rowid;
DROP TABLE keys;
ALTER TABLE owned_keys RENAME TO keys;
CREATE INDEX keys_of_tenant ON keys (tenant)";

impl State {
    /// Every tenant, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tenants(&self) -> Result<Vec<Tenant>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT record FROM tenants ORDER BY name")?;
        let records: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        records.iter().map(|record| Ok(serde_json::from_str(record)?)).collect()
    }

    /// Writes a tenant, new or anew.
    ///
    /// # Errors
    /// When the database fails.
    pub fn write_tenant(&self, tenant: &Tenant) -> Result<(), StateError> {
        let record = serde_json::to_string(tenant)?;
        self.lock().execute(
            "INSERT INTO tenants VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET record = excluded.record",
            params![tenant.name, record],
        )?;
        Ok(())
    }

    /// Forgets a tenant with its tokens and keys, if it has nothing; else says how many microVMs, networks and volumes it
    /// has.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_tenant(&self, name: &str) -> Result<Result<(), (u64, u64, u64)>, StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let count = |table: &str| {
            let query = format!("SELECT count(*) FROM {table} WHERE tenant = ?1");
            transaction.query_row(&query, params![name], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        };
        let left = (count("microvms")?, count("networks")?, count("volumes")?);
        if left != (0, 0, 0) {
            return Ok(Err(left));
        }
        transaction.execute("DELETE FROM tenants WHERE name = ?1", params![name])?;
        transaction.commit()?;
        Ok(Ok(()))
    }

    /// Every token with the digest of its secret, the oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tokens(&self) -> Result<Vec<(Token, String)>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT record, digest FROM tokens ORDER BY rowid")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (record, digest) = row?;
            Ok((serde_json::from_str(&record)?, digest))
        })
        .collect()
    }

    /// Writes a token, new or anew.
    ///
    /// # Errors
    /// When its tenant is not there, or the database fails.
    pub fn write_token(&self, token: &Token, digest: &str) -> Result<(), StateError> {
        let record = serde_json::to_string(token)?;
        self.lock().execute(
            "INSERT INTO tokens (id, tenant, digest, record) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET record = excluded.record",
            params![token.id, token.tenant, digest, record],
        )?;
        Ok(())
    }

    /// Forgets a token.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_token(&self, id: &str) -> Result<(), StateError> {
        self.lock().execute("DELETE FROM tokens WHERE id = ?1", params![id])?;
        Ok(())
    }
}
