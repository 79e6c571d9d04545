//! What a guest can do wrong on a virtqueue (virtio 1.2, section 2.7).
//!
//! Raised by the queue, the chains and the devices on the I/O thread; taken by the I/O loop, which puts the device
//! into `DEVICE_NEEDS_RESET` and goes on. A fault never ends the VMM, and a device that returned one is not called
//! again until it has been reset.

use std::io;

use vm_memory::GuestMemoryError;

/// The guest's driver broke the rules, or the host cannot serve the device any more: the device stops until the
/// driver resets it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A ring is outside of guest memory.
    #[error("a virtqueue lies outside of the guest's memory; the driver has to reset the device")]
    Ring(#[source] virtio_queue::Error),
    /// A descriptor table is outside of guest memory.
    #[error("guest memory could not be accessed; the driver has to reset the device")]
    Memory(#[from] GuestMemoryError),
    /// The available index moved on by more than the queue has room for.
    #[error(
        "the available index is {ahead} entries ahead in a queue of {size}; the driver has to reset the device"
    )]
    AvailableIndex {
        /// How many entries are unread, or handed out and not yet used.
        ahead: u16,
        /// The queue's size in descriptors.
        size: u16,
    },
    /// A descriptor index is outside of its table.
    #[error("descriptor {index} is outside of its table of {size}; the driver has to reset the device")]
    DescriptorIndex {
        /// The index the driver gave.
        index: u16,
        /// The table's length in descriptors.
        size: u16,
    },
    /// A chain has more descriptors than the queue (a loop, most likely).
    #[error("a chain has more than {limit} descriptors, or loops; the driver has to reset the device")]
    ChainLoop {
        /// The longest chain allowed, in descriptors.
        limit: u16,
    },
    /// An indirect descriptor breaks section 2.7.5.3.
    #[error("an indirect descriptor {0}; the driver has to reset the device")]
    Indirect(&'static str),
    /// A descriptor the device reads follows one it writes (section 2.7.4.2).
    #[error("a readable descriptor follows a writable one; the driver has to reset the device")]
    Order,
    /// A buffer is not in guest memory as a whole.
    #[error(
        "a buffer of {len} bytes at {addr:#x} is not in the guest's memory; the driver has to reset the device"
    )]
    Address {
        /// The guest physical address of the buffer.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// The buffers of a chain add up to 4 GiB or more (section 2.7.5.2).
    #[error("the buffers of a chain add up to 4 GiB or more; the driver has to reset the device")]
    Length,
    /// A chain is shorter than what the device has to read from it or write to it.
    #[error("a chain has {available} bytes where {needed} are needed; the driver has to reset the device")]
    Short {
        /// Bytes the device needs.
        needed: u32,
        /// Bytes there are.
        available: u32,
    },
    /// The host cannot serve the device: a descriptor could not be watched.
    #[error("the host cannot serve the device; see the cause, then reset the device")]
    Host(#[source] io::Error),
}
