//! One stream between a socket of the host and a port of the guest (virtio 1.2, section 5.10.6).
//!
//! Owned by the device's table, on the I/O thread. Bytes to the guest are not kept at all: they stay in the socket
//! until the guest has a buffer and credit for them. Bytes from the guest that the socket does not take are kept, never
//! more than the credit given ([`WINDOW`]). Invariant: a direction is closed only after its bytes have been passed
//! on, and a connection with something to say to the guest is queued for it.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::chain::Reader;
use crate::device::Interest;
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::vsock::backlog::Backlog;
use crate::vsock::dial::OfferId;
use crate::vsock::greeting::Greeting;
use crate::vsock::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM, op};

/// The credit given to the guest for one stream, in bytes, and so the most kept of it.
pub(super) const WINDOW: u32 = 256 * 1024;
/// The guest is told of new credit once it does not know of this much.
const TELL: u32 = WINDOW / 2;
/// The most a dying socket is emptied of, so that its client sees an end and not an error.
const DISCARD_MAX: usize = 1024 * 1024;

/// What tells streams of one guest apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// A request of the host's that the guest has not accepted yet.
#[derive(Debug)]
pub(super) struct Hold {
    /// The guest has the request and has not answered.
    pub(super) asked: bool,
    /// Ask again at once should the guest refuse.
    pub(super) again: bool,
    /// How long to wait after the next refusal.
    pub(super) backoff: Duration,
    /// When the client is given up.
    pub(super) give_up: Instant,
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// A client of the host has not said yet which port it wants.
    Greeting(Greeting),
    /// The guest has not accepted the client yet.
    Held(Hold),
    /// The host has not accepted the guest's request yet.
    Offered(OfferId),
    /// Bytes flow.
    Open,
    /// All that is left is to tell the guest that it is over.
    Resetting,
    /// The guest is done with it; the client has not taken all bytes yet.
    Flushing,
}

/// What the guest is to be told, apart from data.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    /// Directions that are over on the host's side.
    shutdown: u32,
    reset: bool,
}

/// A stream, or what becomes one.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) phase: Phase,
    pub(super) stream: Option<UnixStream>,
    /// What the socket is watched for.
    pub(super) watched: Option<Interest>,
    /// It is in the queue of those that have something for the guest.
    pub(super) queued: bool,
    /// It cannot be read from now, so readability is of no interest.
    pub(super) paused: bool,
    /// It waits for credit from the guest.
    pub(super) blocked: bool,
    due: Due,
    /// The directions the guest was told are over.
    told_shutdown: u32,
    /// The directions the guest said are over.
    guest_shutdown: u32,
    /// The client will send no more, and all it sent has been read.
    ended: bool,
    /// The client takes no more.
    deaf: bool,
    write_closed: bool,
    /// Both directions are over on the client's side: its socket has nothing new to report.
    hung_up: bool,
    backlog: Backlog,
    /// Bytes from the guest passed on, ever.
    forwarded: u32,
    /// What the guest knows of that.
    told_forwarded: u32,
    /// Bytes sent to the guest, ever.
    sent: u32,
    guest_window: u32,
    guest_forwarded: u32,
}

impl Connection {
    pub(super) fn new(key: Key, phase: Phase, stream: Option<UnixStream>) -> Self {
        Self {
            key,
            phase,
            stream,
            watched: None,
            queued: false,
            paused: false,
            blocked: false,
            due: Due::default(),
            told_shutdown: 0,
            guest_shutdown: 0,
            ended: false,
            deaf: false,
            write_closed: false,
            hung_up: false,
            backlog: Backlog::default(),
            forwarded: 0,
            told_forwarded: 0,
            sent: 0,
            guest_window: 0,
            guest_forwarded: 0,
        }
    }

    /// What its socket has to be watched for now.
    pub(super) fn interest(&self) -> Option<Interest> {
        if self.stream.is_none() || self.hung_up {
            return None;
        }
        let (read, write) = match &self.phase {
            Phase::Greeting(_) => (true, false),
            Phase::Held(_) => (!self.paused, false),
            Phase::Open => (self.reads() && !self.paused, !self.backlog.is_empty()),
            Phase::Flushing => (false, true),
            Phase::Offered(_) | Phase::Resetting => return None,
        };
        Some(match (read, write) {
            (true, true) => Interest::Both,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::Hangup,
        })
    }

    /// Whether there may be bytes of the client's that the guest wants.
    pub(super) fn reads(&self) -> bool {
        let wanted = self.guest_shutdown & SHUTDOWN_RECEIVE == 0;
        matches!(self.phase, Phase::Open) && self.stream.is_some() && wanted && !self.ended
    }

    // --- what the guest is told ---

    /// Asks the guest to accept.
    pub(super) fn owe_request(&mut self) {
        self.due.request = true;
    }

    /// Tells the guest that it is accepted.
    pub(super) fn owe_response(&mut self) {
        self.due.response = true;
    }

    /// Tells the guest how much credit it has.
    pub(super) fn owe_credit_update(&mut self) {
        self.due.credit_update = true;
    }

    /// It is over: the guest is told so, and nothing else.
    pub(super) fn owe_reset(&mut self) {
        self.phase = Phase::Resetting;
        self.due = Due { reset: true, ..Due::default() };
    }

    /// Whether there is something to tell besides data.
    pub(super) fn owes_control(&self) -> bool {
        let due = &self.due;
        due.reset
            || due.request
            || due.response
            || due.credit_update
            || due.credit_request
            || self.owed_shutdown() != 0
    }

    fn owed_shutdown(&self) -> u32 {
        if matches!(self.phase, Phase::Open) { self.due.shutdown & !self.told_shutdown } else { 0 }
    }

