//! The first process of a container's guest: mounts its root, runs its process, and carries its streams.
//!
//! The library holds what runs on any Linux; `main.rs` is PID 1. Threads: one accepts control connections,
//! one accepts streams, one for each control connection, one for each process, one for each of its streams. Invariant: whatever the host or the image sends, the agent itself goes on.

mod binds;
pub mod boot;
mod exec;
mod files;
pub mod interfaces;
mod join;
pub mod kmsg;
mod messages;
mod mounts;
mod netlink;
mod plumbing;
mod process;
mod processes;
mod pump;
mod secrets;
pub mod server;
pub mod setup;
mod signal;
mod spawn;
pub mod stage;
mod streams;
mod top;
mod transfer;
mod user;
mod volumes;
