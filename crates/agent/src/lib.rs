//! The first process of a container's guest: mounts its root, runs its process, and carries its streams.
//!
//! The library holds what runs on any Linux; `main.rs` is PID 1. Threads: one accepts control connections,
//! one accepts streams, one for each control connection, one for the container's process, one for each of its
//! streams. Invariant: whatever the host or the image sends, the agent itself goes on.

pub mod boot;
mod exec;
pub mod interfaces;
pub mod kmsg;
mod mounts;
mod netlink;
mod process;
mod pump;
pub mod server;
pub mod setup;
mod signal;
pub mod stage;
mod streams;
mod user;
