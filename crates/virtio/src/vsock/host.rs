//! The host's side of the socket device: clients that come, wait and go, offers that are answered, deadlines.
//!
//! Works on the I/O thread when a socket or the timer is ready. Invariant: a client that waits has a deadline, and
//! while too many wait none is accepted.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use log::warn;

use crate::device::{Interest, Ready, Watch};
use crate::vsock::connection::{Connection, Hold, Key, Phase};
use crate::vsock::greeting::Greeting;
use crate::vsock::{LISTENER_TOKEN, OfferId, Vsock};

/// The first of the ports that clients of the host are given.
pub(super) const FIRST_PORT: u32 = 1 << 30;
/// How many clients may wait, for their own first line or for the guest.
const WAITING_MAX: usize = 256;
/// How many are accepted at a time.
const ACCEPT_MAX: usize = 32;
/// How long the host is left alone after it could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client has for its first line.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// How long a client is held until the guest listens.
const HOLD_TIME: Duration = Duration::from_secs(60);
/// How long to wait after the first refusal; doubled with each.
const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_millis(20);
/// How many offers of the guest's may wait for an answer.
pub(super) const OFFERS_MAX: usize = 64;
/// How long an offer may wait.
pub(super) const OFFER_TIME: Duration = Duration::from_secs(30);

fn waits(phase: &Phase) -> bool {
    matches!(phase, Phase::Greeting(_) | Phase::Held(_))
}

impl Vsock {
    /// Watches the listener, or stops while there is no room for clients.
    pub(super) fn listen(&mut self, watch: &mut dyn Watch) {
        let Some(listener) = &self.listener else { return };
        let room = !self.table.is_full() && self.table.count(waits) < WAITING_MAX;
        let wanted = room && self.listen_again.is_none();
        if wanted == self.listening {
            return;
        }
        if !wanted {
            watch.remove(listener.as_fd());
        } else if let Err(error) = watch.add(listener.as_fd(), LISTENER_TOKEN, Interest::Read) {
            warn!("the vsock listener cannot be watched, trying again: {error}");
            self.listen_again = Some(Instant::now() + ACCEPT_PAUSE);
            return;
        }
        self.listening = wanted;
    }

    /// Accepts clients.
    pub(super) fn accept(&mut self, watch: &mut dyn Watch) {
        let mut waiting = self.table.count(waits);
        for _ in 0..ACCEPT_MAX {
            if self.table.is_full() || waiting >= WAITING_MAX {
                return;
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, _)) => self.welcome(watch, stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    if let Some(more) = self.log.allow() {
                        warn!("a vsock client cannot be accepted, trying again: {error} ({more} more)");
                    }
                    self.listen_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
            waiting = waiting.saturating_add(1);
        }
    }

    fn welcome(&mut self, watch: &mut dyn Watch, stream: UnixStream) {
        let key = Key { host_port: self.take_port(), guest_port: 0 };
        let connection = Connection::new(key, Phase::Greeting(Greeting::default()), Some(stream));
        if let Some(slot) = self.table.insert(connection) {
            self.table.set_deadline(slot, Some(Instant::now() + GREETING_TIME));
            self.rewatch(watch, slot);
            // The line is mostly there already.
            self.read_greeting(watch, slot);
        }
    }

