//! The event loop that runs every started device, on the one thread named `io`.
//!
//! Owner of a device from DRIVER_OK until its driver resets it. Invariant: nothing a
//! device does blocks the loop; one that has work left asks for it with its timer, so the others have their turn.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use hull_virtio::device::{Context, Device, Interrupt, Memory, Ready, TIMER_TOKEN};
use hull_virtio::fault::Fault;
use hull_virtio::mmio::{Broken, Started};
use hull_virtio::queue::Queue;
use rustix::event::epoll;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Bus;
use crate::watch::Watches;

/// What the loop is asked to do.
enum Command {
    Start(usize, Box<Started>),
    Notify(usize, usize),
    Stop(usize, SyncSender<Option<Box<dyn Device>>>),
    Grow(usize, u64, SyncSender<Option<Vec<u8>>>),
    ConfigChanged(usize),
    Pause(SyncSender<()>),
    Resume,
    End,
}

/// The way to the loop from other threads.
#[derive(Clone)]
pub struct IoHandle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
}

impl IoHandle {
    /// Hands a started device over.
    pub fn start(&self, slot: usize, started: Box<Started>) {
        self.send(Command::Start(slot, started));
    }

    /// Tells a device of a notification that came past its ioeventfd.
    pub fn notify(&self, slot: usize, queue: usize) {
        self.send(Command::Notify(slot, queue));
    }

    /// Takes a device back; returns when it is drained. None when it was not started.
    pub fn stop(&self, slot: usize) -> Option<Box<dyn Device>> {
        self.ask(|reply| Command::Stop(slot, reply)).flatten()
    }

    /// Has a started device grow to so many bytes; its new configuration space, if that is now another.
    pub fn grow(&self, slot: usize, bytes: u64) -> Option<Vec<u8>> {
        self.ask(|reply| Command::Grow(slot, bytes, reply)).flatten()
    }

    /// Interrupts the guest because a device's configuration has changed.
    pub fn config_changed(&self, slot: usize) {
        self.send(Command::ConfigChanged(slot));
    }

    /// Drains every device and stops serving them; returns when that is done.
    pub fn pause(&self) {
        self.ask(Command::Pause);
    }

    /// Serves the devices again.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Drains every device and ends the loop.
    pub fn end(&self) {
        self.send(Command::End);
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.send(command(reply));
        answer.recv().ok()
    }

    fn send(&self, command: Command) {
        // When the loop has ended there is nobody left to tell.
        if self.commands.send(command).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            log::error!("the event loop cannot be woken: {error}");
        }
    }
}

/// What the loop needs of one device before and after it is started.
pub struct Seat {
    /// One eventfd for each queue, written by KVM when the driver notifies.
    pub kicks: Vec<EventFd>,
    /// The device's interrupt.
    pub interrupt: Box<dyn Interrupt>,
    /// Tells the device's driver that it must reset it.
    pub broken: Broken,
}

/// A device that runs.
struct Running {
    device: Box<dyn Device>,
    queues: Vec<Queue>,
    features: u64,
    /// It faulted and waits for its reset.
    broken: bool,
}

/// A seat with its state in the loop.
struct Slot {
    seat: Seat,
    running: Option<Running>,
    watches: Watches,
}

/// The loop, before it runs.
pub struct IoLoop {
    memory: Memory,
    poll: OwnedFd,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    slots: Vec<Slot>,
    /// Queues that were notified: slot and queue.
    ready: VecDeque<(usize, usize)>,
    input: Option<File>,
    paused: bool,
}

// What an epoll event is for: kind in the top byte, slot in the next three, queue or token in the low four.
const WAKE: u64 = 0;
const KICK: u64 = 1;
const SOURCE: u64 = 2;
const INPUT: u64 = 3;

fn event_data(kind: u64, slot: usize, low: u32) -> epoll::EventData {
    epoll::EventData::new_u64(kind << 56 | (slot as u64 & 0xff_ffff) << 32 | u64::from(low))
}

