//! Resolving what the user asked for into a boot plan, and starting the VMM that carries it out.
//!
//! Spawns `hull-vmm` and never links it. Owner: whoever starts a microVM.
#![forbid(unsafe_code)]

pub mod launch;
pub mod plan;
