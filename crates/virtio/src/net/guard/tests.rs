#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use proptest::prelude::*;

use super::super::packet::LOOK;
use super::super::samples::*;
use super::*;

fn guard() -> Guard {
    Guard::new(MAC, &[V4.into(), V6.into()])
}

fn check(frame: &[u8]) -> Result<(), Cause> {
    let head = &frame[..frame.len().min(LOOK)];
    let packet = Packet::parse(Frame { head, len: frame.len() })?;
    guard().check(&packet)
}

const ICMPV6: u8 = protocol::ICMPV6;
const UDP: u8 = protocol::UDP;

#[test]
fn an_honest_guest_is_not_held_up() {
    let none4 = Ipv4Addr::UNSPECIFIED;
    let none6 = Ipv6Addr::UNSPECIFIED;
    for (what, frame) in [
        ("an ARP request", arp(1, MAC, V4)),
        ("an ARP answer", arp(2, MAC, V4)),
        ("an ARP probe", arp(1, MAC, none4)),
        ("UDP", v4(V4, UDP, &udp(5000, 53, b"query"))),
        ("TCP", v4(V4, protocol::TCP, &tcp(&[7; 2000]))),
        ("ping", v4(V4, protocol::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0])),
        ("a group report", v4(V4, protocol::IGMP, &[0x16, 0, 0, 0, 224, 0, 0, 251])),
        ("a client asking for an address", v4(none4, UDP, &udp(68, 67, &[1; 240]))),
        ("a first part", v4_part(V4, UDP, 0x2000, &udp(5000, 53, &[0; 1000]))),
        ("a later part", v4_part(V4, UDP, 125, &[0; 100])),
        ("another protocol", v4(V4, 47, &[0; 4])),
        ("UDP over IPv6", v6(V6, UDP, &udp(5000, 53, b"query"))),
        ("from the link-local address", v6(LOCAL, UDP, &udp(546, 547, b"query"))),
        ("a solicitation", v6(LOCAL, ICMPV6, &discovery(135, Some(OTHER_V6), Some((1, MAC))))),
        ("a solicitation without option", v6(V6, ICMPV6, &discovery(135, Some(OTHER_V6), None))),
        ("whether its address is taken", v6(none6, ICMPV6, &discovery(135, Some(V6), None))),
        ("the same for the link-local one", v6(none6, ICMPV6, &discovery(135, Some(LOCAL), None))),
        ("an advertisement", v6(V6, ICMPV6, &discovery(136, Some(V6), Some((2, MAC))))),
        ("asking for routers", v6(none6, ICMPV6, &discovery(133, None, None))),
        ("a listener's report", v6(none6, 0, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143; 28]].concat())),
        ("no next header", v6(V6, 59, &[])),
        ("a first part over IPv6", v6(V6, 44, &[&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &[1; 64]].concat())),
        ("a later part over IPv6", v6(V6, 44, &[&[ICMPV6, 0, 0, 64, 0, 0, 0, 9][..], &[134; 64]].concat())),
    ] {
        assert_eq!(check(&frame), Ok(()), "{what}");
    }
}

