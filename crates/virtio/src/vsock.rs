//! The socket device (virtio 1.2, section 5.10): streams between the guest's ports and unix sockets of the host.
//!
//! A client connects to a listening socket the VMM inherited, says `CONNECT <port>\n` and reads `OK <port>\n` once the
//! guest accepted; until the guest listens the request is held, so being ready is one wait and not a poll. Connections
//! the guest starts are offered to a [`Dialer`]. Owned as every device is; works on the I/O thread.
//!
//! Invariants: every buffer is bounded (connections, credit per stream, answers to stray packets: while too many of
//! those wait, no further packet is taken from the guest); whatever there is to do has an event coming for it, a
//! kick, a ready socket or the timer.

mod backlog;
mod connection;
mod dial;
mod feed;
mod greeting;
mod guest;
mod host;
mod packet;
mod table;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use log::warn;

use crate::chain::Chain;
use crate::device::{Context, Device, DeviceId, DeviceInfo, Interest, Ready, TIMER_TOKEN, Watch};
use crate::fault::Fault;
use crate::log_limit::LogLimit;
use crate::registers::F_COMMON;
use crate::vsock::connection::{Phase, close};
use crate::vsock::packet::Header;
use crate::vsock::table::Table;

pub use crate::vsock::dial::{AnswerQueue, Answers, Dialer, OfferId, RefuseAll, Refused, answers};
pub use crate::vsock::table::CONNECTIONS_MAX;

/// `VIRTIO_VSOCK_F_STREAM`.
const F_STREAM: u64 = 1;

/// The queue of packets to the guest.
const RX: usize = 0;
/// The queue of packets from the guest.
const TX: usize = 1;
/// Packets to the guest, packets from the guest, events (for a transport reset after a restore; unused so far).
const QUEUE_SIZES: &[u16] = &[256, 256, 16];

const LISTENER_TOKEN: u32 = 0;
const ANSWERS_TOKEN: u32 = 1;
/// The token of the connection in slot 0.
const FIRST_TOKEN: u32 = 2;

/// Bytes and packets of one call before other devices get their turn.
const TURN_BYTES: u32 = 2 << 20;
/// What a packet costs beyond its bytes.
const PACKET_COST: u32 = 512;

/// How much one call may still do.
struct Budget(u32);

