//! Each client's share of a network's resolver.
//!
//! A token bucket of queries, and counts of what is under way. Owner: a network; every one of its tasks asks here
//! first. Invariant: no client has more under way than its share, and no more clients are kept count of than the limit
//! says; one that is forgotten has nothing under way and a full bucket.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Limits;

/// The shares of a network's clients.
#[derive(Clone)]
pub(super) struct Shares {
    limits: Limits,
    clients: Arc<Mutex<Clients>>,
}

#[derive(Default)]
struct Clients {
    by_address: HashMap<IpAddr, Client>,
    /// TCP connections of all of them.
    connections: usize,
}

struct Client {
    /// Queries it may send at once; a fraction is kept as nanoseconds not yet paid out.
    tokens: u32,
    paid_until: Instant,
    queries: usize,
    connections: usize,
}

/// What a client has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Query,
    Connection,
}

/// A place in a client's share; given back when it is dropped.
pub(super) struct Place {
    shares: Shares,
    client: IpAddr,
    kind: Kind,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.shares.clients();
        let Clients { by_address, connections } = &mut *clients;
        let Some(client) = by_address.get_mut(&self.client) else { return };
        match self.kind {
            Kind::Query => client.queries = client.queries.saturating_sub(1),
            Kind::Connection => {
                client.connections = client.connections.saturating_sub(1);
                *connections = connections.saturating_sub(1);
            }
        }
    }
}

impl Shares {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, clients: Arc::default() }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more of a kind; None when the client, or its network, has no more.
    pub(super) fn take(&self, address: IpAddr, kind: Kind, now: Instant) -> Option<Place> {
        let limits = self.limits;
        let mut clients = self.clients();
        let Clients { by_address, connections } = &mut *clients;
        if by_address.len() >= limits.clients && !by_address.contains_key(&address) {
            by_address.retain(|_, client| !client.is_idle(limits, now));
            if by_address.len() >= limits.clients {
                return None;
            }
        }
        let client = match by_address.entry(address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Client { tokens: limits.client_rate, paid_until: now, queries: 0, connections: 0 })
            }
        };
        match kind {
            Kind::Query => {
                client.pay(limits, now);
                if client.queries >= limits.client_queries {
                    return None;
                }
                client.tokens = client.tokens.checked_sub(1)?;
                client.queries = client.queries.saturating_add(1);
            }
            Kind::Connection => {
                if client.connections >= limits.client_connections || *connections >= limits.connections {
                    return None;
                }
                client.connections = client.connections.saturating_add(1);
                *connections = connections.saturating_add(1);
            }
        }
        Some(Place { shares: self.clone(), client: address, kind })
    }
}

impl Client {
    /// Fills the bucket for the time that has passed.
    fn pay(&mut self, limits: Limits, now: Instant) {
        let passed = now.saturating_duration_since(self.paid_until).as_nanos();
        let rate = u128::from(limits.client_rate);
        let earned = passed.saturating_mul(rate).checked_div(1_000_000_000).unwrap_or(0);
        if earned == 0 {
            return;
        }
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(earned).min(limits.client_rate);
        // Less than one token's worth of time is lost, and only when a client asks that fast.
        self.paid_until = now;
    }

    fn is_idle(&mut self, limits: Limits, now: Instant) -> bool {
        self.pay(limits, now);
        self.queries == 0 && self.connections == 0 && self.tokens == limits.client_rate
    }
}

#[cfg(test)]
mod tests;
