//! The trait a virtio device implements and what it is lent while it works (virtio 1.2, section 2).
//!
//! A device is owned by its transport before the driver sets `DRIVER_OK` and by the I/O loop after it: moved, never
//! shared. Every call comes from that one owner, so a device has no threads, no epoll and no locks of its own; what
//! it needs from the host it reaches through [`Context`]. Invariant: whatever a guest writes, a call returns in
//! bounded time; what is left over is taken up again by [`Watch::timer`].

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::fault::Fault;
use crate::queue::Queue;

/// A guest's memory.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// The token with which [`Device::on_source`] is called when the device's timer is due.
pub const TIMER_TOKEN: u32 = u32::MAX;

/// What kind of device it is (virtio 1.2, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceId {
    /// A network card (section 5.1).
    Net = 1,
    /// A block device (section 5.2).
    Block = 2,
    /// An entropy source (section 5.4).
    Rng = 4,
    /// A socket device (section 5.10).
    Vsock = 19,
}

/// What a device is and offers, the same for its whole life.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// The kind of device.
    pub id: DeviceId,
    /// The feature bits offered, those of the device and those of the queues and the transport.
    pub features: u64,
    /// For each queue its greatest size in descriptors, a power of two.
    pub queue_sizes: &'static [u16],
}

/// A virtio device, whatever the transport.
pub trait Device: Send {
    /// What it is and offers. Must not change.
    fn info(&self) -> DeviceInfo;

    /// The image of its configuration space, little endian, read-only to the driver. Changes with [`Device::grow`] only.
    fn config(&self) -> Vec<u8>;

    /// The host has made what the device keeps its data on larger, to so many bytes. The new configuration space, if
    /// that is now another; the owner shows it to the driver and signals a configuration interrupt.
    fn grow(&mut self, _bytes: u64) -> Option<Vec<u8>> {
        None
    }

    /// The driver is ready (`DRIVER_OK`): start watching, look at the queues.
    ///
    /// # Errors
    /// A [`Fault`] stops the device until the driver resets it.
    fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault>;

    /// The driver put something into a queue. Called too often is harmless, called for an index the device does
    /// not have as well.
    ///
    /// # Errors
    /// A [`Fault`] stops the device until the driver resets it.
    fn on_queue(&mut self, ctx: &mut Context<'_>, index: usize) -> Result<(), Fault>;

    /// A watched descriptor is ready, or the timer is due ([`TIMER_TOKEN`]; `ready` means nothing then). Late and
    /// unknown tokens are harmless.
    ///
    /// # Errors
    /// A [`Fault`] stops the device until the driver resets it.
    fn on_source(&mut self, ctx: &mut Context<'_>, token: u32, ready: Ready) -> Result<(), Fault>;

    /// Finishes or hands back everything in flight, so that the queues alone say what the guest is owed. Watches
    /// and timer stay: after a pause the device just goes on. Idempotent.
    fn drain(&mut self, ctx: &mut Context<'_>);

    /// Back to before [`Device::start`]: all the guest's state is dropped. The owner drains first, then drops every
    /// watch and the timer of this device, then calls this; [`Device::start`] adds them anew.
    fn reset(&mut self);
}

/// What a device is lent for one call.
pub struct Context<'a> {
    /// The guest's memory.
    pub mem: &'a Memory,
    /// The device's queues, in the order of [`DeviceInfo::queue_sizes`], all of them, ready or not.
    pub queues: &'a mut [Queue],
    /// How to interrupt the guest.
    pub interrupt: &'a dyn Interrupt,
    /// How to wait for host descriptors and time.
    pub watch: &'a mut dyn Watch,
    /// The feature bits negotiated.
    pub features: u64,
}

/// Interrupts the guest on behalf of one device.
pub trait Interrupt: Send + Sync {
    /// Queue `index` has used buffers the driver wants to know about.
    fn queue(&self, index: usize);
    /// The configuration or the device status changed.
    fn config(&self);
    /// The field of 16 bits at this offset of the configuration space, which is even, is now another.
    fn config_field(&self, offset: u64, field: u16);
}

/// Waits for host descriptors on behalf of one device. Level-triggered.
pub trait Watch {
    /// Watches `fd`; [`Device::on_source`] is called with `token` as long as one of `interest` is there.
    ///
    /// # Errors
    /// The host's, from `epoll_ctl`: the descriptor is watched already, or the host has no room for more.
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// The host's, from `epoll_ctl`: the descriptor is not watched.
    fn modify(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Stops watching `fd`. The device does so before it closes the descriptor. One call may still be on its way.
    fn remove(&mut self, fd: BorrowedFd<'_>);

    /// Calls [`Device::on_source`] with [`TIMER_TOKEN`] after this time. There is one timer per device: arming it
    /// again replaces it. Zero means: after the other devices had their turn.
    fn timer(&mut self, after: Duration);
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Only that the other end is gone (`EPOLLHUP`, `EPOLLERR`), which the others report too.
    Hangup,
    /// Something can be read (`EPOLLIN`).
    Read,
    /// Something can be written (`EPOLLOUT`).
    Write,
    /// Either.
    Both,
}

impl Interest {
    /// Whether reading is of interest.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether writing is of interest.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// What a watched descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Reading makes progress: data, end of file, or an error to collect (`EPOLLIN`).
    pub readable: bool,
    /// Writing makes progress (`EPOLLOUT`).
    pub writable: bool,
    /// The other end is gone in both directions, or the descriptor failed (`EPOLLHUP`, `EPOLLERR`). What was
    /// received before may still be read.
    pub hangup: bool,
}