#[test]
fn nobody_elses_address_is_used_or_claimed() {
    let none6 = Ipv6Addr::UNSPECIFIED;
    let mut forged = v4(V4, UDP, &udp(5000, 53, b"query"));
    forged[6..12].copy_from_slice(&OTHER_MAC);
    for (what, frame, cause) in [
        ("another card", forged, Cause::SourceMac),
        ("another's card in ARP", arp(2, OTHER_MAC, V4), Cause::SourceMac),
        ("another's address in ARP", arp(2, MAC, OTHER_V4), Cause::SourceAddress),
        ("the same asked", arp(1, MAC, OTHER_V4), Cause::SourceAddress),
        ("an answer from nobody", arp(2, MAC, Ipv4Addr::UNSPECIFIED), Cause::SourceAddress),
        ("another's IPv4", v4(OTHER_V4, UDP, &udp(1, 2, b"")), Cause::SourceAddress),
        ("a loopback address", v4(Ipv4Addr::LOCALHOST, UDP, &udp(1, 2, b"")), Cause::SourceAddress),
        ("no address", v4(Ipv4Addr::UNSPECIFIED, UDP, &udp(1, 2, b"")), Cause::SourceAddress),
        ("a later part", v4_part(OTHER_V4, UDP, 10, &[0; 64]), Cause::SourceAddress),
        ("another's IPv6", v6(OTHER_V6, UDP, &udp(1, 2, b"")), Cause::SourceAddress),
        ("no IPv6 address", v6(none6, UDP, &udp(1, 2, b"")), Cause::SourceAddress),
        (
            "another's address in an advertisement",
            v6(V6, ICMPV6, &discovery(136, Some(OTHER_V6), Some((2, MAC)))),
            Cause::SourceAddress,
        ),
        (
            "its own address at another's card",
            v6(V6, ICMPV6, &discovery(136, Some(V6), Some((2, OTHER_MAC)))),
            Cause::SourceMac,
        ),
        (
            "the same in a solicitation",
            v6(V6, ICMPV6, &discovery(135, Some(OTHER_V6), Some((1, OTHER_MAC)))),
            Cause::SourceMac,
        ),
        (
            "a claim to another's address",
            v6(none6, ICMPV6, &discovery(135, Some(OTHER_V6), None)),
            Cause::SourceAddress,
        ),
    ] {
        assert_eq!(check(&frame), Err(cause), "{what}");
    }
}

#[test]
fn nothing_that_only_routers_and_servers_send() {
    let vlan = [&[0, 5][..], &v4(V4, UDP, &udp(1, 2, b""))[12..]].concat();
    let atomic = [&[ICMPV6, 0, 0, 0, 0, 0, 0, 9][..], &discovery(135, Some(OTHER_V6), None)].concat();
    for (what, frame) in [
        ("a DHCP server", v4(V4, UDP, &udp(67, 68, &[2; 240]))),
        ("a DHCPv6 server", v6(V6, UDP, &udp(547, 546, &[2; 40]))),
        ("a router advertisement", v6(LOCAL, ICMPV6, &discovery(134, None, None))),
        ("a redirect", v6(LOCAL, ICMPV6, &discovery(137, Some(V6), None))),
        ("a listener query", v6(LOCAL, ICMPV6, &[130; 24])),
        ("an IPv4 redirect", v4(V4, protocol::ICMP, &[5, 1, 0, 0, 10, 88, 0, 2])),
        ("an IPv4 router", v4(V4, protocol::ICMP, &[9, 0, 0, 0, 1, 2, 7, 8])),
        ("a group query", v4(V4, protocol::IGMP, &[0x11; 8])),
        ("a VLAN tag", ethernet(MAC, 0x8100, &vlan)),
        ("two VLAN tags", ethernet(MAC, 0x88a8, &[&[0, 6, 0x81, 0][..], &vlan].concat())),
        ("a spanning tree", ethernet(MAC, 38, &[0x42; 38])),
        ("discovery of bridges", ethernet(MAC, 0x88cc, &[2; 40])),
        ("discovery in a part", v6(V6, 44, &atomic)),
        ("ARP of another kind", {
            let mut frame = arp(1, MAC, V4);
            frame[ETHERNET + 7] = 3;
            frame
        }),
    ] {
        assert_eq!(check(&frame), Err(Cause::Forbidden), "{what}");
    }
}

