//! The daemon: what the user asked for, resolved, started, watched and remembered.
//!
//! | module | what it holds |
//! |---|---|
//! | [`api`] | the REST API: thin handlers over the actors and stores |
//! | [`microvm`] | one actor for each microVM, the only writer of its state |
//! | [`fleet`] | all of them, by id and name |
//! | [`view`] | what one tenant has of it: all that a handler gets |
//! | [`tenants`], [`audit`] | who there is, with which tokens and quotas, and what they did |
//! | [`door`] | who comes in: connections, TLS, whose a request is |
//! | [`state`] | what survives the daemon, in SQLite |
//! | [`kernel`] | kernel bundles |
//! | [`volumes`] | disks that outlive microVMs, and who has which |
//! | [`resolver`] | names of containers, for each network |
//! | [`network`] | the host's networks |
//! | `trace` | which request a line of a log belongs to |
//! | [`events`], [`stats`], [`metrics`] | what happens, and what it costs |
//! | [`cgroup`], [`capacity`], [`space`] | what the host gives, and where that ends |
//! | [`plan`], [`launch`], [`disk`] | from a specification to a running `hull-vmm`, which is spawned and never linked |
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod audit;
pub mod capacity;
pub mod cgroup;
pub mod clock;
pub mod disk;
pub mod door;
pub mod events;
pub mod fleet;
pub mod kernel;
pub mod launch;
mod leftovers;
pub mod metrics;
pub mod microvm;
pub mod network;
mod notify;
pub mod paths;
pub mod plan;
pub mod resolver;
pub mod secrets;
pub mod serve;
pub mod space;
pub mod state;
pub mod stats;
pub mod tenants;
mod trace;
pub mod trust;
pub mod view;
pub mod volumes;

/// The credentials that the user's Docker configuration has for an image's registry.
pub use hull_image::credentials_for;
/// Packs a directory for an import.
pub use hull_image::pack_directory;
