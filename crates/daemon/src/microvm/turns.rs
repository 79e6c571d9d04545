//! Whose turn it is to boot.
//!
//! Guests that boot want a processor for themselves. Where many are started at once, each is up sooner when only a few boot at a
//! time, and none is given up because it got no processor at all. Shared by all runs. Invariants: tenants do not wait for each
//! other; a boot that takes longer than [`TURN`] keeps nobody waiting any more, whatever its guest does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// How many guests of a tenant boot at once, for each of the host's processors: some of what a boot does is waiting.
const EACH: usize = 2;
/// How long a boot keeps others waiting at most.
const TURN: Duration = Duration::from_secs(60);

/// The turns of one host.
#[derive(Debug)]
pub struct Turns {
    at_once: usize,
    longest: Duration,
    tenants: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _over: oneshot::Sender<()>,
}

impl Turns {
    /// Those of a host with so many processors.
    #[must_use]
    pub fn new(processors: u64) -> Self {
        let processors = usize::try_from(processors).unwrap_or(1).max(1);
        Self { at_once: processors.saturating_mul(EACH), longest: TURN, tenants: Mutex::default() }
    }

    /// Waits for a tenant's turn: first come, first served.
    pub(super) async fn take(&self, tenant: &str) -> Turn {
        let (over, is_over) = oneshot::channel::<()>();
        let turn = self.of(tenant).acquire_owned().await;
        let longest = self.longest;
        tokio::spawn(async move {
            let _held = turn;
            let _or_it_took_too_long = tokio::time::timeout(longest, is_over).await;
        });
        Turn { _over: over }
    }

    fn of(&self, tenant: &str) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has or waits for are as new ones.
        tenants.retain(|_, turns| Arc::strong_count(turns) > 1);
        let made = || Arc::new(Semaphore::new(self.at_once));
        tenants.entry(tenant.to_owned()).or_insert_with(made).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn soon<T>(wait: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(100), wait).await.ok()
    }

    #[tokio::test]
    async fn a_few_boot_at_once_and_no_tenant_waits_for_another() {
        let turns = Turns::new(1);
        let first = turns.take("a").await;
        let _second = turns.take("a").await;
        assert!(soon(turns.take("a")).await.is_none(), "three at once");
        assert!(soon(turns.take("b")).await.is_some());
        drop(first);
        assert!(soon(turns.take("a")).await.is_some());
    }

    #[tokio::test]
    async fn one_that_does_not_end_keeps_others_waiting_for_a_while_only() {
        let turns = Turns { longest: Duration::from_millis(300), ..Turns::new(1) };
        let _hang = [turns.take("a").await, turns.take("a").await];
        assert!(soon(turns.take("a")).await.is_none());
        assert!(tokio::time::timeout(Duration::from_secs(10), turns.take("a")).await.is_ok());
    }
}
