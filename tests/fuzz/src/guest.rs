//! A guest that does with one virtio device whatever its input says, over the transport and the rings, and a VMM around
//! it as `hull-vmm`'s event loop is. However it went, the device must work after a reset.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hull_virtio::device::{Context, Device, Interest, Interrupt, Memory, Ready, TIMER_TOKEN, Watch};
use hull_virtio::fault::Fault;
use hull_virtio::mmio::{Action, Broken, MmioTransport, Started};
use hull_virtio::registers::F_VERSION_1;
use hull_virtio::window::Windows;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress};

use crate::input::{Input, Script};

/// Guest memory is two regions of this size that touch, so that a buffer can cross from one to the other.
pub const REGION: u64 = 1 << 20;
/// Where buffers are.
pub const DATA: u64 = 0x4_0000;
/// The size of the queues that are set up well.
pub const SIZE: u16 = 16;
/// A descriptor goes on.
pub const NEXT: u16 = 1;
/// The device writes this buffer.
pub const WRITE: u16 = 2;

/// How often a device that says it has more to do is called for one thing a guest did.
const TURNS: usize = 4;

/// Register offsets (virtio 1.2, section 4.2.2).
mod reg {
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const RINGS: [u64; 3] = [0x80, 0x90, 0xa0];
}

/// What a guest does next; [`Guest::step`] reads it.
pub mod act {
    /// Write a register: offset, width, value.
    pub const WRITE_REGISTER: u8 = 0;
    /// Read one: offset, width.
    pub const READ_REGISTER: u8 = 1;
    /// Set everything up as a driver does: features.
    pub const SET_UP: u8 = 2;
    /// Write memory: address, block.
    pub const WRITE_MEMORY: u8 = 3;
    /// Offer a chain: queue, count, then address, length and flags of each.
    pub const OFFER: u8 = 4;
    /// Put a head into the available ring: queue, head, by how much its index moves on.
    pub const MAKE_AVAILABLE: u8 = 5;
    /// Notify a queue.
    pub const NOTIFY: u8 = 6;
    /// Something on the host is ready, or is said to be: token, what.
    pub const SOURCE: u8 = 7;
    /// Reset the device.
    pub const RESET: u8 = 8;
    /// The VMM pauses and resumes.
    pub const DRAIN: u8 = 9;
    /// Offer a chain of one buffer that is written to memory first: queue, flags, block.
    pub const SEND: u8 = 10;
    /// What the host does; the target knows.
    pub const HOST: u8 = 11;
    /// How many there are.
    pub const COUNT: u8 = 12;
}

struct Interrupts;

impl Interrupt for Interrupts {
    fn queue(&self, _index: usize) {}
    fn config(&self) {}
    fn config_field(&self, _offset: u64, _field: u16) {}
}

/// What a device waits for.
#[derive(Default)]
struct WatchList {
    watched: BTreeMap<i32, (OwnedFd, u32, Interest)>,
    timer: Option<Duration>,
}

impl Watch for WatchList {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        let copy = fd.try_clone_to_owned()?;
        assert!(
            self.watched.insert(fd.as_raw_fd(), (copy, token, interest)).is_none(),
            "a descriptor is watched twice, or was closed while it was watched"
        );
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        let entry = self.watched.get_mut(&fd.as_raw_fd()).ok_or(io::ErrorKind::NotFound)?;
        (entry.1, entry.2) = (token, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) {
        self.watched.remove(&fd.as_raw_fd());
    }

    fn timer(&mut self, after: Duration) {
        self.timer = Some(after);
    }
}

/// A guest with one device.
pub struct Guest {
    /// Its memory.
    pub mem: Memory,
    transport: MmioTransport,
    broken: Broken,
    running: Option<Started>,
    watch: WatchList,
    queues: u16,
    /// For each queue: the next free descriptor, and how far its used ring was read.
    next: Vec<(u16, u16)>,
}

