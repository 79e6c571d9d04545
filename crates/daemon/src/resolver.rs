//! The name server of Hull's networks: containers find each other by name, and everything else by the host's
//! resolvers.
//!
//! RFC 1034, 1035, 6891 (EDNS) and 7766 (TCP), on port 53 of each network's bridge address. Owner: the daemon;
//! its sockets are served by tasks of the daemon's runtime, a network's in one task, which ends with it. Invariant:
//! a client learns names of its own network only; who is no client of a network gets no answer; what one
//! client asks cannot use up more than its share of memory, sockets and upstream queries.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]

mod forward;
#[doc(hidden)]
pub mod fuzz;
mod message;
mod resolv_conf;
mod serve;
mod share;
mod zone;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use hull_protocol::network::InterfaceAddress;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use forward::Upstreams;
use serve::Sockets;
use share::Shares;
use zone::Zone;

/// The port of name servers.
pub const PORT: u16 = 53;

/// An answer from outside that is about to be sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The network's id, as [`Resolver::add_network`] was given it.
    pub network: String,
    /// Who asked.
    pub client: IpAddr,
    /// What for: in lower case, without the last dot.
    pub name: String,
    /// The addresses that the name leads to, through aliases too.
    pub addresses: Vec<IpAddr>,
    /// How long the client may take them for true.
    pub lifetime: Duration,
}

/// What is done about an answer before its client gets it, such as opening the way to its addresses; whether the client
/// may have it. It is waited for, but not longer than seconds.
pub type Watcher = Arc<dyn Fn(Answer) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Whether a client, named by its network's id and its address, may have a name asked for outside: by a network without
/// a way out, or to a policy that lists names, a question is a way out like any other. The name is in lower case,
/// without the last dot.
pub type Permit = Arc<dyn Fn(&str, IpAddr, &str) -> bool + Send + Sync>;

/// How a resolver works.
pub struct Options {
    /// The host's list of name servers, looked at again when it changes.
    pub resolv_conf: PathBuf,
    /// The port it listens on.
    pub port: u16,
    /// Who may ask outside; everybody when missing.
    pub permit: Option<Permit>,
    /// Who hears of answers from outside.
    pub watcher: Option<Watcher>,
    /// Its bounds.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            port: PORT,
            permit: None,
            watcher: None,
            limits: Limits::default(),
        }
    }
}

/// What a resolver does at one time, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries that wait for an answer, of all clients.
    pub queries: usize,
    /// Queries that wait for an answer, of one client.
    pub client_queries: usize,
    /// Queries a second of one client, and as many at once after silence.
    pub client_rate: u32,
    /// TCP connections of one network.
    pub connections: usize,
    /// TCP connections of one client.
    pub client_connections: usize,
    /// Clients of one network that are kept count of.
    pub clients: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries: 1024,
            client_queries: 128,
            client_rate: 1000,
            connections: 256,
            client_connections: 16,
            clients: 4096,
        }
    }
}

/// A container, as others of a network know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The names it goes by on that network; its addresses lead back to the first.
    pub names: Vec<String>,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// The ids of the other networks it is on: it knows their names too.
    pub others: Vec<String>,
}

/// Why a network has no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The network has one already.
    #[error("the network {0} has a resolver already: remove it first")]
    Taken(String),
    /// An address cannot be listened on.
    #[error(
        "the resolver cannot listen on {address}: the bridge has to have the address, and no other name server may be bound to it or to every address of the host"
    )]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

/// The name server of all networks of a daemon.
pub struct Resolver {
    port: u16,
    shared: Arc<Shared>,
    networks: Mutex<HashMap<String, Running>>,
}

/// What all networks share.
struct Shared {
    upstreams: Upstreams,
    permit: Option<Permit>,
    watcher: Option<Watcher>,
    queries: Arc<Semaphore>,
    limits: Limits,
    /// The names of each network that is served, by its id.
    zones: RwLock<HashMap<String, Arc<Zone>>>,
}

/// One network, as its tasks see it.
struct Network {
    id: String,
    /// The bridge's addresses: their networks are where clients are.
    addresses: Vec<InterfaceAddress>,
    shares: Shares,
}

/// A network's task, ended with this value.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Resolver {
    /// A resolver of no network yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let shared = Shared {
            upstreams: Upstreams::new(options.resolv_conf),
            permit: options.permit,
            watcher: options.watcher,
            queries: Arc::new(Semaphore::new(options.limits.queries)),
            limits: options.limits,
            zones: RwLock::default(),
        };
        Self { port: options.port, shared: Arc::new(shared), networks: Mutex::default() }
    }

    /// Serves a network on its bridge's addresses, for clients of these addresses' networks, and, when a `device` is
    /// named, for what arrives there only. Call it in the daemon's runtime.
    ///
    /// # Errors
    /// When the network is served already, or an address cannot be listened on.
    pub fn add_network(
        &self,
        id: &str,
        addresses: &[InterfaceAddress],
        device: Option<&str>,
    ) -> Result<(), ResolverError> {
        let mut networks = self.networks();
        if networks.contains_key(id) {
            return Err(ResolverError::Taken(id.to_owned()));
        }
        let mut sockets = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(address.address, self.port);
            let opened = Sockets::open(address, device);
            sockets.push(opened.map_err(|error| ResolverError::Listen { address, error })?);
        }
        let network = Arc::new(Network {
            id: id.to_owned(),
            addresses: addresses.to_vec(),
            shares: Shares::new(self.shared.limits),
        });
        let task = tokio::spawn(serve::serve(self.shared.clone(), network.clone(), sockets)).abort_handle();
        networks.insert(id.to_owned(), Running(task));
        self.shared.zones_mut().insert(id.to_owned(), Arc::default());
        Ok(())
    }

    /// Stops serving a network; false when it was not served.
    pub fn remove_network(&self, id: &str) -> bool {
        self.shared.zones_mut().remove(id);
        self.networks().remove(id).is_some()
    }

    /// Replaces all names of a network. False when the network is not served.
    pub fn set_names(&self, id: &str, containers: &[Container]) -> bool {
        let zone = Arc::new(Zone::new(containers));
        self.shared.zones_mut().get_mut(id).map(|old| *old = zone).is_some()
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn zone(&self, id: &str) -> Arc<Zone> {
        let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
        zones.get(id).cloned().unwrap_or_default()
    }

    fn zones_mut(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<Zone>>> {
        self.zones.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Whether an address is of this network.
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| same_network(*own, address))
    }
}

/// Whether an address is in the network of another.
fn same_network(own: InterfaceAddress, other: IpAddr) -> bool {
    let (own_bits, other_bits, width) = match (own.address, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => {
            (u128::from(own.to_bits()), u128::from(other.to_bits()), 32_u32)
        }
        (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width.saturating_sub(u32::from(own.prefix));
    own_bits.checked_shr(host_bits).unwrap_or(0) == other_bits.checked_shr(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests;
