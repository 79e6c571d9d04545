//! Why a network cannot be had, and what to do about it.

use std::io;

use hull_protocol::network::NETS_MAX;
use ipnet::IpNet;

use super::nft::NftError;
use crate::state::StateError;
use crate::tenants::quota::OverQuota;

/// Why a network cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The daemon may not.
    #[error("networks need the right to administer the host's: run the daemon as root")]
    Privilege,
    /// Another daemon has them.
    #[error("another hull daemon has this host's networks: stop it, or use it (-H)")]
    Held,
    /// No taps.
    #[error("/dev/net/tun is missing: load the module with 'modprobe tun'")]
    Tun,
    /// The packet filter.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The kernel cannot be spoken to.
    #[error("the kernel's network configuration cannot be reached")]
    Netlink(#[source] io::Error),
    /// The kernel refused something.
    #[error("the kernel did not {0}")]
    Link(String, #[source] rtnetlink::Error),
    /// Somebody removed it.
    #[error("the link {0} has been removed by somebody else: try again")]
    Gone(String),
    /// A kernel parameter.
    #[error("the kernel parameter {0} cannot be set")]
    Parameter(String, #[source] io::Error),
    /// A tap.
    #[error(transparent)]
    Tap(#[from] hull_tap::TapError),
    /// It could not be remembered, or is not there.
    #[error(transparent)]
    State(#[from] StateError),
    /// A name that none can have.
    #[error(
        "'{0}' is no name of a network: use up to 63 letters, digits, '_', '.' and '-', the first a letter or digit"
    )]
    Name(String),
    /// A name with a meaning.
    #[error("a network cannot be called '{0}': that word has a meaning of its own")]
    Reserved(String),
    /// A subnet that cannot be.
    #[error("the subnet {subnet} is not possible: {why}")]
    Subnet {
        /// As it was written.
        subnet: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A subnet that is taken.
    #[error("the subnet {wanted} overlaps {taken}, which is {by}: choose another")]
    Overlap {
        /// What was asked for.
        wanted: IpNet,
        /// What is there.
        taken: IpNet,
        /// Whose it is.
        by: String,
    },
    /// A subnet that somebody has.
    #[error("the subnet {0} is in use on this host: choose another")]
    Occupied(IpNet),
    /// Its tenant has as many as it may.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// No subnet is free.
    #[error("no private subnet is free on this host: give one with --subnet, or remove networks")]
    NoSubnet,
    /// An MTU that cannot be.
    #[error("an MTU of {0} is not possible: give 1280 to 65535")]
    Mtu(u16),
    /// An egress policy that cannot be.
    #[error("the egress policy is not possible: {0}")]
    Egress(String),
    /// Too many cards.
    #[error("a microVM can be on {NETS_MAX} networks at most, not on {0}")]
    TooMany(usize),
    /// Anything else that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A port that somebody has.
    #[error("the port {0} of the host is taken: stop what has it, or publish another")]
    PortTaken(String),
    /// A port that cannot be had.
    #[error("the port {0} of the host cannot be published")]
    Port(String, #[source] io::Error),
}

impl NetworkError {
    /// Whether it is the host that cannot, not the wish that cannot be.
    pub fn is_of_host(&self) -> bool {
        use NetworkError as E;
        match self {
            E::Privilege | E::Held | E::Tun | E::Nft(_) | E::Netlink(_) | E::Link(..) | E::Gone(_) => true,
            E::Parameter(..) | E::Tap(_) | E::NoSubnet => true,
            E::State(error) => matches!(error, StateError::Database(_) | StateError::Record(_)),
            _ => false,
        }
    }
}
