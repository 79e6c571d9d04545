//! The events of each tenant, apart: none sees another's, and none's are pushed out by another's.
//!
//! Shared by all actors and handlers. Invariant: there is a ring for each tenant to which something has happened, and it
//! goes with its tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::api::{Microvm, Volume};

use super::Events;

/// The events of one daemon. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Feeds(Arc<Mutex<HashMap<String, Events>>>);

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Events>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant's events.
    pub fn of(&self, tenant: &str) -> Events {
        self.lock().entry(tenant.to_owned()).or_default().clone()
    }

    /// Tells a microVM's tenant what happened to it.
    pub fn microvm(&self, record: &Microvm, action: &str, more: &[(&str, String)]) {
        self.of(&record.tenant).microvm(record, action, more);
    }

    /// Tells a volume's tenant what happened to it.
    pub fn volume(&self, volume: &Volume, action: &str) {
        self.of(&volume.tenant).volume(volume, action);
    }

    /// Forgets what happened to a tenant that is gone.
    pub fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }
}
