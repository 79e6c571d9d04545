//! Frames for tests, as honest and other guests send them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 1];
pub(super) const OTHER_MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 2];
pub(super) const V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub(super) const OTHER_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
pub(super) const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2);
pub(super) const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 3);
/// The link-local address of [`MAC`].
pub(super) const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x5eff, 0xfe10, 1);

pub(super) fn ethernet(source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&OTHER_MAC[..], &source, &kind.to_be_bytes(), payload].concat()
}

pub(super) fn arp(operation: u8, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet(MAC, 0x0806, &[&fixed[..], &mac, &address.octets(), &[0; 6], &[10, 88, 0, 1]].concat())
}

/// `fragment` holds the flags and the offset.
pub(super) fn v4_part(source: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0];
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend([192, 0, 2, 1]);
    ethernet(MAC, 0x0800, &[&header[..], payload].concat())
}

pub(super) fn v4(source: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4_part(source, protocol, 0, payload)
}

pub(super) fn v6(source: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], next, 255];
    header.extend(source.octets());
    header.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    ethernet(MAC, 0x86dd, &[&header[..], payload].concat())
}

pub(super) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let words = [from, to, length, 0];
    [words.map(u16::to_be_bytes).concat(), payload.to_vec()].concat()
}

/// A TCP header of 20 bytes and a payload.
pub(super) fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[12] = 0x50;
    [&header[..], payload].concat()
}

/// Neighbour discovery: a type, a target where the type has one, and a link-layer address option.
pub(super) fn discovery(kind: u8, target: Option<Ipv6Addr>, option: Option<(u8, [u8; 6])>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.iter().flat_map(Ipv6Addr::octets));
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    message
}
