//! From the guest to the host (virtio 1.2, section 5.1.6.2): each frame by one system call straight from the guest's
//! buffers.
//!
//! A part of the device, on the I/O thread. Invariant: the bytes that were checked are the bytes that are sent: they are
//! read from the guest once, and go out from the host's copy; only what nobody looks at comes from guest memory.

use std::io::{self, ErrorKind};
use std::time::Duration;

use hull_tap::HEADER;

use super::backend::Backend;
use super::counters::{Cause, Traffic};
use super::guard::Guard;
use super::header::Header;
use super::packet::{ETHERNET, Frame, LOOK, Network, Packet};
use super::{Next, VLAN_TAG};
use crate::bucket::Limiter;
use crate::chain::Chain;
use crate::device::Memory;
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::queue::Queue;

/// The longest frame: the longest IP packet, its Ethernet header and a tag.
const FRAME_MAX: usize = u16::MAX as usize + ETHERNET + VLAN_TAG;
/// What one call moves at most before other devices get their turn.
const TURN_FRAMES: u32 = 128;
const TURN_BYTES: u64 = 2 << 20;

/// What a turn is lent.
pub(super) struct Lent<'a> {
    pub(super) mem: &'a Memory,
    pub(super) queue: &'a mut Queue,
    pub(super) backend: &'a mut dyn Backend,
    pub(super) traffic: &'a Traffic,
    pub(super) features: u64,
    pub(super) now: Duration,
}

/// The sending half of a card.
#[derive(Debug)]
pub(super) struct Transmitter {
    limiter: Limiter,
    guard: Option<Guard>,
}

impl Transmitter {
    pub(super) fn new(limiter: Limiter, guard: Option<Guard>) -> Self {
        Self { limiter, guard }
    }

    /// Moves a turn's worth of frames.
    pub(super) fn turn(&mut self, lent: &mut Lent<'_>) -> Result<Next, Fault> {
        let mut bytes = 0_u64;
        for _ in 0..TURN_FRAMES {
            let Some(chain) = lent.queue.pop(lent.mem)? else { return Ok(Next::Driver) };
            bytes = bytes.saturating_add(u64::from(chain.read_len()));
            match self.one(lent, &chain)? {
                Ok(sent) => lent.traffic.pass(sent),
                Err(Refused::Dropped(cause)) => lent.traffic.drop(cause),
                Err(Refused::Later(next)) => {
                    lent.queue.undo(chain);
                    return Ok(next);
                }
            }
            lent.queue.push(lent.mem, chain, 0)?;
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(Next::Turn)
    }

    /// Checks and sends one frame; its length.
    fn one(&mut self, lent: &mut Lent<'_>, chain: &Chain) -> Result<Result<u64, Refused>, Fault> {
        let total = usize::try_from(chain.read_len()).unwrap_or(usize::MAX);
        let Some(len) = total.checked_sub(HEADER).filter(|len| (ETHERNET..=FRAME_MAX).contains(len)) else {
            return Ok(Err(Refused::Dropped(Cause::Malformed)));
        };
        // The header and what is looked at, read once.
        let mut copy = [0; HEADER + LOOK];
        let mut reader = chain.reader(lent.mem);
        let copy = copy.get_mut(..total.min(HEADER + LOOK)).unwrap_or_default();
        reader.read(copy)?;
        let packets = match self.check(lent.features, copy, len) {
            Ok(packets) => packets,
            Err(cause) => return Ok(Err(Refused::Dropped(cause))),
        };
        let bytes = u64::try_from(len).unwrap_or(u64::MAX);
        if let Some(wait) = self.limiter.wait(lent.now, bytes, packets) {
            return Ok(Err(Refused::Later(Next::Time(wait))));
        }
        let mut vecs = IoVecs::with_capacity(20);
        reader.gather(&mut vecs)?;
        Ok(match lent.backend.send(copy, &vecs) {
            Ok(()) => {
                self.limiter.take(bytes, packets);
                Ok(bytes)
            }
            Err(error) => Err(refused(&error)),
        })
    }

    /// Checks a frame and puts the header that the host is told into the copy; how many packets it becomes.
    fn check(&self, features: u64, copy: &mut [u8], len: usize) -> Result<u64, Cause> {
        let (header, head) = copy.split_first_chunk_mut::<HEADER>().ok_or(Cause::Malformed)?;
        let frame = Frame { head, len };
        let packet = match (&self.guard, Packet::parse(frame)) {
            (Some(guard), packet) => {
                let packet = packet?;
                guard.check(&packet)?;
                packet
            }
            // Nobody minds what it is.
            (None, packet) => packet.unwrap_or(Packet::opaque(frame, Network::Other)),
        };
        let (told, packets) = Header::read(*header).for_host(features, &packet)?;
        *header = told.write(0);
        Ok(packets)
    }
}

/// Why a frame was not sent.
enum Refused {
    Dropped(Cause),
    /// It is tried again after this.
    Later(Next),
}

fn refused(error: &io::Error) -> Refused {
    if error.kind() == ErrorKind::WouldBlock {
        return Refused::Later(Next::Descriptor);
    }
    // The interface is down, gone or out of memory: as on a wire that was pulled out.
    log::debug!("a frame could not be sent: {error}");
    Refused::Dropped(Cause::Host)
}
