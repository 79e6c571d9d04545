//! What a guest may say it is: nobody but itself (RFC 2827 at the source, RFC 6105 for routers).
//!
//! A part of a card, on the I/O thread; pure. The host's packet filter checks the same once more. Invariant: a frame
//! that passes has the card's address and one of its IP addresses as source, claims no other in ARP and neighbour
//! discovery, and is none that only a router, a bridge or an address server sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::Cause;
use super::packet::{ETHERNET, Frame, Network, Packet, Part, Upper, protocol};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCPV6_SERVER: u16 = 547;
const ICMP_REDIRECT: u8 = 5;
const ICMP_ROUTER: u8 = 9;
const IGMP_QUERY: u8 = 0x11;

/// Types of ICMPv6: multicast listeners (RFC 3810), neighbour discovery (RFC 4861).
mod icmpv6 {
    pub(super) const LISTENER_QUERY: u8 = 130;
    pub(super) const LISTENER_REPORT: u8 = 131;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_2: u8 = 143;
}

/// The addresses of a card.
#[derive(Debug)]
pub(super) struct Guard {
    mac: [u8; 6],
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Guard {
    /// The card's own addresses and the link-local one that belongs to its Ethernet address.
    pub(super) fn new(mac: [u8; 6], addresses: &[IpAddr]) -> Self {
        let mut guard = Self { mac, v4: Vec::new(), v6: vec![link_local(mac)] };
        for address in addresses {
            match address {
                IpAddr::V4(address) => guard.v4.push(*address),
                IpAddr::V6(address) => guard.v6.push(*address),
            }
        }
        guard
    }

    /// Whether the guest may send this.
    pub(super) fn check(&self, packet: &Packet<'_>) -> Result<(), Cause> {
        let source: [u8; 6] = packet.frame.bytes(6).ok_or(Cause::Malformed)?;
        self.own_mac(source)?;
        match packet.network {
            Network::Arp => self.check_arp(&packet.frame),
            Network::V4(source) => self.check_v4(packet, source),
            Network::V6(source) => self.check_v6(packet, source),
            // VLAN tags, spanning trees, discovery of bridges, whatever is no Internet protocol.
            Network::Other => Err(Cause::Forbidden),
        }
    }

    fn own_mac(&self, mac: [u8; 6]) -> Result<(), Cause> {
        if mac == self.mac { Ok(()) } else { Err(Cause::SourceMac) }
    }

    fn own_v6(&self, address: Option<[u8; 16]>) -> Result<(), Cause> {
        let address = Ipv6Addr::from(address.ok_or(Cause::Malformed)?);
        if self.v6.contains(&address) { Ok(()) } else { Err(Cause::SourceAddress) }
    }

    /// RFC 826. A probe for an address (RFC 5227) comes from none.
    fn check_arp(&self, frame: &Frame<'_>) -> Result<(), Cause> {
        let body: [u8; 28] = frame.bytes(ETHERNET).ok_or(Cause::Malformed)?;
        let [0, 1, 8, 0, 6, 4, 0, operation @ (1 | 2), sender @ ..] = body else {
            return Err(Cause::Forbidden);
        };
        let [a, b, c, d, e, f, w, x, y, z, ..] = sender;
        self.own_mac([a, b, c, d, e, f])?;
        let address = Ipv4Addr::new(w, x, y, z);
        let probe = address.is_unspecified() && operation == 1;
        if probe || self.v4.contains(&address) { Ok(()) } else { Err(Cause::SourceAddress) }
    }

    fn check_v4(&self, packet: &Packet<'_>, source: Ipv4Addr) -> Result<(), Cause> {
        let frame = &packet.frame;
        let ports = |at: usize| (frame.word(at), frame.word(at.saturating_add(2)));
        let mut asks_for_address = false;
        match packet.upper {
            Some(Upper { protocol: protocol::UDP, at }) => {
                if ports(at).0 == Some(DHCP_SERVER) {
                    return Err(Cause::Forbidden);
                }
                asks_for_address = ports(at) == (Some(DHCP_CLIENT), Some(DHCP_SERVER));
            }
            Some(Upper { protocol: protocol::ICMP, at })
                if matches!(frame.byte(at), Some(ICMP_REDIRECT | ICMP_ROUTER)) =>
            {
                return Err(Cause::Forbidden);
            }
            Some(Upper { protocol: protocol::IGMP, at }) if frame.byte(at) == Some(IGMP_QUERY) => {
                return Err(Cause::Forbidden);
            }
            _ => {}
        }
        // Without an address, one can be asked for and nothing else.
        let unspecified = source.is_unspecified() && asks_for_address && packet.part == Part::Whole;
        if unspecified || self.v4.contains(&source) { Ok(()) } else { Err(Cause::SourceAddress) }
    }

    fn check_v6(&self, packet: &Packet<'_>, source: Ipv6Addr) -> Result<(), Cause> {
        let frame = &packet.frame;
        let mut may_have_none = false;
        match packet.upper {
            Some(Upper { protocol: protocol::UDP, at }) if frame.word(at) == Some(DHCPV6_SERVER) => {
                return Err(Cause::Forbidden);
            }
            Some(Upper { protocol: protocol::ICMPV6, at }) => {
                may_have_none = self.check_icmpv6(packet, at, source)?;
            }
            _ => {}
        }
        if (source.is_unspecified() && may_have_none) || self.v6.contains(&source) {
            Ok(())
        } else {
            Err(Cause::SourceAddress)
        }
    }

    /// Whether the message is one that may come from the unspecified address.
    fn check_icmpv6(&self, packet: &Packet<'_>, at: usize, source: Ipv6Addr) -> Result<bool, Cause> {
        use icmpv6::{
            LISTENER_DONE, LISTENER_QUERY, LISTENER_REPORT, LISTENER_REPORT_2, NEIGHBOUR_ADVERTISEMENT,
            NEIGHBOUR_SOLICITATION, REDIRECT, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION,
        };
        let kind = packet.frame.byte(at).ok_or(Cause::Malformed)?;
        let body = match kind {
            ROUTER_ADVERTISEMENT | REDIRECT | LISTENER_QUERY => return Err(Cause::Forbidden),
            LISTENER_REPORT | LISTENER_DONE | LISTENER_REPORT_2 => return Ok(true),
            ROUTER_SOLICITATION => 8,
            NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24_usize,
            _ => return Ok(false),
        };
        // Neighbour discovery never comes in parts (RFC 6980), and is short enough to be seen whole.
        let length = packet.frame.word(ETHERNET + 4).map_or(0, usize::from);
        let end = ETHERNET.saturating_add(40).saturating_add(length);
        if packet.part != Part::Whole {
            return Err(Cause::Forbidden);
        }
        let options = packet.frame.head.get(at.saturating_add(body)..end).ok_or(Cause::Malformed)?;
        self.check_options(options)?;
        let target = packet.frame.bytes(at.saturating_add(8));
        match kind {
            NEIGHBOUR_ADVERTISEMENT => self.own_v6(target).map(|()| false),
            // Asking whether an address is taken is a claim to it.
            NEIGHBOUR_SOLICITATION if source.is_unspecified() => self.own_v6(target).map(|()| true),
            _ => Ok(kind == ROUTER_SOLICITATION),
        }
    }

    /// The link-layer addresses in options of neighbour discovery (RFC 4861, section 4.6.1) are the card's.
    fn check_options(&self, mut options: &[u8]) -> Result<(), Cause> {
        while let [kind, words, ..] = *options {
            let length = usize::from(words).saturating_mul(8);
            let Some(option) = options.get(..length).filter(|option| !option.is_empty()) else {
                return Err(Cause::Malformed);
            };
            if let (1 | 2, [_, _, mac @ ..]) = (kind, option) {
                self.own_mac(mac.try_into().map_err(|_| Cause::Malformed)?)?;
            }
            options = options.get(length..).unwrap_or_default();
        }
        if options.is_empty() { Ok(()) } else { Err(Cause::Malformed) }
    }
}

/// RFC 4291, appendix A: `fe80::` and the Ethernet address, its second lowest bit turned over.
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let mut address = [0; 16];
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    address.iter_mut().zip([0xfe, 0x80]).for_each(|(to, from)| *to = from);
    address.iter_mut().skip(8).zip(interface).for_each(|(to, from)| *to = from);
    address.into()
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