    fn take_port(&mut self) -> u32 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }

    /// A connection's socket is ready.
    pub(super) fn on_stream(&mut self, watch: &mut dyn Watch, slot: usize, ready: Ready) {
        let Some(connection) = self.table.get_mut(slot).filter(|connection| connection.watched.is_some())
        else {
            return;
        };
        match &connection.phase {
            Phase::Greeting(_) => self.read_greeting(watch, slot),
            Phase::Held(_) if ready.hangup => self.abandon(watch, slot),
            Phase::Held(_) => {
                // It talks or has closed its side before the guest accepted: that is looked at then.
                connection.paused = true;
                self.rewatch(watch, slot);
            }
            Phase::Open | Phase::Flushing => self.on_open_stream(watch, slot, ready),
            Phase::Offered(_) | Phase::Resetting => {}
        }
    }

    fn on_open_stream(&mut self, watch: &mut dyn Watch, slot: usize, ready: Ready) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if ready.writable && !ready.hangup {
            connection.flush();
        }
        if ready.hangup {
            connection.hang_up();
        }
        let stuck = connection.blocked || (connection.queued && self.starved);
        let reads = connection.reads();
        if reads && ready.readable && stuck {
            connection.paused = true;
        } else if reads && (ready.readable || ready.hangup) {
            self.schedule(slot);
        }
        self.settle(watch, slot);
    }

    /// After bytes have been passed on: closes what is over, and sees to what the guest is owed.
    pub(super) fn settle(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if connection.settle() {
            return self.abandon(watch, slot);
        }
        self.schedule_owed(slot);
        self.rewatch(watch, slot);
    }

    fn read_greeting(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let (Phase::Greeting(greeting), Some(stream)) = (&mut connection.phase, &connection.stream) else {
            return;
        };
        match greeting.read(stream) {
            Ok(None) => {}
            Err(_) => self.forget(watch, slot),
            Ok(Some(port)) => self.hold(watch, slot, port),
        }
    }

    /// A client named its port: asks the guest, until it accepts.
    fn hold(&mut self, watch: &mut dyn Watch, slot: usize, guest_port: u32) {
        let Some(mut host_port) = self.table.get(slot).map(|connection| connection.key.host_port) else {
            return;
        };
        // Ports wrap around after a thousand million clients; a table of a thousand always leaves a free one.
        while self.table.find(Key { host_port, guest_port }).is_some() {
            host_port = self.take_port();
        }
        let Some(connection) = self.table.get_mut(slot) else { return };
        connection.key = Key { host_port, guest_port };
        let give_up = Instant::now() + HOLD_TIME;
        connection.phase = Phase::Held(Hold { asked: false, again: false, backoff: BACKOFF_MIN, give_up });
        self.table.publish(slot);
        self.ask(slot);
        self.rewatch(watch, slot);
    }

    /// Sends the request of a client that is held, unless the guest has it.
    pub(super) fn ask(&mut self, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let Phase::Held(hold) = &mut connection.phase else { return };
        if hold.asked {
            hold.again = true;
            return;
        }
        (hold.asked, hold.again) = (true, false);
        let give_up = hold.give_up;
        connection.owe_request();
        self.table.set_deadline(slot, Some(give_up));
        self.schedule(slot);
    }

    /// The guest started something, so perhaps it listens now: asks for all clients that are held.
    pub(super) fn ask_all(&mut self) {
        for slot in self.table.slots(|phase| matches!(phase, Phase::Held(_))) {
            self.ask(slot);
        }
    }

    /// The guest refused a client: tries again a little later.
    pub(super) fn refused(&mut self, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let Phase::Held(hold) = &mut connection.phase else { return };
        hold.asked = false;
        if hold.again {
            return self.ask(slot);
        }
        let when = (Instant::now() + hold.backoff).min(hold.give_up);
        hold.backoff = hold.backoff.saturating_mul(2).min(BACKOFF_MAX);
        self.table.set_deadline(slot, Some(when));
    }

    /// Sees to all whose deadline has passed.
    pub(super) fn meet_deadlines(&mut self, watch: &mut dyn Watch) {
        let now = Instant::now();
        self.listen_again = self.listen_again.filter(|&when| when > now);
        while let Some(slot) = self.table.take_due(now) {
            match self.table.get(slot).map(|connection| &connection.phase) {
                Some(Phase::Held(hold)) if !hold.asked && now < hold.give_up => self.ask(slot),
                _ => self.abandon(watch, slot),
            }
        }
    }

    /// Takes what the dialer answered.
    pub(super) fn take_answers(&mut self, watch: &mut dyn Watch) {
        self.answers.clear();
        while let Some((offer, stream)) = self.answers.next() {
            let Some(slot) = self.offered(offer) else { continue };
            let Some(stream) = stream else {
                self.abandon(watch, slot);
                continue;
            };
            let Some(connection) = self.table.get_mut(slot) else { continue };
            connection.stream = Some(stream);
            connection.phase = Phase::Open;
            connection.owe_response();
            self.table.set_deadline(slot, None);
            self.schedule(slot);
            self.rewatch(watch, slot);
        }
    }

    fn offered(&self, offer: OfferId) -> Option<usize> {
        self.table.slots(|phase| matches!(phase, Phase::Offered(id) if *id == offer)).pop()
    }
}
