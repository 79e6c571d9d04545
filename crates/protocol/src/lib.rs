//! The nouns and the wire formats that Hull's programs share.
//!
//! Pure data: no I/O, no threads, no `unsafe`. What crosses a border between two of Hull's programs is
//! described here and nowhere else:
//!
//! | border | module |
//! |---|---|
//! | user and REST clients to the daemon | [`spec`], [`api`], [`exec`], [`health`], [`life`], [`mount`], [`network`], [`secret`], [`stream`] |
//! | daemon to `hull-vmm` | [`plan`] (once, at start), [`control`] (while it runs), [`exit`] (at the end) |
//! | all of them, and logs | [`trace`] |
//! | daemon to `hull-agent` in the guest | [`agent`] and [`transfer`], framed by [`frame`] |
//!
//! Invariant: every type that is read from outside refuses unknown fields and out-of-range values when it
//! is decoded, so code that holds one need not check it again.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod control;
pub mod exec;
pub mod exit;
pub mod frame;
pub mod health;
pub mod life;
pub mod mount;
pub mod network;
pub mod plan;
pub mod secret;
pub mod spec;
pub mod stream;
pub mod trace;
pub mod transfer;
pub mod units;
