//! Virtio 1.2 devices and what they stand on, free of any hypervisor.
//!
//! The crate knows guest memory, host descriptors and nothing of KVM, so that every part of it runs in a unit
//! test or a fuzzer anywhere. From the bottom up:
//!
//! - [`chain`] and [`queue`]: split virtqueues (section 2.7). A guest's bytes are read once, checked, and only then
//!   believed; there is never a Rust reference into guest memory.
//! - [`iovec`]: host system calls straight from and to guest memory, the one place with unsafe code.
//! - [`device`]: the trait a device implements, and what it is lent while it works.
//! - [`registers`]: device status, features and queue configuration as one state machine (sections 2.1 to 2.4, 3.1).
//! - [`needs_reset`]: the status bit that the device sets, while the transport writes the register.
//! - [`mmio`]: the virtio-mmio transport (section 4.2), which only decodes addresses.
//! - [`window`]: what a driver reads, in a page that the guest may map.
//! - [`bucket`]: how much may pass in a time.
//! - [`block`], [`net`], [`rng`], [`vsock`]: the devices.
//!
//! A device has exactly one owner at a time: the transport before the driver is ready, the I/O loop after it. It holds
//! no threads, no epoll and no locks. A guest that breaks the rules gets a [`fault::Fault`], which costs it that device
//! until it resets it, and nothing else.

pub mod block;
pub mod bucket;
pub mod chain;
pub mod device;
pub mod fault;
pub mod iovec;
mod log_limit;
pub mod mmio;
pub mod needs_reset;
pub mod net;
pub mod queue;
pub mod registers;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod vsock;
pub mod window;

/// What threads share by. `tests/needs_reset.rs` has a model in its place, which goes through every order of their steps.
mod sync {
    pub use std::sync::atomic;
}
