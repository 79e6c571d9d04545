//! What it takes to change this host's networks, and the right to.
//!
//! Abstract sockets, unix(7): one for each network namespace. Owner: [`super::host::HostNetworks`], behind its lock.
//! Invariant: one daemon at a time has a namespace's networks, for as long as it lives.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use super::NetworkError;
use super::links::Links;
use super::nft::Nft;

/// Who has this name has this host's networks: it is one for each network namespace, and goes with its process.
const LOCK: &[u8] = b"hull-networks";
/// The right to administer networks, `CAP_NET_ADMIN`.
const CAPABILITY: u32 = 12;
/// What it takes to change the host.
pub(super) struct Realm {
    pub(super) links: Links,
    pub(super) nft: Nft,
    _lock: UnixListener,
}

impl Realm {
    /// Takes this host's networks.
    pub(super) fn open() -> Result<Self, NetworkError> {
        if !may_administer() {
            return Err(NetworkError::Privilege);
        }
        let nft = Nft::find()?;
        if !Path::new("/dev/net/tun").exists() {
            return Err(NetworkError::Tun);
        }
        let name = SocketAddr::from_abstract_name(LOCK).map_err(NetworkError::Netlink)?;
        let lock = UnixListener::bind_addr(&name).map_err(|_| NetworkError::Held)?;
        Ok(Self { links: Links::connect()?, nft, _lock: lock })
    }
}

fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    effective & (1 << CAPABILITY) != 0
}