    /// Whether the guest has been told that both directions are over.
    pub(super) fn said_goodbye(&self) -> bool {
        self.told_shutdown == SHUTDOWN_BOTH
    }

    /// The next thing to tell, as operation and flags.
    pub(super) fn take_control(&mut self) -> Option<(u16, u32)> {
        let due = &mut self.due;
        for (flag, op) in [
            (&mut due.reset, op::RST),
            (&mut due.request, op::REQUEST),
            (&mut due.response, op::RESPONSE),
            (&mut due.credit_update, op::CREDIT_UPDATE),
            (&mut due.credit_request, op::CREDIT_REQUEST),
        ] {
            if std::mem::take(flag) {
                return Some((op, 0));
            }
        }
        let flags = self.owed_shutdown();
        self.told_shutdown |= flags;
        (flags != 0).then_some((op::SHUTDOWN, flags | self.told_shutdown))
    }

    /// The header of a packet to the guest. It carries the credit, so the guest knows that then.
    pub(super) fn header(&mut self, op: u16, flags: u32, len: u32) -> Header {
        self.told_forwarded = self.forwarded;
        self.due.credit_update = false;
        Header {
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: WINDOW,
            fwd_cnt: self.forwarded,
            ..Header::default()
        }
    }

    // --- to the guest ---

    /// Bytes the guest can take now.
    pub(super) fn credit(&self) -> u32 {
        self.guest_window.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// There is no credit: ask for some, once, and wait.
    pub(super) fn wait_for_credit(&mut self) {
        self.due.credit_request |= !self.blocked;
        self.blocked = true;
    }

    /// Takes note of the credit in a packet from the guest; true if it was waited for.
    pub(super) fn learn(&mut self, header: &Header) -> bool {
        self.guest_window = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        self.credit() > 0 && std::mem::take(&mut self.blocked)
    }

    /// Bytes have been sent to the guest.
    pub(super) fn spend(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// The client will send no more and all it sent has been passed on.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.due.shutdown |= SHUTDOWN_SEND;
    }

    /// Both directions are over on the client's side; what it sent before may still be read.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        self.stop_writing();
        if !self.reads() {
            self.end();
        }
    }

    // --- from the guest ---

    /// Passes bytes of the guest's on. False if it sent more than it has credit for or after it said it was done.
    pub(super) fn deliver(&mut self, mut data: Reader<'_>) -> Result<bool, Fault> {
        let fits = self.backlog.len().checked_add(data.remaining()).is_some_and(|sum| sum <= WINDOW);
        if !fits || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Ok(false);
        }
        if self.backlog.is_empty() && !self.deaf {
            let sent = self.send_direct(data.clone())?;
            data.take(sent)?;
            self.forward(sent);
        }
        if self.deaf {
            self.forward(data.remaining());
        } else {
            self.backlog.append(data)?;
        }
        Ok(true)
    }

    /// Sends from guest memory what the socket takes at once; returns the number of bytes.
    fn send_direct(&mut self, data: Reader<'_>) -> Result<u32, Fault> {
        let Some(stream) = &self.stream else { return Ok(0) };
        let total = data.remaining();
        let mut vecs = IoVecs::with_capacity(4);
        data.gather(&mut vecs)?;
        while vecs.remaining() > 0 {
            match vecs.send(stream.as_fd()) {
                Ok(count) => vecs.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.stop_writing();
                    break;
                }
            }
        }
        Ok(total.saturating_sub(u32::try_from(vecs.remaining()).unwrap_or(total)))
    }

    fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
        if self.forwarded.wrapping_sub(self.told_forwarded) >= TELL {
            self.due.credit_update = true;
        }
    }

    /// The client takes no more: what is kept for it and what still comes is dropped, and the guest is told to stop.
    fn stop_writing(&mut self) {
        self.deaf = true;
        self.due.shutdown |= SHUTDOWN_RECEIVE;
        self.forward(self.backlog.len());
        self.backlog = Backlog::default();
    }

    /// Sends what is kept, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        while let (Some(stream), pending @ [_, ..]) = (&self.stream, self.backlog.pending()) {
            match send(stream, pending, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.backlog.consume(count);
                    self.forward(u32::try_from(count).unwrap_or(0));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.stop_writing(),
            }
        }
    }

    /// The guest closed directions.
    pub(super) fn guest_shut(&mut self, flags: u32) {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if let (true, Some(stream)) = (self.guest_shutdown & SHUTDOWN_RECEIVE != 0, &self.stream) {
            // An error means that the client is gone, which shows elsewhere.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Closes what can be closed now that bytes have been passed on; true if the stream is over.
    pub(super) fn settle(&mut self) -> bool {
        if !self.backlog.is_empty() {
            return false;
        }
        match self.phase {
            Phase::Flushing => true,
            Phase::Open => {
                if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_closed {
                    self.write_closed = true;
                    if let Some(stream) = &self.stream {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
                self.guest_shutdown == SHUTDOWN_BOTH
            }
            _ => false,
        }
    }

    /// Whether bytes of the guest's are still to be passed on.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Tells the client that the guest accepted.
    pub(super) fn greet(&self) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Err(ErrorKind::NotConnected.into()) };
        let line = format!("OK {}\n", self.key.host_port);
        match send(stream, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
            count if count == line.len() => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }
}

/// Closes a client's socket such that the client reads what it was sent and then an end. (A socket closed with
/// unread bytes in it would give the client an error instead.)
pub(super) fn close(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
    let mut scratch = [0; 16 * 1024];
    let mut left = DISCARD_MAX;
    while let Ok((count @ 1.., _)) = recv(stream, &mut scratch, RecvFlags::DONTWAIT) {
        left = left.saturating_sub(count);
        if left == 0 {
            break;
        }
    }
}