impl Budget {
    fn spend(&mut self, bytes: u32) {
        self.0 = self.0.saturating_sub(bytes.saturating_add(PACKET_COST));
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// What a socket device is made of.
pub struct VsockParts {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// Where the host's clients connect. Becomes non-blocking.
    pub listener: Option<UnixListener>,
    /// Takes the connections the guest starts.
    pub dialer: Box<dyn Dialer>,
    /// Where the dialer's answers arrive, made by [`answers`].
    pub answers: AnswerQueue,
}

/// The socket device.
pub struct Vsock {
    guest_cid: u64,
    listener: Option<UnixListener>,
    dialer: Box<dyn Dialer>,
    answers: AnswerQueue,
    table: Table,
    /// Resets for packets that belong to no connection.
    strays: VecDeque<Header>,
    /// The slots of connections that have something for the guest, each once.
    runnable: VecDeque<usize>,
    next_offer: u64,
    next_port: u32,
    /// The listener is watched.
    listening: bool,
    /// The host could not accept: not before this.
    listen_again: Option<Instant>,
    /// The guest has no buffer for us; its next kick says otherwise.
    starved: bool,
    /// There is more to do than one call may.
    again: bool,
    /// When the timer is due.
    armed: Option<Instant>,
    log: LogLimit,
}

impl Vsock {
    /// A socket device.
    ///
    /// # Errors
    /// The host's, if the listener cannot be made non-blocking.
    pub fn new(parts: VsockParts) -> io::Result<Self> {
        if let Some(listener) = &parts.listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self {
            guest_cid: u64::from(parts.guest_cid),
            listener: parts.listener,
            dialer: parts.dialer,
            answers: parts.answers,
            table: Table::default(),
            strays: VecDeque::new(),
            runnable: VecDeque::new(),
            next_offer: 0,
            next_port: host::FIRST_PORT,
            listening: false,
            listen_again: None,
            starved: false,
            again: false,
            armed: None,
            log: LogLimit::default(),
        })
    }

    /// Moves packets both ways, then sees to interrupts, the listener and the timer.
    fn turn(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let outcome = self.exchange(ctx);
        signal(ctx, TX)?;
        signal(ctx, RX)?;
        outcome?;
        self.listen(ctx.watch);
        self.arm(ctx.watch);
        Ok(())
    }

    fn exchange(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let mut budget = Budget(TURN_BYTES);
        self.again = false;
        loop {
            let stalled = self.take_packets(ctx, &mut budget)?;
            self.feed(ctx, &mut budget)?;
            // Answers that could be sent make room for packets that could not be taken.
            if budget.is_spent() || !stalled || self.too_many_strays() {
                self.again |= budget.is_spent();
                return Ok(());
            }
        }
    }

    /// Puts a connection into the queue of those that have something for the guest.
    fn schedule(&mut self, slot: usize) {
        if let Some(connection) = self.table.get_mut(slot).filter(|connection| !connection.queued) {
            connection.queued = true;
            self.runnable.push_back(slot);
        }
    }

    /// Queues the connection if it owes the guest something.
    fn schedule_owed(&mut self, slot: usize) {
        if self.table.get(slot).is_some_and(connection::Connection::owes_control) {
            self.schedule(slot);
        }
    }

    /// Watches a connection's socket for what is of interest now.
    fn rewatch(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let wanted = connection.interest();
        let Some(stream) = connection.stream.as_ref().filter(|_| wanted != connection.watched) else {
            return;
        };
        let token = u32::try_from(slot).unwrap_or(u32::MAX).saturating_add(FIRST_TOKEN);
        let done = match (connection.watched, wanted) {
            (None, Some(interest)) => watch.add(stream.as_fd(), token, interest),
            (Some(_), Some(interest)) => watch.modify(stream.as_fd(), token, interest),
            (_, None) => {
                watch.remove(stream.as_fd());
                Ok(())
            }
        };
        connection.watched = wanted;
        if let Err(error) = done {
            if let Some(more) = self.log.allow() {
                warn!("a vsock connection is closed because the host cannot watch it: {error} ({more} more)");
            }
            self.abandon(watch, slot);
        }
    }

    /// Closes a connection's socket.
    fn close_stream(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let Some(stream) = connection.stream.take() else { return };
        if connection.watched.take().is_some() {
            watch.remove(stream.as_fd());
        }
        close(&stream);
    }

    /// Forgets a connection the guest does not know or has forgotten.
    fn forget(&mut self, watch: &mut dyn Watch, slot: usize) {
        self.close_stream(watch, slot);
        if self.table.remove(slot).is_some_and(|connection| connection.queued) {
            self.runnable.retain(|&queued| queued != slot);
        }
    }

    /// Ends a connection: its client reads an end, the guest is told.
    fn abandon(&mut self, watch: &mut dyn Watch, slot: usize) {
        self.close_stream(watch, slot);
        let Some(connection) = self.table.get_mut(slot) else { return };
        let unknown = match &connection.phase {
            Phase::Greeting(_) | Phase::Flushing => true,
            Phase::Held(hold) => !hold.asked,
            Phase::Offered(_) | Phase::Open | Phase::Resetting => false,
        };
        if unknown {
            return self.forget(watch, slot);
        }
        connection.owe_reset();
        self.table.set_deadline(slot, None);
        self.schedule(slot);
    }

    /// Arms the timer for what is due next.
    fn arm(&mut self, watch: &mut dyn Watch) {
        let now = Instant::now();
        let next = if self.again { Some(now) } else { self.table.next_deadline() };
        let next = [next, self.listen_again].into_iter().flatten().min();
        self.armed = self.armed.filter(|&armed| armed > now);
        if let Some(next) = next.filter(|&next| self.armed.is_none_or(|armed| next < armed)) {
            self.armed = Some(next);
            watch.timer(next.saturating_duration_since(now));
        }
    }
}

/// Interrupts the guest if it wants to know of what was used on a queue.
fn signal(ctx: &mut Context<'_>, index: usize) -> Result<(), Fault> {
    let Some(queue) = ctx.queues.get_mut(index) else { return Ok(()) };
    if queue.should_notify(ctx.mem)? {
        ctx.interrupt.queue(index);
    }
    Ok(())
}

/// The next chain of a queue; none for a queue that is not there.
fn pop(ctx: &mut Context<'_>, index: usize) -> Result<Option<Chain>, Fault> {
    ctx.queues.get_mut(index).map_or(Ok(None), |queue| queue.pop(ctx.mem))
}

fn push(ctx: &mut Context<'_>, index: usize, chain: Chain, written: u32) -> Result<(), Fault> {
    ctx.queues.get_mut(index).map_or(Ok(()), |queue| queue.push(ctx.mem, chain, written))
}

impl Device for Vsock {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: DeviceId::Vsock, features: F_COMMON | F_STREAM, queue_sizes: QUEUE_SIZES }
    }

    /// `struct virtio_vsock_config`, section 5.10.4.
    fn config(&self) -> Vec<u8> {
        self.guest_cid.to_le_bytes().to_vec()
    }

    fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        ctx.watch.add(self.answers.wake(), ANSWERS_TOKEN, Interest::Read).map_err(Fault::Host)?;
        // Clients that came before a reset are still waiting.
        for slot in self.table.slots(|_| true) {
            self.rewatch(ctx.watch, slot);
            self.ask(slot);
        }
        self.turn(ctx)
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, index: usize) -> Result<(), Fault> {
        if index == RX || index == TX { self.turn(ctx) } else { Ok(()) }
    }

    fn on_source(&mut self, ctx: &mut Context<'_>, token: u32, ready: Ready) -> Result<(), Fault> {
        match token {
            LISTENER_TOKEN => self.accept(ctx.watch),
            ANSWERS_TOKEN => self.take_answers(ctx.watch),
            TIMER_TOKEN => self.meet_deadlines(ctx.watch),
            token => {
                let slot = usize::try_from(token.saturating_sub(FIRST_TOKEN)).unwrap_or(usize::MAX);
                self.on_stream(ctx.watch, slot, ready);
            }
        }
        self.turn(ctx)
    }

    fn drain(&mut self, _: &mut Context<'_>) {
        // Chains are pushed or undone within a call, and bytes from the guest that wait for a socket are not on the
        // queues any more: nothing is in flight.
    }

    fn reset(&mut self) {
        for slot in self.table.slots(|_| true) {
            let Some(connection) = self.table.get_mut(slot) else { continue };
            connection.watched = None;
            connection.queued = false;
            match &mut connection.phase {
                Phase::Greeting(_) => {}
                Phase::Held(hold) => hold.asked = false,
                _ => {
                    if let Some(connection) = self.table.remove(slot) {
                        connection.stream.as_ref().map(close);
                    }
                }
            }
        }
        self.strays.clear();
        self.runnable.clear();
        (self.listening, self.listen_again, self.armed) = (false, None, None);
        (self.starved, self.again) = (false, false);
    }
}

#[cfg(test)]
mod tests;
