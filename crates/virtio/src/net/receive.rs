//! From the host to the guest (virtio 1.2, section 5.1.6.4): each frame by one system call straight into the guest's
//! buffers.
//!
//! A part of the device, on the I/O thread. Invariant: after [`Receiver::turn`], as long as the host has a frame,
//! something is awaited that will happen: more of it to read, buffers of the driver, or time. A guest that offers too
//! little loses frames and never stops the others.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use hull_tap::HEADER;

use super::backend::Backend;
use super::counters::{Cause, Traffic};
use super::feature::{GUEST_TSO4, GUEST_TSO6, GUEST_USO4, MRG_RXBUF};
use super::filter::Filter;
use super::header::Header;
use super::packet::ETHERNET;
use super::{Next, VLAN_TAG};
use crate::bucket::Limiter;
use crate::chain::Chain;
use crate::device::Memory;
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::queue::Queue;

/// What is read to the host first: the virtio header and the Ethernet header.
const HEAD: usize = HEADER + ETHERNET;
/// What one call moves at most before other devices get their turn.
const TURN_FRAMES: u32 = 128;
const TURN_BYTES: usize = 2 << 20;
/// How soon after a turn a frame is part of the same burst.
const BUSY: Duration = Duration::from_micros(50);
/// After how many turns with one frame each the next ones are expected to be alone as well.
const LONE: u8 = 8;
/// How long a driver that has offered something is waited for to offer enough for the longest frame.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long to wait after the host failed.
const HOST_PAUSE: Duration = Duration::from_millis(100);

/// What a turn is lent.
pub(super) struct Lent<'a> {
    pub(super) mem: &'a Memory,
    pub(super) queue: &'a mut Queue,
    pub(super) backend: &'a mut dyn Backend,
    pub(super) traffic: &'a Traffic,
    pub(super) filter: &'a Filter,
    /// The features negotiated, with the offloads that the guest takes now.
    pub(super) features: u64,
    pub(super) now: Duration,
}

/// The receiving half of a card.
#[derive(Debug)]
pub(super) struct Receiver {
    limiter: Limiter,
    /// The longest frame that is no large segment, with its Ethernet header and a tag.
    plain: usize,
    /// Buffers taken from the driver and not yet filled, oldest first.
    stock: VecDeque<Chain>,
    /// How many turns in a row have found one frame and no more.
    lone: u8,
    /// When the last turn was.
    last: Duration,
    /// Since when they are too few for the longest frame, without more to be had.
    short_since: Option<Duration>,
}

impl Receiver {
    pub(super) fn new(limiter: Limiter, mtu: u16) -> Self {
        let plain = usize::from(mtu).saturating_add(ETHERNET).saturating_add(VLAN_TAG);
        Self { limiter, plain, stock: VecDeque::new(), lone: 0, last: Duration::ZERO, short_since: None }
    }

    /// Gives the driver's buffers back, as if they had not been taken.
    pub(super) fn drain(&mut self, queue: &mut Queue) {
        while let Some(chain) = self.stock.pop_back() {
            queue.undo(chain);
        }
    }

    pub(super) fn reset(&mut self) {
        self.stock.clear();
        self.short_since = None;
    }

    /// Moves a turn's worth of frames.
    pub(super) fn turn(&mut self, lent: &mut Lent<'_>) -> Result<Next, Fault> {
        let mem = lent.mem;
        let merges = lent.features & MRG_RXBUF != 0;
        let segments = lent.features & (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4) != 0;
        let longest = if segments { self.plain.max(usize::from(u16::MAX) + ETHERNET) } else { self.plain };
        let mut vecs = IoVecs::with_capacity(64);
        for chain in self.stock.iter().take(if merges { usize::MAX } else { 0 }) {
            chain.gather_writable(mem, &mut vecs)?;
        }
        let mut moved = 0_usize;
        for found in 0..self.most(lent.now) {
            let bytes = u64::try_from(longest).unwrap_or(u64::MAX);
            if let Some(wait) = self.limiter.wait(lent.now, bytes, 1) {
                return Ok(Next::Time(wait));
            }
            if !merges {
                vecs = IoVecs::with_capacity(8);
                if let Some(chain) = self.stock.front() {
                    chain.gather_writable(mem, &mut vecs)?;
                }
            }
            if let Some(next) = self.fill(lent, &mut vecs, longest.saturating_add(HEADER), merges)? {
                return Ok(next);
            }
            match self.one(lent, &mut vecs)? {
                Moved::Bytes(bytes) => moved = moved.saturating_add(bytes),
                Moved::Nothing(next) => {
                    self.lone = if found == 1 { self.lone.saturating_add(1) } else { 0 };
                    return Ok(next);
                }
            }
            if moved >= TURN_BYTES {
                break;
            }
        }
        // What is left keeps the descriptor readable.
        Ok(Next::Descriptor)
    }