impl Guest {
    /// A guest with a device of so many queues.
    ///
    /// # Panics
    /// When the host has no memory.
    #[must_use]
    pub fn new(device: Box<dyn Device>) -> Self {
        let half = usize::try_from(REGION).expect("a small number");
        let mem = Memory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(REGION), half)])
            .expect("memory for a guest");
        let queues = device.info().queue_sizes.len();
        let transport = MmioTransport::new(device, Windows::new(1).window(0));
        Self {
            mem,
            broken: transport.broken(),
            transport,
            running: None,
            watch: WatchList::default(),
            queues: u16::try_from(queues).expect("few queues"),
            next: vec![(0, 0); queues],
        }
    }

    /// Does what the input says next; `host` does what the host does.
    pub fn step(&mut self, input: &mut Input<'_>, host: &mut dyn FnMut(&mut Self, &mut Input<'_>)) {
        match input.u8() % act::COUNT {
            act::WRITE_REGISTER => {
                let offset = u64::from(input.u16() & 0x1fff);
                let width = input.pick(&[4, 4, 1, 2, 8, 0]);
                let value = input.u64().to_le_bytes();
                self.write(offset, &value[..width]);
            }
            act::READ_REGISTER => {
                let offset = u64::from(input.u16() & 0x1fff);
                let width = input.pick(&[4, 1, 2, 8, 0]);
                self.transport.read(offset, &mut [0; 8][..width]);
            }
            act::SET_UP => {
                let features = input.u64();
                self.set_up(features);
            }
            act::WRITE_MEMORY => {
                let (at, data) = (u64::from(input.u32()), input.block());
                self.put(at, data);
            }
            act::OFFER => self.offer_any(input),
            act::MAKE_AVAILABLE => {
                let (queue, head, by) = (input.u8(), input.u16(), input.u16());
                self.make_available(u16::from(queue) % self.queues, head, by);
            }
            act::NOTIFY => {
                let queue = u16::from(input.u8()) % self.queues;
                self.notify(queue);
            }
            act::SOURCE => {
                let (token, what) = (input.u8(), input.u8());
                let token = if token == u8::MAX { TIMER_TOKEN } else { u32::from(token) };
                let ready = Ready { readable: what & 1 != 0, writable: what & 2 != 0, hangup: what & 4 != 0 };
                self.call(|device, ctx| device.on_source(ctx, token, ready));
            }
            act::RESET => self.reset(),
            act::DRAIN => {
                self.call(|device, ctx| {
                    device.drain(ctx);
                    Ok(())
                });
                (0..self.queues).for_each(|queue| self.on_queue(queue));
            }
            act::SEND => {
                let (queue, flags) = (u16::from(input.u8()) % self.queues, u16::from(input.u8()));
                let data = input.block();
                self.put(DATA, data);
                let length = u32::try_from(data.len()).unwrap_or(0);
                self.offer(queue, &[(DATA, length, flags & WRITE)]);
                self.notify(queue);
            }
            _ => host(self, input),
        }
        self.settle();
    }

    /// The driver writes a register.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        match self.transport.write(offset, data) {
            Action::None => {}
            Action::Start(started) => {
                self.running = Some(*started);
                self.call(|device, ctx| device.start(ctx));
                (0..self.queues).for_each(|queue| self.on_queue(queue));
            }
            Action::Stop => self.stop(),
            Action::Notify(queue) => self.on_queue(u16::try_from(queue).unwrap_or(0)),
        }
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    /// Reads a register.
    pub fn get(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn stop(&mut self) {
        self.call(|device, ctx| {
            device.drain(ctx);
            Ok(())
        });
        self.watch = WatchList::default();
        let Some(Started { mut device, .. }) = self.running.take() else { return };
        device.reset();
        self.transport.stopped(device);
    }

    /// Resets the device, whatever state it is in.
    ///
    /// # Panics
    /// When the device is not reset then.
    pub fn reset(&mut self) {
        self.set(reg::STATUS, 0);
        assert_eq!(self.get(reg::STATUS), 0, "a reset is done when it is written");
    }

    /// Sets the device up from the start, as a driver does, with the offered ones of these features.
    pub fn set_up(&mut self, features: u64) {
        self.reset();
        self.set(reg::STATUS, 1);
        self.set(reg::STATUS, 3);
        for half in 0..2 {
            self.set(0x14, half);
            let offered = u64::from(self.get(0x10)) << (32 * half);
            let chosen = (features | F_VERSION_1) & offered;
            self.set(reg::DRIVER_FEATURES_SEL, half);
            self.set(reg::DRIVER_FEATURES, u32::try_from(chosen >> (32 * half) & 0xffff_ffff).unwrap_or(0));
        }
        self.set(reg::STATUS, 11);
        for queue in 0..self.queues {
            self.put(ring(queue, 1), &[0; 4]);
            self.put(ring(queue, 2), &[0; 4]);
            self.set(reg::QUEUE_SEL, u32::from(queue));
            self.set(reg::QUEUE_SIZE, u32::from(SIZE));
            for (part, offset) in (0..).zip(reg::RINGS) {
                self.set(offset, u32::try_from(ring(queue, part)).unwrap_or(0));
                self.set(offset + 4, 0);
            }
            self.set(reg::QUEUE_READY, 1);
        }
        self.next.fill((0, 0));
        self.set(reg::STATUS, 15);
    }

    /// Puts bytes into memory, as far as there is any.
    pub fn put(&self, at: u64, data: &[u8]) {
        if self.mem.write(data, GuestAddress(at)).is_err() {
            // A guest's write to where nothing is goes nowhere.
        }
    }

    /// Writes a chain's descriptors and makes it available.
    pub fn offer(&mut self, queue: u16, buffers: &[(u64, u32, u16)]) {
        let Some(next) = self.next.get_mut(usize::from(queue)) else { return };
        let first = next.0;
        let count = u16::try_from(buffers.len()).unwrap_or(0);
        next.0 = (first + count) % SIZE;
        for (at, (address, length, flags)) in (0..count).zip(buffers) {
            let last = at + 1 == count;
            let (index, follows) = ((first + at) % SIZE, (first + at + 1) % SIZE);
            let flags = flags | if last { 0 } else { NEXT };
            let descriptor = Script::default().u64(*address).u32(*length).u16(flags).u16(follows).0;
            self.put(ring(queue, 0) + 16 * u64::from(index), &descriptor);
        }
        self.make_available(queue, first, 1);
    }

    fn offer_any(&mut self, input: &mut Input<'_>) {
        let (queue, count) = (u16::from(input.u8()) % self.queues, input.u8() % 8 + 1);
        let mut buffers = Vec::new();
        for _ in 0..count {
            // Mostly in memory, sometimes across the regions' border or the end, sometimes nowhere near.
            let address = match input.u8() {
                kind @ 0..=3 => REGION * u64::from(kind % 2 + 1) - u64::from(input.u16() & 0x1ff),
                4 => input.u64(),
                _ => DATA + u64::from(input.u16()),
            };
            let length = match input.u8() {
                0 => input.u32(),
                kind => u32::from(input.u16()) >> (kind % 12),
            };
            buffers.push((address, length, u16::from(input.u8()) & !NEXT));
        }
        self.offer(queue, &buffers);
    }

    fn make_available(&mut self, queue: u16, head: u16, by: u16) {
        let avail = ring(queue, 1);
        let index: u16 = self.mem.read_obj(GuestAddress(avail + 2)).unwrap_or(0);
        self.put(avail + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.put(avail + 2, &index.wrapping_add(by).to_le_bytes());
    }

    /// The next entry of a used ring of a queue that was set up well: bytes written.
    pub fn used(&mut self, queue: u16) -> Option<u32> {
        let seen = &mut self.next.get_mut(usize::from(queue))?.1;
        let used = ring(queue, 2);
        let index: u16 = self.mem.read_obj(GuestAddress(used + 2)).ok()?;
        if *seen == index {
            return None;
        }
        let at = used + 4 + 8 * u64::from(*seen % SIZE);
        *seen = seen.wrapping_add(1);
        self.mem.read_obj(GuestAddress(at + 4)).ok()
    }

    /// Notifies a queue by its register.
    pub fn notify(&mut self, queue: u16) {
        self.set(reg::QUEUE_NOTIFY, u32::from(queue));
        self.settle();
    }

    fn on_queue(&mut self, queue: u16) {
        self.call(|device, ctx| device.on_queue(ctx, usize::from(queue)));
    }

    /// Calls a device that runs; a fault breaks it until its reset.
    pub fn call(&mut self, work: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> Result<(), Fault>) {
        let Some(running) = self.running.as_mut().filter(|_| !self.broken.get()) else { return };
        let mut ctx = Context {
            mem: &self.mem,
            queues: &mut running.queues,
            interrupt: &Interrupts,
            watch: &mut self.watch,
            features: running.features,
        };
        if work(running.device.as_mut(), &mut ctx).is_err() {
            self.broken.set();
            return;
        }
        for queue in &running.queues {
            assert!(queue.in_flight() <= queue.size(), "more chains are out than the queue has");
        }
    }

    /// What an event loop would do now, for a few turns.
    pub fn settle(&mut self) {
        for _ in 0..TURNS {
            let due = self.watch.timer.take_if(|after| after.is_zero()).is_some();
            if due {
                self.call(|device, ctx| device.on_source(ctx, TIMER_TOKEN, Ready::default()));
            }
            let ready = self.ready();
            for (token, ready) in &ready {
                self.call(|device, ctx| device.on_source(ctx, *token, *ready));
            }
            if !due && ready.is_empty() {
                return;
            }
        }
    }

    /// What is ready of what the device watches.
    fn ready(&self) -> Vec<(u32, Ready)> {
        let wanted = |interest: &Interest| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, interest.reads());
            flags.set(PollFlags::OUT, interest.writes());
            flags
        };
        let watched: Vec<_> = self.watch.watched.values().collect();
        let mut polled: Vec<_> =
            watched.iter().map(|(fd, _, interest)| PollFd::new(fd, wanted(interest))).collect();
        if polled.is_empty() || poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_err() {
            return Vec::new();
        }
        let ready = |flags: PollFlags| Ready {
            readable: flags.contains(PollFlags::IN),
            writable: flags.contains(PollFlags::OUT),
            hangup: flags.intersects(PollFlags::HUP | PollFlags::ERR),
        };
        let events = polled.iter().zip(&watched).filter(|(polled, _)| !polled.revents().is_empty());
        events.map(|(polled, (_, token, _))| (*token, ready(polled.revents()))).collect()
    }
}

