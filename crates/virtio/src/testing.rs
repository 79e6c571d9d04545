//! A driver for tests: builds rings and chains in guest memory as a guest would, well and badly.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use crate::device::{Context, Device, Fault, Interest, Interrupt, Memory, Watch};
use crate::queue::Queue;

/// Guest memory of two regions that touch, so that a buffer can cross from one to the other.
pub(crate) const REGION: u64 = 1 << 20;
const RINGS: u64 = 0x1000;
/// Where a test may put its buffers.
pub(crate) const DATA: u64 = 0x4_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

#[derive(Default)]
pub(crate) struct Interrupts(pub(crate) AtomicUsize);

impl Interrupt for Interrupts {
    fn queue(&self, _index: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {}
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
    next: Vec<(u16, u16)>,
    size: u16,
}

impl Guest {
    pub(crate) fn new(queues: usize, size: u16) -> Self {
        let half = usize::try_from(REGION).unwrap();
        let mem = Memory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(REGION), half)]).unwrap();
        let rings = (0..queues).map(|index| {
            let base = ring_base(index);
            let mut ring = virtio_queue::Queue::new(256).unwrap();
            ring.set_size(size);
            ring.try_set_desc_table_address(GuestAddress(base)).unwrap();
            ring.try_set_avail_ring_address(GuestAddress(base + 0x1000)).unwrap();
            ring.try_set_used_ring_address(GuestAddress(base + 0x2000)).unwrap();
            ring.set_ready(true);
            Queue::new(ring)
        });
        let queues: Vec<_> = rings.collect();
        let next = vec![(0, 0); queues.len()];
        Self { mem, queues, interrupts: Interrupts::default(), watch: WatchList::default(), next, size }
    }

    pub(crate) fn context(&mut self) -> Context<'_> {
        Context {
            mem: &self.mem,
            queues: &mut self.queues,
            interrupt: &self.interrupts,
            watch: &mut self.watch,
            features: 0,
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
        let used = ring_base(queue) + 0x2000;
        let index: u16 = self.mem.read_obj(GuestAddress(used + 2)).unwrap();
        let seen = &mut self.next[queue].1;
        if *seen == index {
            return None;
        }
        let slot = u64::from(*seen % self.size);
        *seen = seen.wrapping_add(1);
        Some(self.mem.read_obj(GuestAddress(used + 8 + 8 * slot)).unwrap())
    }

    pub(crate) fn notify(&mut self, device: &mut dyn Device, queue: usize) -> Result<(), Fault> {
        for _ in 0..10_000 {
            if !device.on_queue(&mut self.context(), queue)? {
                return Ok(());
            }
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
