//! The connections of one vsock device, found by token, by ports and by deadline.
//!
//! Owned by the device, on the I/O thread. Invariant: never more than [`CONNECTIONS_MAX`]; a slot's key and deadline
//! leave with it.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::vsock::connection::{Connection, Key, Phase};

/// The most connections of any phase.
pub const CONNECTIONS_MAX: usize = 1024;

#[derive(Debug)]
struct Entry {
    connection: Connection,
    deadline: Option<Instant>,
}

/// The connections.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    keys: HashMap<Key, usize>,
    deadlines: BTreeSet<(Instant, usize)>,
}

impl Table {
    /// Whether there is no room for another.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= CONNECTIONS_MAX
    }

    /// Adds a connection, found by its slot only. None, and the connection is dropped, if there is no room.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        *self.slots.get_mut(slot)? = Some(Entry { connection, deadline: None });
        Some(slot)
    }

    /// Lets a connection be found by its ports.
    pub(super) fn publish(&mut self, slot: usize) {
        if let Some(connection) = self.get(slot) {
            let key = connection.key;
            self.keys.insert(key, slot);
        }
    }

    /// The reverse.
    pub(super) fn hide(&mut self, slot: usize) {
        let Some(key) = self.get(slot).map(|connection| connection.key) else { return };
        if self.keys.get(&key) == Some(&slot) {
            self.keys.remove(&key);
        }
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Connection> {
        self.hide(slot);
        self.set_deadline(slot, None);
        let entry = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(entry.connection)
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Connection> {
        self.slots.get(slot)?.as_ref().map(|entry| &entry.connection)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)?.as_mut().map(|entry| &mut entry.connection)
    }

    /// The slot of a published connection.
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        self.keys.get(&key).copied()
    }

    /// The slots whose connections are in a phase that `wanted` takes.
    pub(super) fn slots(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<usize> {
        let entries = self.slots.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.as_ref().is_some_and(|entry| wanted(&entry.connection.phase)))
            .map(|(slot, _)| slot)
            .collect()
    }

    /// How many connections are in a phase that `wanted` takes.
    pub(super) fn count(&self, wanted: impl Fn(&Phase) -> bool) -> usize {
        self.slots.iter().flatten().filter(|entry| wanted(&entry.connection.phase)).count()
    }

    /// Sets or clears when a connection is to be looked at next.
    pub(super) fn set_deadline(&mut self, slot: usize, deadline: Option<Instant>) {
        let Some(Some(entry)) = self.slots.get_mut(slot) else { return };
        if let Some(old) = entry.deadline {
            self.deadlines.remove(&(old, slot));
        }
        entry.deadline = deadline;
        if let Some(new) = deadline {
            self.deadlines.insert((new, slot));
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(when, _)| when)
    }

    /// A connection whose deadline has passed; it has none from then on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<usize> {
        let &(when, slot) = self.deadlines.first()?;
        if when > now {
            return None;
        }
        self.set_deadline(slot, None);
        Some(slot)
    }
}