/// Where a queue's descriptor table (0), available ring (1) and used ring (2) are when it is set up well.
#[must_use]
pub fn ring(queue: u16, part: u16) -> u64 {
    0x1000 + 0x4000 * u64::from(queue) + 0x1000 * u64::from(part)
}

/// Writes what [`Guest::step`] reads.
#[derive(Clone, Debug, Default)]
pub struct Program(pub Script);

impl Program {
    /// A driver that sets the device up, with features.
    #[must_use]
    pub fn set_up(features: u64) -> Self {
        Self(Script::default().u8(act::SET_UP).u64(features))
    }

    /// Buffers at [`DATA`] and an offset, with a length below 32 KiB, and flags.
    #[must_use]
    pub fn offer(self, queue: u8, buffers: &[(u16, u16, u16)]) -> Self {
        let count = u8::try_from(buffers.len()).unwrap_or(1).saturating_sub(1);
        let mut script = self.0.u8(act::OFFER).u8(queue).u8(count);
        for (offset, length, flags) in buffers {
            // Kinds 5 and 12: an offset, a length as it is.
            script = script.u8(5).u16(*offset).u8(12).u16(*length).u8(flags.to_le_bytes()[0]);
        }
        Self(script)
    }

    /// Bytes to a place.
    #[must_use]
    pub fn put(self, at: u64, data: &[u8]) -> Self {
        Self(self.0.u8(act::WRITE_MEMORY).u32(u32::try_from(at).unwrap_or(0)).block(data))
    }

    /// A notification.
    #[must_use]
    pub fn notify(self, queue: u8) -> Self {
        Self(self.0.u8(act::NOTIFY).u8(queue))
    }

    /// Bytes to the device, in one buffer.
    #[must_use]
    pub fn send(self, queue: u8, data: &[u8]) -> Self {
        Self(self.0.u8(act::SEND).u8(queue).u8(0).block(data))
    }

    /// Something the host does.
    #[must_use]
    pub fn host(self, script: &Script) -> Self {
        Self(self.0.u8(act::HOST).bytes(&script.0))
    }

    /// One of the steps that need nothing more.
    #[must_use]
    pub fn then(self, act: u8) -> Self {
        Self(self.0.u8(act))
    }

    /// The input.
    #[must_use]
    pub fn end(self) -> Vec<u8> {
        self.0.0
    }
}
