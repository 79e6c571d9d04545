//! A driver for tests: builds rings and chains in guest memory as a guest would, well and badly.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use crate::device::{Context, Device, Interest, Interrupt, Memory, Ready, TIMER_TOKEN, Watch};
use crate::fault::Fault;
use crate::queue::Queue;
use crate::registers::{F_COMMON, QueueConfig};

/// Guest memory of two regions that touch, so that a buffer can cross from one to the other.
pub(crate) const REGION: u64 = 1 << 20;
const RINGS: u64 = 0x1000;
/// Where a test may put its buffers.
pub(crate) const DATA: u64 = 0x4_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

#[derive(Default)]
pub(crate) struct Interrupts(pub(crate) AtomicUsize, pub(crate) AtomicUsize);

impl Interrupt for Interrupts {
    fn queue(&self, _index: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {}
    fn config_field(&self, _offset: u64, _field: u16) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct WatchList {
    pub(crate) watched: std::collections::BTreeMap<i32, (u32, Interest)>,
    pub(crate) timer: Option<Duration>,
}

impl Watch for WatchList {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.watched.insert(fd.as_raw_fd(), (token, interest));
        Ok(())
    }
    fn modify(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.watched
            .insert(fd.as_raw_fd(), (token, interest))
            .map(|_| ())
            .ok_or(io::ErrorKind::NotFound.into())
    }
    fn remove(&mut self, fd: BorrowedFd<'_>) {
        self.watched.remove(&fd.as_raw_fd());
    }
    fn timer(&mut self, after: Duration) {
        self.timer = Some(after);
    }
}

/// A guest with one device.
pub(crate) struct Guest {
    pub(crate) mem: Memory,
    pub(crate) queues: Vec<Queue>,
    pub(crate) interrupts: Interrupts,
    pub(crate) watch: WatchList,
    /// The features negotiated.
    pub(crate) features: u64,
    next: Vec<(u16, u16)>,
    size: u16,
}

impl Guest {
    pub(crate) fn new(queues: usize, size: u16) -> Self {
        let half = usize::try_from(REGION).unwrap();
        let mem = Memory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(REGION), half)]).unwrap();
        let rings = (0..queues).map(|index| {
            let base = ring_base(index);
            let config = QueueConfig {
                max_size: 256,
                size,
                ready: true,
                desc_table: base,
                avail_ring: base + 0x1000,
                used_ring: base + 0x2000,
            };
            Queue::new(&config, F_COMMON & !crate::registers::F_EVENT_IDX).unwrap()
        });
        let queues: Vec<_> = rings.collect();
        let next = vec![(0, 0); queues.len()];
        let (interrupts, watch) = (Interrupts::default(), WatchList::default());
        Self { mem, queues, interrupts, watch, features: u64::MAX, next, size }
    }

    pub(crate) fn context(&mut self) -> Context<'_> {
        Context {
            mem: &self.mem,
            queues: &mut self.queues,
            interrupt: &self.interrupts,
            watch: &mut self.watch,
            features: self.features,
        }
    }

    /// Writes one descriptor.
    pub(crate) fn descriptor(
        &self,
        table: u64,
        index: u16,
        (address, length, flags, next): (u64, u32, u16, u16),
    ) {
        let at = table + 16 * u64::from(index);
        self.mem.write_obj(address, GuestAddress(at)).unwrap();
        self.mem.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.mem.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of `(address, length, writable)` available on a queue.
    pub(crate) fn offer(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        let first = self.next[queue].0;
        for (i, (address, length, writable)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let index = (first + u16::try_from(i).unwrap()) % self.size;
            let flags = if last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
            self.descriptor(ring_base(queue), index, (*address, *length, flags, (index + 1) % self.size));
        }
        self.next[queue].0 = (first + u16::try_from(buffers.len()).unwrap()) % self.size;
        self.make_available(queue, first);
    }

    /// Puts a head into the available ring.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let avail = ring_base(queue) + 0x1000;
        let index: u16 = self.mem.read_obj(GuestAddress(avail + 2)).unwrap();
        let slot = u64::from(index % self.size);
        self.mem.write_obj(head, GuestAddress(avail + 4 + 2 * slot)).unwrap();
        self.mem.write_obj(index.wrapping_add(1), GuestAddress(avail + 2)).unwrap();
    }

    /// The next used entry: bytes written.
    pub(crate) fn used(&mut self, queue: usize) -> Option<u32> {
        self.used_entry(queue).map(|(_, written)| written)
    }

    /// The next used entry: the chain's head, and bytes written.
    pub(crate) fn used_entry(&mut self, queue: usize) -> Option<(u32, u32)> {
        let used = ring_base(queue) + 0x2000;
        let index: u16 = self.mem.read_obj(GuestAddress(used + 2)).unwrap();
        let seen = &mut self.next[queue].1;
        if *seen == index {
            return None;
        }
        let slot = u64::from(*seen % self.size);
        *seen = seen.wrapping_add(1);
        let at = used + 4 + 8 * slot;
        Some((self.mem.read_obj(GuestAddress(at)).unwrap(), self.mem.read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// Notifies a queue, and again for as long as the device says at once that it has work left.
    pub(crate) fn notify(&mut self, device: &mut dyn Device, queue: usize) -> Result<(), Fault> {
        device.on_queue(&mut self.context(), queue)?;
        for _ in 0..10_000 {
            if self.watch.timer.take_if(|after| after.is_zero()).is_none() {
                return Ok(());
            }
            device.on_source(&mut self.context(), TIMER_TOKEN, Ready::default())?;
        }
        panic!("the device never comes to rest");
    }

    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        self.mem.write_slice(data, GuestAddress(at)).unwrap();
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.mem.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }
}

/// Where a queue's descriptor table is; its available and used rings follow at 0x1000 and 0x2000.
pub(crate) fn ring_base(queue: usize) -> u64 {
    RINGS + 0x4000 * u64::try_from(queue).unwrap()
}
