//! How many connections there are, and of whom: none has more than its share.
//!
//! Shared by all listeners. Invariant: a connection has a place for as long as it is open, as a stream too.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections from one address, or from one network of IPv6.
const OF_ADDRESS: usize = 64;
/// The most connections of one user of the host.
const OF_USER: usize = 256;
/// The most connections from all addresses.
const OF_ALL_ADDRESSES: usize = 1024;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A user of the host, over the unix socket.
    User(u32),
    /// Somebody at an address.
    Address(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(_) => f.write_str("unix"),
            Self::Address(address) => write!(f, "{}", address.ip().to_canonical()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    User(u32),
    V4([u8; 4]),
    /// The first half: the network, which one peer has all of.
    V6([u16; 4]),
    AllAddresses,
}

impl Peer {
    fn shares(&self) -> Vec<(Share, usize)> {
        match self {
            Self::User(uid) => vec![(Share::User(*uid), OF_USER)],
            Self::Address(address) => {
                let own = match address.ip().to_canonical() {
                    IpAddr::V4(address) => Share::V4(address.octets()),
                    IpAddr::V6(address) => {
                        let [a, b, c, d, ..] = address.segments();
                        Share::V6([a, b, c, d])
                    }
                };
                vec![(own, OF_ADDRESS), (Share::AllAddresses, OF_ALL_ADDRESSES)]
            }
        }
    }
}

/// All connections. Clones share them.
#[derive(Clone, Default)]
pub struct Peers(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    all: usize,
    shares: HashMap<Share, usize>,
}

/// A connection's place; given back when it is dropped.
pub struct Place {
    peers: Peers,
    shares: Vec<(Share, usize)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        counts.all = counts.all.saturating_sub(1);
        for (share, _) in &self.shares {
            if let Some(count) = counts.shares.get_mut(share) {
                *count = count.saturating_sub(1);
            }
        }
        counts.shares.retain(|_, count| *count > 0);
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.lock().all
    }

    /// A place for one more; none when its share is used up. The daemon's own users have no limit.
    pub fn enter(&self, peer: &Peer, unlimited: bool) -> Option<Place> {
        let shares = if unlimited { Vec::new() } else { peer.shares() };
        let mut counts = self.lock();
        let full =
            |(share, most): &(Share, usize)| counts.shares.get(share).is_some_and(|count| count >= most);
        if shares.iter().any(full) {
            return None;
        }
        counts.all = counts.all.saturating_add(1);
        for (share, _) in &shares {
            *counts.shares.entry(*share).or_default() += 1;
        }
        Some(Place { peers: self.clone(), shares })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn at(address: &str) -> Peer {
        Peer::Address(SocketAddr::new(address.parse().unwrap(), 1))
    }

    fn places(peers: &Peers, peer: &Peer) -> Vec<Place> {
        (0..5000).map_while(|_| peers.enter(peer, false)).collect()
    }

    #[test]
    fn nobody_has_more_than_its_share() {
        let peers = Peers::default();
        let one = places(&peers, &at("192.0.2.1"));
        assert_eq!((one.len(), places(&peers, &at("::ffff:192.0.2.1")).len()), (OF_ADDRESS, 0));
        assert_eq!(places(&peers, &at("192.0.2.2")).len(), OF_ADDRESS);
        let network = places(&peers, &at("2001:db8::1"));
        assert_eq!((network.len(), places(&peers, &at("2001:db8::2")).len()), (OF_ADDRESS, 0));
        assert_eq!(places(&peers, &at("2001:db8:0:1::2")).len(), OF_ADDRESS);
        assert_eq!(places(&peers, &Peer::User(7)).len(), OF_USER);
        assert_eq!((0..5000).filter_map(|_| peers.enter(&Peer::User(0), true)).count(), 5000);
        assert_eq!(peers.count(), one.len() + network.len());
        drop((one, network));
        assert_eq!(places(&peers, &at("192.0.2.1")).len(), OF_ADDRESS);
        assert!(peers.count() == 0 && peers.lock().shares.is_empty());
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let peers = Peers::default();
        let all: Vec<Place> =
            (0..=255).flat_map(|last| places(&peers, &at(&format!("192.0.2.{last}")))).collect();
        assert_eq!(all.len(), OF_ALL_ADDRESSES);
    }
}