    /// How many frames this turn moves at most. Where they come one by one, one: being told of another costs no more
    /// than asking for it.
    fn most(&mut self, now: Duration) -> u32 {
        let at_once = now.saturating_sub(std::mem::replace(&mut self.last, now)) < BUSY;
        if at_once && self.lone >= LONE {
            self.lone = 0;
        }
        if self.lone >= LONE { 1 } else { TURN_FRAMES }
    }

    /// Takes buffers until the longest frame fits, or says what is to be awaited instead.
    fn fill<'a>(
        &mut self,
        lent: &mut Lent<'a>,
        vecs: &mut IoVecs<'a>,
        longest: usize,
        merges: bool,
    ) -> Result<Option<Next>, Fault> {
        while vecs.remaining() < longest && !vecs.is_full() && (merges || self.stock.is_empty()) {
            let Some(chain) = lent.queue.pop(lent.mem)? else { return Ok(self.go_short(lent.now)) };
            let available = chain.write_len();
            let needed = u32::try_from(HEADER).unwrap_or(u32::MAX);
            if available < needed {
                return Err(Fault::Short { needed, available });
            }
            chain.gather_writable(lent.mem, vecs)?;
            self.stock.push_back(chain);
        }
        self.short_since = None;
        Ok(None)
    }

    /// The driver has no more: wait for it, or after a while make do. It has been asked to kick for its next buffer.
    fn go_short(&mut self, now: Duration) -> Option<Next> {
        if self.stock.is_empty() {
            return Some(Next::Driver);
        }
        let since = *self.short_since.get_or_insert(now);
        let left = PATIENCE.checked_sub(now.saturating_sub(since)).filter(|left| !left.is_zero())?;
        Some(Next::Time(left))
    }

    /// Receives one frame.
    fn one(&mut self, lent: &mut Lent<'_>, vecs: &mut IoVecs<'_>) -> Result<Moved, Fault> {
        let mut head = [0; HEAD];
        let length = match lent.backend.receive(&mut head, vecs) {
            Ok(Some(length)) => length,
            Ok(None) => {
                lent.traffic.drop(Cause::NoBuffer);
                return Ok(Moved::Bytes(self.plain));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(Moved::Nothing(Next::Descriptor));
            }
            Err(error) => {
                // The interface is gone or out of memory; no frame was taken.
                log::debug!("no frame could be received: {error}");
                return Ok(Moved::Nothing(Next::Time(HOST_PAUSE)));
            }
        };
        match admit(lent, &head, length) {
            Ok(header) => {
                let frame = length.saturating_sub(HEADER);
                let bytes = u64::try_from(frame).unwrap_or(u64::MAX);
                self.deliver(lent, vecs, header, (&mut head, length))?;
                self.limiter.take(bytes, header.segments(frame));
                lent.traffic.pass(bytes);
            }
            Err(cause) => lent.traffic.drop(cause),
        }
        Ok(Moved::Bytes(length))
    }

    /// Completes the frame that lies in the stock's first buffers, and hands these to the driver.
    fn deliver(
        &mut self,
        lent: &mut Lent<'_>,
        vecs: &mut IoVecs<'_>,
        header: Header,
        (head, length): (&mut [u8; HEAD], usize),
    ) -> Result<(), Fault> {
        let (mut room, mut count) = (0_usize, 0_usize);
        for chain in &self.stock {
            if room >= length {
                break;
            }
            room = room.saturating_add(size(chain));
            count = count.saturating_add(1);
        }
        let buffers = u16::try_from(count).unwrap_or(u16::MAX);
        head.iter_mut().zip(header.write(buffers)).for_each(|(to, from)| *to = from);
        let mut rest = &head[..];
        for chain in self.stock.iter().take(count) {
            let mut writer = chain.writer(lent.mem);
            let (now, later) = rest.split_at(rest.len().min(size(chain)));
            writer.write(now)?;
            rest = later;
        }
        vecs.advance(room);
        let mut left = u32::try_from(length).unwrap_or(u32::MAX);
        let used = self.stock.drain(..count).map(|chain| {
            let written = left.min(chain.write_len());
            left = left.saturating_sub(written);
            (chain, written)
        });
        lent.queue.push_all(lent.mem, used)
    }
}

/// What one attempt came to.
enum Moved {
    /// A frame, passed or dropped.
    Bytes(usize),
    Nothing(Next),
}

fn size(chain: &Chain) -> usize {
    usize::try_from(chain.write_len()).unwrap_or(usize::MAX)
}

/// Whether the guest gets this frame, and behind which header.
fn admit(lent: &Lent<'_>, head: &[u8; HEAD], length: usize) -> Result<Header, Cause> {
    let (header, ethernet) = head.split_at(HEADER);
    let header: [u8; HEADER] = header.try_into().map_err(|_| Cause::Malformed)?;
    let to = ethernet.first_chunk().copied().filter(|_| length >= HEAD).ok_or(Cause::Malformed)?;
    if !lent.filter.takes(to) {
        return Err(Cause::Filtered);
    }
    Header::read(header).for_guest(lent.features).ok_or(Cause::Offload)
}