impl IoLoop {
    /// A loop for devices in these seats, and the console's input.
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn new(memory: Memory, seats: Vec<Seat>, input: Option<File>) -> io::Result<(Self, IoHandle)> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let (sender, commands) = channel();
        let reading = epoll::EventFlags::IN;
        epoll::add(&poll, borrow(&wake), event_data(WAKE, 0, 0), reading)?;
        for (slot, seat) in seats.iter().enumerate() {
            for (queue, kick) in (0..).zip(&seat.kicks) {
                // Each kick is one event, whatever was kicked before: the count need not be read.
                let kicked = reading | epoll::EventFlags::ET;
                epoll::add(&poll, borrow(kick), event_data(KICK, slot, queue), kicked)?;
            }
        }
        // A regular file cannot be watched; it is no console either.
        let input = input.filter(|file| epoll::add(&poll, file, event_data(INPUT, 0, 0), reading).is_ok());
        let slots =
            seats.into_iter().map(|seat| Slot { seat, running: None, watches: Watches::default() }).collect();
        let handle = IoHandle { commands: sender, wake: wake.clone() };
        Ok((
            Self { memory, poll, wake, commands, slots, ready: VecDeque::new(), input, paused: false },
            handle,
        ))
    }

    /// Runs until [`IoHandle::end`].
    ///
    /// # Errors
    /// When the host fails the loop itself.
    pub fn run(mut self, bus: &Bus) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), self.timeout().as_ref())
                .or_else(|error| if error == rustix::io::Errno::INTR { Ok(0) } else { Err(error) })?;
            for event in events.drain(..) {
                self.event(event, bus);
            }
            while let Ok(command) = self.commands.try_recv() {
                if self.command(command) {
                    return Ok(());
                }
            }
            if self.rest() {
                return Ok(());
            }
            self.timers();
            // One turn for each notified queue.
            for _ in 0..self.ready.len() {
                if let Some((slot, queue)) = self.ready.pop_front() {
                    self.serve(slot, queue);
                }
            }
        }
    }

    fn event(&mut self, event: epoll::Event, bus: &Bus) {
        let data = event.data.u64();
        let (kind, slot, low) = (data >> 56, (data >> 32 & 0xff_ffff) as usize, (data & 0xffff_ffff) as u32);
        let flags = event.flags;
        match kind {
            WAKE => {
                let _count = self.wake.read();
            }
            KICK => self.queue_ready(slot, low as usize),
            SOURCE => {
                let failed = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                let ready = Ready {
                    readable: flags.contains(epoll::EventFlags::IN),
                    writable: flags.contains(epoll::EventFlags::OUT),
                    hangup: failed,
                };
                self.call(slot, |device, ctx| device.on_source(ctx, low, ready));
            }
            _ => self.console_input(bus),
        }
    }

    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Start(slot, started) => self.start(slot, *started),
            Command::Notify(slot, queue) => self.queue_ready(slot, queue),
            Command::Stop(slot, reply) => {
                let _asker_has_gone = reply.send(self.stop(slot)).is_err();
            }
            Command::Grow(slot, bytes, reply) => {
                let running = self.slots.get_mut(slot).and_then(|slot| slot.running.as_mut());
                let config = running.and_then(|running| running.device.grow(bytes));
                let _asker_has_gone = reply.send(config).is_err();
            }
            Command::ConfigChanged(slot) => {
                if let Some(slot) = self.slots.get(slot) {
                    slot.seat.interrupt.config();
                }
            }
            Command::Pause(reply) => {
                self.paused = true;
                self.drain();
                let _asker_has_gone = reply.send(()).is_err();
            }
            Command::Resume => {
                self.paused = false;
                for slot in 0..self.slots.len() {
                    self.all_queues_ready(slot);
                }
            }
            Command::End => {
                self.drain();
                return true;
            }
        }
        false
    }

    /// While paused nothing but commands is looked at: neither sources nor timers reach a device, so nothing changes
    /// in the guest's memory. What happens meanwhile waits in its descriptor. Whether the loop is to end.
    fn rest(&mut self) -> bool {
        while self.paused {
            let Ok(command) = self.commands.recv() else { return true };
            if self.command(command) {
                return true;
            }
        }
        false
    }

    fn start(&mut self, slot: usize, started: Started) {
        let Started { device, queues, features } = started;
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.running = Some(Running { device, queues, features, broken: false });
        }
        self.call(slot, |device, ctx| device.start(ctx));
        // What the driver made available before the device was here.
        self.all_queues_ready(slot);
    }

    fn stop(&mut self, slot: usize) -> Option<Box<dyn Device>> {
        self.call(slot, |device, ctx| {
            device.drain(ctx);
            Ok(())
        });
        self.ready.retain(|(of, _)| *of != slot);
        let entry = self.slots.get_mut(slot)?;
        entry.watches.clear(&self.poll);
        let mut device = entry.running.take()?.device;
        device.reset();
        Some(device)
    }

    fn drain(&mut self) {
        for slot in 0..self.slots.len() {
            self.call(slot, |device, ctx| {
                device.drain(ctx);
                Ok(())
            });
        }
    }

    fn all_queues_ready(&mut self, slot: usize) {
        let queues =
            self.slots.get(slot).and_then(|slot| slot.running.as_ref()).map_or(0, |r| r.queues.len());
        (0..queues).for_each(|queue| self.queue_ready(slot, queue));
    }

    fn queue_ready(&mut self, slot: usize, queue: usize) {
        let runs =
            self.slots.get(slot).and_then(|s| s.running.as_ref()).is_some_and(|r| queue < r.queues.len());
        if runs && !self.ready.contains(&(slot, queue)) {
            self.ready.push_back((slot, queue));
        }
    }

    fn serve(&mut self, slot: usize, queue: usize) {
        self.call(slot, |device, ctx| device.on_queue(ctx, queue));
    }

    fn timers(&mut self) {
        let now = Instant::now();
        for slot in 0..self.slots.len() {
            let due = self.slots.get_mut(slot).and_then(|slot| slot.watches.due.take_if(|due| *due <= now));
            if due.is_some() {
                self.call(slot, |device, ctx| device.on_source(ctx, TIMER_TOKEN, Ready::default()));
            }
        }
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        if !self.ready.is_empty() {
            return Some(rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let next = self.slots.iter().filter_map(|slot| slot.watches.due).min()?;
        rustix::event::Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    /// Calls a running device; a fault breaks it until its driver resets it.
    fn call(
        &mut self,
        slot: usize,
        work: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> Result<(), Fault>,
    ) {
        let Some(Slot { seat, running: Some(running), watches }) = self.slots.get_mut(slot) else { return };
        if running.broken {
            return;
        }
        let mut watch = watches.lend(&self.poll, |token| event_data(SOURCE, slot, token));
        let mut ctx = Context {
            mem: &self.memory,
            queues: &mut running.queues,
            interrupt: seat.interrupt.as_ref(),
            watch: &mut watch,
            features: running.features,
        };
        if let Err(fault) = work(running.device.as_mut(), &mut ctx) {
            // Once for each time the driver starts the device: a guest cannot fill the log.
            log::warn!("{:?} device {slot} waits for a reset: {fault}", running.device.info().id);
            running.broken = true;
            seat.broken.set();
            seat.interrupt.config();
        }
    }

    fn console_input(&mut self, bus: &Bus) {
        let Some(input) = &mut self.input else { return };
        let room = bus.serial.room().min(64);
        if room == 0 {
            // The guest has not read the last input; level-triggered, so a short nap bounds the cost.
            std::thread::sleep(Duration::from_millis(1));
            return;
        }
        let mut bytes = [0; 64];
        match input.read(bytes.get_mut(..room).unwrap_or_default()) {
            Ok(0) | Err(_) => {
                let _gone = epoll::delete(&self.poll, &*input);
                self.input = None;
            }
            Ok(length) => {
                bus.serial.input(bytes.get(..length).unwrap_or_default());
            }
        }
    }
}

/// rust-vmm's eventfds only tell their number.
#[expect(unsafe_code, reason = "an EventFd lends its descriptor as a number only")]
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open as long as `event`, whose borrow the result carries.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
