//! What a device is, and what it is lent while it works.
//!
//! Owner: the transport until DRIVER_OK, the I/O loop from then until the guest resets the device. It is moved
//! between the two, never shared.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::queue::Queue;

/// Guest memory, as every device sees it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// What every device offers whatever else it does: VERSION_1, indirect descriptors, event index.
pub(crate) const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The device types of VIRTIO 1.2, section 5, that Hull has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceId {
    /// A block device, section 5.2.
    Block = 2,
    /// An entropy device, section 5.4.
    Rng = 4,
    /// A socket device, section 5.10.
    Vsock = 19,
}

/// What a device is, fixed for its life.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// Its type.
    pub id: DeviceId,
    /// The feature bits it offers.
    pub features: u64,
    /// The largest size of each of its queues, in descriptors.
    pub queue_sizes: &'static [u16],
}

/// The guest broke the rules of this device. The device then asks for a reset and does nothing until it gets one.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A ring or a descriptor is outside guest memory or contradicts itself.
    #[error("queue {queue}: the guest's ring or descriptor is not usable")]
    Ring {
        /// The queue's index.
        queue: usize,
        /// What the queue found.
        #[source]
        source: virtio_queue::Error,
    },
    /// A request does not have the form its device demands.
    #[error("the guest sent a malformed request: {0}")]
    Request(&'static str),
    /// The host could not watch a descriptor that the device needs.
    #[error("the host could not serve the device")]
    Host(#[from] io::Error),
}

/// What a watched descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Data to read, or the other end's hang-up.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

/// What a watched descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Reading makes progress.
    pub read: bool,
    /// Writing makes progress.
    pub write: bool,
    /// The other end is gone or the descriptor failed.
    pub hangup: bool,
}

/// The token with which [`Device::on_source`] is called when the device's timer is due.
pub const TIMER: u32 = u32::MAX;

/// The device's way to its event loop: level-triggered descriptors and one timer.
pub trait Watch {
    /// Watches a descriptor.
    ///
    /// # Errors
    /// When the host has no room for it.
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;
    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// When it is not watched.
    fn modify(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;
    /// Stops watching a descriptor; harmless when it is not watched.
    fn remove(&mut self, fd: BorrowedFd<'_>);
    /// Calls [`Device::on_source`] with [`TIMER`] once, after so long; a timer already set is replaced.
    fn timer(&mut self, after: Duration);
}

/// How a device reaches the guest's attention.
pub trait Interrupt: Send + Sync {
    /// A queue has used buffers.
    fn queue(&self, index: usize);
    /// The device's status or configuration has changed.
    fn config(&self);
}

/// What a device is lent for the length of one call.
pub struct Context<'a> {
    /// Guest memory.
    pub mem: &'a Memory,
    /// The device's queues, as the driver configured them.
    pub queues: &'a mut [Queue],
    /// The device's interrupt.
    pub interrupt: &'a dyn Interrupt,
    /// The device's watch list.
    pub watch: &'a mut dyn Watch,
    /// The features the driver accepted.
    pub features: u64,
}

impl Context<'_> {
    /// The next chain of a queue, or none: the driver will then notify for the next one.
    ///
    /// # Errors
    /// When the ring is not usable.
    pub fn pop(&mut self, queue: usize) -> Result<Option<crate::queue::Chain>, Fault> {
        let mem = self.mem;
        self.queue(queue)?.pop(mem).map_err(|source| Fault::Ring { queue, source })
    }

    /// Hands a chain back with so many bytes written to it.
    ///
    /// # Errors
    /// When the used ring is not usable.
    pub fn push(&mut self, queue: usize, chain: crate::queue::Chain, written: u32) -> Result<(), Fault> {
        let mem = self.mem;
        self.queue(queue)?.push(mem, chain, written).map_err(|source| Fault::Ring { queue, source })
    }

    /// Interrupts the driver for a queue, unless it asked not to be.
    ///
    /// # Errors
    /// When the ring is not usable.
    pub fn signal(&mut self, queue: usize) -> Result<(), Fault> {
        let mem = self.mem;
        if self.queue(queue)?.should_signal(mem).map_err(|source| Fault::Ring { queue, source })? {
            self.interrupt.queue(queue);
        }
        Ok(())
    }

    fn queue(&mut self, index: usize) -> Result<&mut Queue, Fault> {
        self.queues.get_mut(index).ok_or(Fault::Request("a queue that the device does not have"))
    }
}

/// A virtio device.
pub trait Device: Send {
    /// What it is; the same at every call.
    fn info(&self) -> DeviceInfo;
    /// Its configuration space. The guest reads it; writes to it are ignored.
    fn config(&self) -> Vec<u8>;
    /// The driver is ready (DRIVER_OK).
    ///
    /// # Errors
    /// When the device cannot work with what the driver set up.
    fn start(&mut self, _ctx: &mut Context<'_>) -> Result<(), Fault> {
        Ok(())
    }
    /// The driver has notified a queue. Does a bounded amount of work; returns whether some is left, so that
    /// the loop calls again after the other devices had their turn.
    ///
    /// # Errors
    /// When the guest broke the rules.
    fn on_queue(&mut self, ctx: &mut Context<'_>, queue: usize) -> Result<bool, Fault>;
    /// A watched descriptor is ready, or the timer ([`TIMER`]) is due.
    ///
    /// # Errors
    /// When the guest broke the rules.
    fn on_source(&mut self, _ctx: &mut Context<'_>, _token: u32, _ready: Ready) -> Result<(), Fault> {
        Ok(())
    }
    /// Finishes or hands back all that is in flight. Does no harm when called twice.
    fn drain(&mut self, _ctx: &mut Context<'_>) {}
    /// Forgets everything the driver set up: the device is as it was before [`Device::start`].
    fn reset(&mut self) {}
}
