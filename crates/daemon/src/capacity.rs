//! What running microVMs have been promised of the host's memory and processors, and where that ends.
//!
//! Shared by all actors. Invariant: the promises to microVMs that run never exceed the limits, but for those that ran
//! already when this daemon started: those are counted, not judged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::api::Capacity as Shown;
use hull_protocol::units::Bytes;

use crate::cgroup::overhead;

/// How much of the host may be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overcommit {
    /// Memory, in percent of what the host has.
    pub memory_percent: u32,
    /// Virtual CPUs for each of the host's.
    pub cpus_each: u32,
}

impl Default for Overcommit {
    /// No memory that is not there; processors are shared out by the kernel's scheduler.
    fn default() -> Self {
        Self { memory_percent: 100, cpus_each: 32 }
    }
}

/// What one microVM is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The guest's memory and what its VMM needs.
    pub memory: Bytes,
    /// Virtual CPUs.
    pub cpus: u64,
}

impl Share {
    /// That of a machine of this size.
    pub fn of(memory: Bytes, cpus: u8) -> Self {
        let memory = Bytes(memory.get().saturating_add(overhead(memory, cpus).get()));
        Self { memory, cpus: cpus.into() }
    }

    fn plus(self, other: Self) -> Self {
        let memory = Bytes(self.memory.get().saturating_add(other.memory.get()));
        Self { memory, cpus: self.cpus.saturating_add(other.cpus) }
    }
}

/// Why a microVM cannot be started now.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OverCapacity {
    /// Memory.
    #[error(
        "this host has promised {promised} of {limit} of memory, and {wanted} more is not there: stop a microVM, \
         give this one less memory, or start the daemon with a higher --memory-overcommit"
    )]
    Memory {
        /// What running microVMs have.
        promised: Bytes,
        /// The most they may.
        limit: Bytes,
        /// What this one needs.
        wanted: Bytes,
    },
    /// Processors.
    #[error(
        "this host has promised {promised} of {limit} virtual CPUs, and {wanted} more are too many: stop a microVM, \
         give this one fewer CPUs, or start the daemon with a higher --cpu-overcommit"
    )]
    Cpus {
        /// What running microVMs have.
        promised: u64,
        /// The most they may.
        limit: u64,
        /// What this one needs.
        wanted: u64,
    },
}

/// Judges one more share. Pure.
///
/// # Errors
/// When it does not fit.
pub fn fits(limit: Share, promised: Share, wanted: Share) -> Result<(), OverCapacity> {
    let sum = promised.plus(wanted);
    if sum.memory > limit.memory {
        return Err(OverCapacity::Memory {
            promised: promised.memory,
            limit: limit.memory,
            wanted: wanted.memory,
        });
    }
    if sum.cpus > limit.cpus {
        return Err(OverCapacity::Cpus { promised: promised.cpus, limit: limit.cpus, wanted: wanted.cpus });
    }
    Ok(())
}

/// The promises of one daemon. Clones share them.
#[derive(Clone, Debug)]
pub struct Capacity {
    limit: Share,
    promised: Arc<Mutex<HashMap<u64, Share>>>,
}

/// A promise; given back when it is dropped.
#[derive(Debug)]
pub struct Promise {
    number: u64,
    capacity: Capacity,
}

impl Capacity {
    /// None promised yet, of a host with this memory and so many processors.
    pub fn new(overcommit: Overcommit, memory: Bytes, cpus: u64) -> Self {
        let percent = memory.get() / 100 * u64::from(overcommit.memory_percent);
        let limit =
            Share { memory: Bytes(percent), cpus: cpus.saturating_mul(u64::from(overcommit.cpus_each)) };
        Self { limit, promised: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Share>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises a share, if it fits.
    ///
    /// # Errors
    /// When it does not.
    pub fn promise(&self, wanted: Share) -> Result<Promise, OverCapacity> {
        let mut promised = self.lock();
        fits(self.limit, sum(&promised), wanted)?;
        Ok(self.enter(&mut promised, wanted))
    }

    /// Counts the share of what runs already.
    pub fn count(&self, share: Share) -> Promise {
        self.enter(&mut self.lock(), share)
    }

    fn enter(&self, promised: &mut HashMap<u64, Share>, share: Share) -> Promise {
        let free = (0..).find(|number| !promised.contains_key(number));
        let number = free.unwrap_or(u64::MAX);
        promised.insert(number, share);
        Promise { number, capacity: self.clone() }
    }

    /// For the API.
    pub fn shown(&self) -> Shown {
        let promised = sum(&self.lock());
        Shown {
            memory: promised.memory,
            memory_limit: self.limit.memory,
            cpus: promised.cpus,
            cpus_limit: self.limit.cpus,
        }
    }
}

fn sum(promised: &HashMap<u64, Share>) -> Share {
    promised.values().fold(Share::default(), |sum, share| sum.plus(*share))
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.capacity.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn share(mib: u64, cpus: u64) -> Share {
        Share { memory: Bytes::mib(mib), cpus }
    }

    #[test]
    fn what_fits_exactly_fits_and_what_does_not_is_refused_in_words() {
        let limit = share(1000, 4);
        assert_eq!(fits(limit, share(600, 2), share(400, 2)), Ok(()));
        let memory = fits(limit, share(600, 2), share(401, 1)).unwrap_err();
        assert!(memory.to_string().contains("600 MiB of 1000 MiB"), "{memory}");
        let cpus = fits(limit, share(600, 2), share(1, 3)).unwrap_err();
        assert!(cpus.to_string().contains("2 of 4 virtual CPUs"), "{cpus}");
        let absurd = Share { memory: Bytes(u64::MAX), cpus: u64::MAX };
        assert!(fits(limit, share(1, 1), absurd).is_err());
    }

    #[test]
    fn promises_are_given_back() {
        let overcommit = Overcommit { memory_percent: 50, cpus_each: 2 };
        let capacity = Capacity::new(overcommit, Bytes::gib(2), 2);
        let first = capacity.promise(share(600, 2)).unwrap();
        assert!(capacity.promise(share(600, 1)).is_err());
        let counted = capacity.count(share(900, 9));
        assert_eq!(capacity.shown().cpus, 11);
        drop((first, counted));
        assert_eq!(capacity.shown().memory, Bytes(0));
        assert!(capacity.promise(share(1000, 4)).is_ok());
    }
}
