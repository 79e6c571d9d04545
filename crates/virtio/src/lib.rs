//! Virtio queues, transports and devices, free of any hypervisor.
//!
//! Implements the parts of the OASIS *Virtual I/O Device (VIRTIO) 1.2* specification that a microVM needs: split
//! virtqueues (2.7), the device status and feature state machine (2.1, 2.2, 3.1), the MMIO transport (4.2), and
//! the block (5.2), entropy (5.4) and socket (5.10) devices.
//!
//! A device is plain data with callbacks: no threads, no event loop, no locks. Whoever owns it calls it with a
//! [`Context`] that lends it guest memory, its queues, its interrupt and its watch list, so every device runs in
//! a unit test as it runs in a VM. Whatever a guest does yields at worst a [`Fault`], which breaks that guest's
//! device until the guest resets it, and nothing else.

pub mod block;
mod device;
pub mod mmio;
mod queue;
mod registers;
pub mod rng;
#[cfg(test)]
mod testing;

pub use device::{
    Context, Device, DeviceId, DeviceInfo, Fault, Interest, Interrupt, Memory, Ready, TIMER, Watch,
};
pub use queue::{Buffers, Chain, Queue};
