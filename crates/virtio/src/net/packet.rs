//! What a frame is, as far as its first bytes tell: Ethernet, ARP, IPv4 (RFC 791), IPv6 (RFC 8200).
//!
//! Pure; looks at a copy on the host that the guest cannot change. Invariant: any bytes are read without harm, and what
//! is said of a frame is true of what every receiver will see: a frame whose headers do not all lie in the copy is
//! malformed, not unknown.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::counters::Cause;

/// The length of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// How many of a frame's first bytes are looked at. Longer headers than any honest sender makes fit.
pub(super) const LOOK: usize = 256;

/// Protocols above IP.
pub(super) mod protocol {
    pub(in crate::net) const HOP_BY_HOP: u8 = 0;
    pub(in crate::net) const ICMP: u8 = 1;
    pub(in crate::net) const IGMP: u8 = 2;
    pub(in crate::net) const TCP: u8 = 6;
    pub(in crate::net) const UDP: u8 = 17;
    pub(in crate::net) const ROUTING: u8 = 43;
    pub(in crate::net) const FRAGMENT: u8 = 44;
    pub(in crate::net) const AUTHENTICATION: u8 = 51;
    pub(in crate::net) const ICMPV6: u8 = 58;
    pub(in crate::net) const DESTINATION: u8 = 60;
}

/// The first bytes of a frame, and how long it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// At most [`LOOK`] bytes, all of them if the frame is no longer.
    pub(super) head: &'a [u8],
    pub(super) len: usize,
}

impl Frame<'_> {
    /// So many bytes at a place, if they are in the head.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.head.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.head.get(at).copied()
    }

    /// Two bytes in the network's order.
    pub(super) fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }
}

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Arp,
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// Anything else, VLAN tags and lengths instead of a type too.
    Other,
}

/// Whether an IP packet is a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Later,
}

/// A header above IP: its protocol and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    pub(super) protocol: u8,
    pub(super) at: usize,
}

/// A frame, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) frame: Frame<'a>,
    /// For IP, the source address.
    pub(super) network: Network,
    pub(super) part: Part,
    /// None where IP carries nothing, and in all but the first part of a packet.
    pub(super) upper: Option<Upper>,
}

impl<'a> Packet<'a> {
    /// Takes a frame apart.
    pub(super) fn parse(frame: Frame<'a>) -> Result<Self, Cause> {
        let kind = frame.word(12).ok_or(Cause::Malformed)?;
        match kind {
            0x0800 => Self::parse_v4(frame),
            0x86dd => Self::parse_v6(frame),
            0x0806 => Ok(Self::opaque(frame, Network::Arp)),
            _ => Ok(Self::opaque(frame, Network::Other)),
        }
        .and_then(Self::with_ports)
    }

    /// A frame of which nothing is known above Ethernet.
    pub(super) fn opaque(frame: Frame<'a>, network: Network) -> Self {
        Self { frame, network, part: Part::Whole, upper: None }
    }

    fn parse_v4(frame: Frame<'a>) -> Result<Self, Cause> {
        let version = frame.byte(ETHERNET).ok_or(Cause::Malformed)?;
        let words = usize::from(version & 15);
        let source: [u8; 4] = frame.bytes(ETHERNET + 12).ok_or(Cause::Malformed)?;
        let at = ETHERNET.saturating_add(words.saturating_mul(4));
        if version >> 4 != 4 || words < 5 || at > frame.head.len() {
            return Err(Cause::Malformed);
        }
        let fragment = frame.word(ETHERNET + 6).ok_or(Cause::Malformed)?;
        let part = match (fragment & 0x1fff, fragment & 0x2000) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First,
            _ => Part::Later,
        };
        let protocol = frame.byte(ETHERNET + 9).ok_or(Cause::Malformed)?;
        let upper = Some(Upper { protocol, at }).filter(|_| part != Part::Later);
        Ok(Self { frame, network: Network::V4(source.into()), part, upper })
    }

    fn parse_v6(frame: Frame<'a>) -> Result<Self, Cause> {
        let source: [u8; 16] = frame.bytes(ETHERNET + 8).ok_or(Cause::Malformed)?;
        if frame.byte(ETHERNET).is_none_or(|byte| byte >> 4 != 6) {
            return Err(Cause::Malformed);
        }
        let mut next = frame.byte(ETHERNET + 6).ok_or(Cause::Malformed)?;
        let (mut at, mut part) = (ETHERNET + 40, Part::Whole);
        let network = Network::V6(source.into());
        loop {
            if at > frame.head.len() {
                return Err(Cause::Malformed);
            }
            let length = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                    extension(&frame, at)?.saturating_add(1).saturating_mul(8)
                }
                protocol::AUTHENTICATION => extension(&frame, at)?.saturating_add(2).saturating_mul(4),
                protocol::FRAGMENT => {
                    let offset = frame.word(at.saturating_add(2)).ok_or(Cause::Malformed)?;
                    if offset >> 3 != 0 {
                        return Ok(Self { frame, network, part: Part::Later, upper: None });
                    }
                    part = Part::First;
                    8
                }
                // 59 is "no next header": such an upper header matches no rule.
                _ => return Ok(Self { frame, network, part, upper: Some(Upper { protocol: next, at }) }),
            };
            next = frame.byte(at).ok_or(Cause::Malformed)?;
            at = at.saturating_add(length);
        }
    }

    /// Ports and types are in the frame, and of a packet in parts in its first: whoever puts the parts together would
    /// see what was not looked at. What lies behind the packet's own end is padding, and never seen again.
    fn with_ports(self) -> Result<Self, Cause> {
        let Some(upper) = self.upper else { return Ok(self) };
        let end = upper.at.saturating_add(8);
        let checked = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6, protocol::IGMP];
        if checked.contains(&upper.protocol) && end > self.frame.head.len() {
            return Err(Cause::Malformed);
        }
        let (length, before) = match self.network {
            Network::V4(_) => (ETHERNET + 2, ETHERNET),
            _ => (ETHERNET + 4, ETHERNET + 40),
        };
        let length = self.frame.word(length).ok_or(Cause::Malformed)?;
        if self.part == Part::First && end > before.saturating_add(usize::from(length)) {
            return Err(Cause::Malformed);
        }
        Ok(self)
    }
}

/// The length of an IPv6 extension header, in the unit of its kind.
fn extension(frame: &Frame<'_>, at: usize) -> Result<usize, Cause> {
    frame.byte(at.saturating_add(1)).map(usize::from).ok_or(Cause::Malformed)
}
