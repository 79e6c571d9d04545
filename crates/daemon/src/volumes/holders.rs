//! Who has which volume attached: one who writes and nobody else, or any number of readers.
//!
//! Shared by all actors. Invariant: a microVM's run has its volumes' claim from before its VMM is started until that has
//! ended; those that ran already when this daemon started are counted, not judged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::api::VolumeUse;

/// A volume that somebody else has.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the volume {volume} is attached to {by}, which {}: stop that microVM first{}",
    if *writes { "writes to it" } else { "reads it" },
    if *writes { "; a volume is shared only by microVMs that all attach it read-only" } else { ", or attach the volume read-only" }
)]
pub struct Held {
    /// Its name.
    pub volume: String,
    /// The name of the microVM that has it.
    pub by: String,
    /// Whether that may write to it.
    pub writes: bool,
}

/// A microVM that has a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    claim: u64,
    microvm: String,
    name: String,
    writes: bool,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By the volume's id.
    held: HashMap<String, Vec<Holder>>,
}

/// All claims. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Holders(Arc<Mutex<Table>>);

/// A run's claim on its volumes; given up when it is dropped.
#[derive(Debug)]
pub struct Claim {
    number: u64,
    holders: Holders,
}

/// Judges one more use of a volume that these have. Pure.
fn in_the_way(held: &[Holder], writes: bool) -> Option<&Holder> {
    held.iter().find(|holder| writes || holder.writes)
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims volumes for the microVM with this id and name: all or none.
    ///
    /// # Errors
    /// With one that is in the way.
    pub fn claim(&self, (id, name): (&str, &str), uses: &[VolumeUse]) -> Result<Claim, Held> {
        let mut table = self.lock();
        for volume in uses {
            let held = table.held.get(&volume.id).map_or(&[][..], Vec::as_slice);
            if let Some(other) = in_the_way(held, !volume.read_only) {
                return Err(Held {
                    volume: volume.name.clone(),
                    by: other.name.clone(),
                    writes: other.writes,
                });
            }
        }
        Ok(self.enter(&mut table, (id, name), uses))
    }

    /// Counts what a microVM has that runs already.
    pub fn count(&self, (id, name): (&str, &str), uses: &[VolumeUse]) -> Claim {
        self.enter(&mut self.lock(), (id, name), uses)
    }

    fn enter(&self, table: &mut Table, (id, name): (&str, &str), uses: &[VolumeUse]) -> Claim {
        let number = table.next;
        table.next = number.saturating_add(1);
        for volume in uses {
            table.held.entry(volume.id.clone()).or_default().push(Holder {
                claim: number,
                microvm: id.to_owned(),
                name: name.to_owned(),
                writes: !volume.read_only,
            });
        }
        Claim { number, holders: self.clone() }
    }

    /// A microVM goes by another name now.
    pub fn rename(&self, microvm: &str, name: &str) {
        for holder in self.lock().held.values_mut().flatten().filter(|holder| holder.microvm == microvm) {
            name.clone_into(&mut holder.name);
        }
    }

    /// Whether a microVM has a volume now.
    pub fn has(&self, microvm: &str, volume: &str) -> bool {
        let table = self.lock();
        table.held.get(volume).is_some_and(|held| held.iter().any(|holder| holder.microvm == microvm))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.holders.lock();
        table.held.retain(|_, held| {
            held.retain(|holder| holder.claim != self.number);
            !held.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use proptest::prelude::*;

    use super::*;

    fn uses(volumes: &[(u8, bool)]) -> Vec<VolumeUse> {
        let one = |(id, read_only): &(u8, bool)| VolumeUse {
            id: id.to_string(),
            name: format!("v{id}"),
            read_only: *read_only,
        };
        volumes.iter().map(one).collect()
    }

    #[test]
    fn one_writes_or_many_read_and_the_refusal_names_who() {
        let holders = Holders::default();
        let writer = holders.claim(("1", "db"), &uses(&[(7, false)])).unwrap();
        for read_only in [true, false] {
            let refused = holders.claim(("2", "web"), &uses(&[(8, false), (7, read_only)])).unwrap_err();
            assert!(refused.to_string().contains("v7 is attached to db, which writes"), "{refused}");
        }
        holders.rename("1", "store");
        let refused = holders.claim(("2", "web"), &uses(&[(7, true)])).unwrap_err();
        assert_eq!(refused.by, "store");
        // What was refused took nothing of the rest.
        drop(holders.claim(("3", "x"), &uses(&[(8, false)])).unwrap());
        drop(writer);
        let readers: Vec<_> =
            (0..3).map(|id| holders.claim((&id.to_string(), "r"), &uses(&[(7, true)])).unwrap()).collect();
        assert!(holders.has("2", "7") && !holders.has("3", "7"));
        let refused = holders.claim(("4", "w"), &uses(&[(7, false)])).unwrap_err();
        assert!(refused.to_string().contains("attach the volume read-only"), "{refused}");
        drop(readers);
        let counted = [
            holders.count(("1", "a"), &uses(&[(7, false)])),
            holders.count(("2", "b"), &uses(&[(7, false)])),
        ];
        assert!(holders.claim(("3", "c"), &uses(&[(7, true)])).is_err());
        drop(counted);
        assert!(holders.lock().held.is_empty());
    }

    proptest! {
        /// Whatever is claimed and given up in whichever order, nobody is beside one who writes.
        #[test]
        fn nobody_is_beside_a_writer(
            steps in prop::collection::vec((any::<bool>(), prop::collection::btree_map(0..4u8, any::<bool>(), 1..3), any::<prop::sample::Index>()), 1..60),
        ) {
            let holders = Holders::default();
            let mut claims = Vec::new();
            for (number, (gives_up, volumes, which)) in steps.into_iter().enumerate() {
                if gives_up && !claims.is_empty() {
                    claims.swap_remove(which.index(claims.len()));
                } else {
                    let wanted = uses(&volumes.into_iter().collect::<Vec<_>>());
                    let before = holders.lock().held.clone();
                    match holders.claim((&number.to_string(), "n"), &wanted) {
                        Ok(claim) => claims.push(claim),
                        Err(_) => prop_assert_eq!(&holders.lock().held, &before),
                    }
                }
                for held in holders.lock().held.values() {
                    prop_assert!(held.len() == 1 || held.iter().all(|holder| !holder.writes));
                }
            }
            drop(claims);
            prop_assert!(holders.lock().held.is_empty());
        }
    }
}
