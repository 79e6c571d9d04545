//! Frames as a hostile guest makes them, in hexadecimal, each with a mark by which it is known wherever it turns up.

use std::net::{Ipv4Addr, Ipv6Addr};

/// In every forged frame.
pub const FORGED: &[u8] = b"HULL-FORGED";
/// In one that is as it should be.
pub const HONEST: &[u8] = b"HULL-HONEST";
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Of all nodes of a link, in IPv6.
pub const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to, &from, &kind.to_be_bytes()[..], payload].concat()
}

/// The checksum of RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// `who` has `address`, says a frame from `from`.
pub fn arp(from: [u8; 6], who: [u8; 6], address: Ipv4Addr, asked: Ipv4Addr, mark: &[u8]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let body = [&head[..], &who, &address.octets(), &BROADCAST, &asked.octets(), mark].concat();
    ethernet(BROADCAST, from, 0x0806, &body)
}

/// A UDP datagram in IPv4.
pub fn udp4(from: [u8; 6], source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16), mark: &[u8]) -> Vec<u8> {
    let length = 8 + mark.len() as u16;
    let (here, there) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
    let udp = [&here[..], &there, &length.to_be_bytes(), &[0, 0], mark].concat();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(source.octets());
    ip.extend(target.octets());
    let sum = checksum(&[&ip]);
    ip.splice(10..12, sum);
    ethernet(BROADCAST, from, 0x0800, &[ip, udp].concat())
}

/// A message of ICMPv6 in IPv6, with hop limit 255 as neighbour discovery demands.
fn icmp6(from: [u8; 6], source: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let target = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let length = message.len() as u16;
    let pseudo = [&[0, 0][..], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&source.octets(), &target.octets(), &pseudo, &message]);
    message.splice(2..4, sum);
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([58, 255]);
    ip.extend(source.octets());
    ip.extend(target.octets());
    ethernet(ALL_NODES, from, 0x86dd, &[ip, message].concat())
}

/// An option that nobody knows, to carry a mark.
fn marked(mark: &[u8]) -> Vec<u8> {
    let mut option = vec![253, 2];
    option.extend(mark);
    option.resize(16, 0);
    option
}

/// An unasked neighbour advertisement: `claimed` is at `from`.
pub fn neighbour(from: [u8; 6], source: Ipv6Addr, claimed: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(claimed.octets());
    message.extend([2, 1]);
    message.extend(from);
    message.extend(marked(FORGED));
    icmp6(from, source, message)
}

/// A router advertisement for a prefix that is nobody's.
pub fn router(from: [u8; 6], source: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets());
    message.extend(marked(FORGED));
    icmp6(from, source, message)
}

/// A datagram in IPv6 without any transport.
pub fn plain6(from: [u8; 6], source: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0, 1, 0, 1];
    message.extend(FORGED);
    icmp6(from, source, message)
}

/// The frame inside a VLAN.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

/// The link-local address that belongs to a card.
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}
