//! The host's networks: bridges, addresses, rules and published ports.
//!
//! | module | what it holds |
//! |---|---|
//! | [`host`], [`catalog`] | what the host has of all this, brought about and kept so; which networks there are |
//! | [`wishes`], [`guest`] | what a microVM asks for, checked; what its guest and its VMM are told |
//! | [`subnet`], [`address`], [`egress`] | pure: which subnet, which address, which destinations |
//! | [`ruleset`], [`elements`], [`nft`] | the packet filter: fixed rules, what changes in their sets, the program |
//! | [`links`], [`forwarding`] | bridges and taps; kernel parameters |
//! | [`firewall`] | filters of others that are in the way |
//! | `lend` | cards for plain VMs |
//! | `names` | the resolver's part in all this |
//! | [`publish`], [`proxy`] | ports of the host that lead to a guest |
//!
//! What is wanted is in the state; what is there follows from it at any time (`docs/decisions/0009`).

pub mod address;
pub mod catalog;
pub mod egress;
pub mod elements;
mod error;
pub mod firewall;
pub mod forwarding;
pub mod guest;
pub mod host;
mod lend;
pub mod links;
mod names;
pub mod nft;
pub mod proxy;
pub mod publish;
mod realm;
pub mod ruleset;
pub mod subnet;
pub mod wishes;

pub use self::catalog::Owner;
pub use self::error::NetworkError;
pub use self::host::{Attached, HostNetworks};