#[test]
fn headers_that_are_not_all_there_are_no_headers() {
    // The evil part would come second: an upper header that does not lie in the first part, though padding behind its
    // end looks like one.
    let mut hidden =
        v6(V6, 44, &[&[60, 0, 0, 1, 0, 0, 0, 9][..], &[ICMPV6, 1], &[0; 14], &[128; 16]].concat());
    hidden[ETHERNET + 5] = 16;
    let short = &v4_part(V4, UDP, 0x2000, &[0; 7]);
    let jumbo = &v6(V6, ICMPV6, &[&discovery(136, Some(V6), None)[..], &[1; 400]].concat());
    let nothing = &v6(V6, ICMPV6, &[&discovery(135, Some(V6), None)[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat());
    let chain = [&[60; 1][..], &[31], &[0; 300]].concat();
    for (what, frame) in [
        ("an upper header in the next part", &hidden[..]),
        ("half an upper header", short),
        ("discovery longer than what is looked at", jumbo),
        ("an option without length", nothing),
        ("a chain longer than what is looked at", &v6(V6, 60, &chain)),
        ("an Ethernet header", &arp(1, MAC, V4)[..ETHERNET]),
        ("half an ARP", &arp(1, MAC, V4)[..40]),
        ("IPv4 of version 5", &ethernet(MAC, 0x0800, &[0x55; 40])),
        ("IPv4 of four words", &ethernet(MAC, 0x0800, &[0x44; 40])),
        ("IPv6 of version 4", &ethernet(MAC, 0x86dd, &[0x45; 60])),
        ("half IPv6", &v6(V6, UDP, b"")[..50]),
    ] {
        assert_eq!(check(frame), Err(Cause::Malformed), "{what}");
    }
    assert_eq!(check(&[]), Err(Cause::Malformed));
}

/// What must be true of a frame that passes, read anew and without the code under test.
fn is_honest(frame: &[u8]) -> bool {
    let own = [V6, LOCAL].map(|address| address.octets());
    frame[6..12] == MAC
        && match frame[12..14] {
            [8, 0] => {
                let head = 14 + usize::from(frame[14] & 15) * 4;
                let first = u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff == 0;
                let server = first && frame[23] == UDP && frame[head..head + 2] == [0, 67];
                let client = first && frame[23] == UDP && frame[head..head + 4] == [0, 68, 0, 67];
                let source = &frame[26..30];
                !server && (source == V4.octets() || (source == [0; 4] && client))
            }
            [8, 6] => frame[22..28] == MAC && (frame[28..32] == V4.octets() || frame[28..32] == [0; 4]),
            [0x86, 0xdd] => {
                let source = &frame[22..38];
                own.iter().any(|own| own == source) || (source == [0; 16] && frame[20] != UDP)
            }
            _ => false,
        }
}

fn any_good_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(arp(1, MAC, V4)),
        Just(v4(V4, UDP, &udp(68, 67, &[0; 300]))),
        Just(v4_part(V4, UDP, 0x2000, &udp(5000, 53, &[0; 64]))),
        Just(v6(V6, UDP, &udp(5000, 53, b"query"))),
        Just(v6(V6, ICMPV6, &discovery(136, Some(V6), Some((2, MAC))))),
        Just(v6(LOCAL, 0, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143; 28]].concat())),
        prop::collection::vec(any::<u8>(), 0..400),
    ]
}

/// Headers that may stand between IPv6 and what it carries, and how the last one is named in the one before.
fn any_extensions() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((prop::sample::select(vec![0_u8, 43, 60]), 0_u8..3), 0..4)
}

fn behind(extensions: &[(u8, u8)], next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    extensions.iter().rev().fold((next, payload.to_vec()), |(next, rest), (kind, units)| {
        let body = vec![0; usize::from(*units) * 8 + 6];
        (*kind, [&[next, *units][..], &body, &rest].concat())
    })
}

proptest! {
    #[test]
    fn what_passes_is_honest_whatever_was_changed(
        mut frame in any_good_frame(),
        changes in prop::collection::vec((0..120_usize, any::<u8>()), 0..4),
        cut in 0..500_usize,
    ) {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut);
        if check(&frame).is_ok() {
            prop_assert!(is_honest(&frame), "{frame:02x?}");
        }
    }

    #[test]
    fn no_chain_of_extensions_hides_a_router(extensions in any_extensions(), fragment in any::<bool>()) {
        let evil = discovery(134, None, Some((1, MAC)));
        let (next, payload) = if fragment { (44, [&[58, 0, 0, 0, 0, 0, 0, 1][..], &evil].concat()) } else { (58, evil) };
        let (next, payload) = behind(&extensions, next, &payload);
        prop_assert_eq!(check(&v6(LOCAL, next, &payload)), Err(Cause::Forbidden));
        let (next, payload) = behind(&extensions, 58, &discovery(128, None, None));
        prop_assert_eq!(check(&v6(LOCAL, next, &payload)), Ok(()));
    }
}
