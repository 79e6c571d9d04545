//! The agent against a real kernel: its server on Unix sockets, containers made from busybox in mount namespaces
//! of the tests' own. Needs root and a static busybox.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod exec;
mod host;
mod hostile;
mod identity;
mod image;
mod isolation;
mod lifetime;
mod protocol;
mod secrets;
mod start;
mod streams;
mod terminal;
mod transfer;
