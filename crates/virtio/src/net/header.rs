//! The header before each frame, `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).
//!
//! Pure. Invariant: what leaves [`Header::for_host`] asks the host's stack only for what was negotiated and for what
//! the frame is: a checksum is written into the checksum field of its TCP or UDP header and nowhere else, so no
//! byte that was checked changes on its way.

use hull_tap::HEADER;

use super::counters::Cause;
use super::feature::{
    CSUM, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6, HOST_ECN, HOST_TSO4,
    HOST_TSO6, HOST_USO,
};
use super::packet::{ETHERNET, Network, Packet, Part, Upper, protocol};

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The smallest TCP segment Linux makes; smaller ones would turn one frame into tens of thousands.
const TCP_SEGMENT_MIN: u16 = 48;
/// The most datagrams Linux puts into one frame.
const UDP_SEGMENTS_MAX: usize = 128;

/// The header's fields, less the number of buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    pub(super) fn read(bytes: [u8; HEADER]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h, ..] = bytes;
        let word = |low, high| u16::from_le_bytes([low, high]);
        Self {
            flags,
            gso_type,
            hdr_len: word(a, b),
            gso_size: word(c, d),
            csum_start: word(e, f),
            csum_offset: word(g, h),
        }
    }

    pub(super) fn write(self, buffers: u16) -> [u8; HEADER] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        let [i, j] = buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }

    /// What of a guest's header the host is told, and how many packets the frame becomes on a wire.
    pub(super) fn for_host(self, features: u64, packet: &Packet<'_>) -> Result<(Self, u64), Cause> {
        if self.flags & NEEDS_CSUM == 0 {
            // Cutting a frame up means new checksums.
            let plain = self.gso_type == GSO_NONE;
            return if plain { Ok((Self::default(), 1)) } else { Err(Cause::Malformed) };
        }
        if features & CSUM == 0 {
            return Err(Cause::Malformed);
        }
        let upper = self.checksummed(packet)?;
        let sum = Self {
            flags: NEEDS_CSUM,
            csum_start: self.csum_start,
            csum_offset: self.csum_offset,
            ..Self::default()
        };
        if self.gso_type == GSO_NONE {
            return Ok((sum, 1));
        }
        self.check_segmentation(features, packet, upper)?;
        let (hdr_len, segments) = self.segmented(packet, upper)?;
        Ok((Self { gso_type: self.gso_type, gso_size: self.gso_size, hdr_len, ..sum }, segments))
    }

    /// The length of the headers that every segment repeats, and the number of segments.
    fn segmented(self, packet: &Packet<'_>, upper: Upper) -> Result<(u16, u64), Cause> {
        let own = if upper.protocol == protocol::UDP {
            8
        } else {
            // The length in words is in the high half of the byte.
            let words = packet.frame.byte(upper.at.saturating_add(12)).ok_or(Cause::Malformed)? >> 4;
            usize::from(words).saturating_mul(4)
        };
        let headers = upper.at.saturating_add(own);
        let payload = packet.frame.len.checked_sub(headers).ok_or(Cause::Malformed)?;
        let segments = payload.div_ceil(usize::from(self.gso_size.max(1))).max(1);
        let good = if upper.protocol == protocol::UDP {
            segments <= UDP_SEGMENTS_MAX
        } else {
            own >= 20 && self.gso_size >= TCP_SEGMENT_MIN
        };
        let hdr_len = u16::try_from(headers).ok().filter(|_| good).ok_or(Cause::Malformed)?;
        Ok((hdr_len, u64::try_from(segments).unwrap_or(u64::MAX)))
    }

    /// The TCP or UDP header whose checksum is asked for: the packet's own, or one deeper inside of what it carries (a
    /// tunnel of the guest's). In a frame that was not understood (a tag before it) the place tells which it is.
    fn checksummed(self, packet: &Packet<'_>) -> Result<Upper, Cause> {
        let at = usize::from(self.csum_start);
        let (protocol, needs) = match self.csum_offset {
            16 => (protocol::TCP, 20),
            6 => (protocol::UDP, 8),
            _ => return Err(Cause::Malformed),
        };
        let upper = Upper { protocol, at };
        let fits = match packet.upper {
            Some(own) if own == upper => true,
            Some(outer) => {
                // Behind everything that the guard has looked at.
                let looked_at = [protocol::ICMP, protocol::ICMPV6, protocol::IGMP];
                !looked_at.contains(&outer.protocol) && at >= outer.at.saturating_add(8)
            }
            None => packet.network == Network::Other && at >= ETHERNET,
        };
        let inside = at.saturating_add(needs) <= packet.frame.len;
        if fits && inside && packet.part == Part::Whole { Ok(upper) } else { Err(Cause::Malformed) }
    }

    fn check_segmentation(self, features: u64, packet: &Packet<'_>, upper: Upper) -> Result<(), Cause> {
        let ecn = self.gso_type & GSO_ECN != 0;
        let (needs, protocol, v6) = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 => (HOST_TSO4, protocol::TCP, Some(false)),
            GSO_TCPV6 => (HOST_TSO6, protocol::TCP, Some(true)),
            GSO_UDP if !ecn => (HOST_USO, protocol::UDP, None),
            _ => return Err(Cause::Malformed),
        };
        let needs = if ecn { needs | HOST_ECN } else { needs };
        let fits = match packet.network {
            Network::V4(_) => v6 != Some(true),
            Network::V6(_) => v6 != Some(false),
            Network::Arp => false,
            Network::Other => true,
        };
        let own = packet.upper.is_none_or(|own| own == upper) && upper.protocol == protocol;
        let good = features & needs == needs && own && fits && self.gso_size > 0;
        if good { Ok(()) } else { Err(Cause::Malformed) }
    }

    /// What of the host's header a guest is told; none if the frame needs what the guest does not take.
    pub(super) fn for_guest(mut self, features: u64) -> Option<Self> {
        let takes = |bits| features & bits == bits;
        if !takes(GUEST_CSUM) {
            if self.flags & NEEDS_CSUM != 0 || self.gso_type != GSO_NONE {
                return None;
            }
            self.flags &= !DATA_VALID;
        }
        self.flags &= NEEDS_CSUM | DATA_VALID;
        let taken = match self.gso_type & !GSO_ECN {
            GSO_NONE => true,
            GSO_TCPV4 => takes(GUEST_TSO4),
            GSO_TCPV6 => takes(GUEST_TSO6),
            GSO_UDP => takes(GUEST_USO4 | GUEST_USO6),
            _ => false,
        };
        let ecn = self.gso_type & GSO_ECN == 0 || takes(GUEST_ECN);
        (taken && ecn).then_some(self)
    }

    /// How many packets a frame of this length from the host stands for.
    pub(super) fn segments(self, len: usize) -> u64 {
        if self.gso_type == GSO_NONE || self.gso_size == 0 {
            return 1;
        }
        let payload = len.saturating_sub(usize::from(self.hdr_len));
        u64::try_from(payload.div_ceil(usize::from(self.gso_size)).max(1)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[path = "header/tests.rs"]
mod tests;
