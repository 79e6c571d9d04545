#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use proptest::prelude::*;

use super::super::packet::{Frame, LOOK};
use super::super::samples::*;
use super::*;

const ALL: u64 = u64::MAX;

fn with_packet<T>(frame: &[u8], then: impl FnOnce(&Packet<'_>) -> T) -> T {
    let frame = Frame { head: &frame[..frame.len().min(LOOK)], len: frame.len() };
    then(&Packet::parse(frame).unwrap_or(Packet::opaque(frame, Network::Other)))
}

fn told(header: Header, features: u64, frame: &[u8]) -> Result<(Header, u64), Cause> {
    with_packet(frame, |packet| header.for_host(features, packet))
}

fn sum(csum_start: u16, csum_offset: u16) -> Header {
    Header { flags: NEEDS_CSUM, csum_start, csum_offset, ..Header::default() }
}

fn cut(gso_type: u8, gso_size: u16, start: u16, offset: u16) -> Header {
    Header { gso_type, gso_size, ..sum(start, offset) }
}

#[test]
fn the_bytes_are_the_fields() {
    let bytes = [1, 0x81, 2, 1, 4, 3, 6, 5, 8, 7, 0, 0];
    let header = Header::read(bytes);
    assert_eq!(header.hdr_len, 0x102);
    assert_eq!(header.csum_offset, 0x708);
    assert_eq!(header.write(0), bytes);
    assert_eq!(header.write(0x90a)[10..], [0x0a, 9]);
}

#[test]
fn what_was_negotiated_and_makes_sense_is_asked_of_the_host() {
    let tcp4 = v4(V4, protocol::TCP, &tcp(&[0; 4000]));
    let tcp6 = v6(V6, protocol::TCP, &tcp(&[0; 4000]));
    let udp4 = v4(V4, protocol::UDP, &udp(1, 2, &[0; 4000]));
    let (next, payload) = (protocol::TCP, tcp(&[0; 100]));
    let tunnel = v4(V4, 47, &[&[0; 4][..], &v4(OTHER_V4, next, &payload)[14..]].concat());
    for (header, frame, packets, hdr_len) in [
        (Header::default(), &tcp4, 1, 0),
        (sum(34, 16), &tcp4, 1, 0),
        (sum(54, 16), &tcp6, 1, 0),
        (sum(34, 6), &udp4, 1, 0),
        (cut(GSO_TCPV4, 1448, 34, 16), &tcp4, 3, 54),
        (cut(GSO_TCPV6 | GSO_ECN, 1000, 54, 16), &tcp6, 4, 74),
        (cut(GSO_UDP, 1000, 34, 6), &udp4, 4, 42),
        (sum(34 + 4 + 20, 16), &tunnel, 1, 0),
    ] {
        let (got, count) = told(header, ALL, frame).unwrap();
        assert_eq!((count, got.hdr_len), (packets, hdr_len), "{header:?}");
        assert_eq!(got, Header { hdr_len, ..header });
    }
    // What else a driver may say is not passed on.
    let noisy = Header { flags: 6, hdr_len: 9, csum_start: 7, ..Header::default() };
    assert_eq!(told(noisy, ALL, &tcp4), Ok((Header::default(), 1)));
}

#[test]
fn what_makes_no_sense_is_no_frame() {
    let tcp4 = v4(V4, protocol::TCP, &tcp(&[0; 4000]));
    let udp4 = v4(V4, protocol::UDP, &udp(1, 2, &[0; 4000]));
    let ping = v6(V6, protocol::ICMPV6, &[&discovery(136, Some(V6), None)[..], &[0; 64]].concat());
    let part = v4_part(V4, protocol::TCP, 0x2000, &tcp(&[0; 64]));
    for (what, header, frame, features) in [
        ("not negotiated", sum(34, 16), &tcp4, ALL & !CSUM),
        ("TSO not negotiated", cut(GSO_TCPV4, 1448, 34, 16), &tcp4, ALL & !HOST_TSO4),
        ("ECN not negotiated", cut(GSO_TCPV4 | GSO_ECN, 1448, 34, 16), &tcp4, ALL & !HOST_ECN),
        ("over the source address", sum(14, 16), &tcp4, ALL),
        ("into the ports", sum(18, 16), &tcp4, ALL),
        ("at an odd place", sum(34, 2), &tcp4, ALL),
        ("of another protocol", sum(34, 6), &tcp4, ALL),
        ("into a claim", sum(62, 16), &ping, ALL),
        ("behind the frame", sum(4050, 16), &tcp4, ALL),
        ("far behind the frame", sum(65_535, 16), &tcp4, ALL),
        ("of a part", sum(34, 16), &part, ALL),
        ("cut without sums", Header { flags: 0, ..cut(GSO_TCPV4, 1448, 34, 16) }, &tcp4, ALL),
        ("cut as IPv6", cut(GSO_TCPV6, 1448, 34, 16), &tcp4, ALL),
        ("cut as UDP", cut(GSO_UDP, 1448, 34, 16), &tcp4, ALL),
        ("cut as nothing known", cut(3, 1448, 34, 16), &tcp4, ALL),
        ("cut to nothing", cut(GSO_TCPV4, 0, 34, 16), &tcp4, ALL),
        ("cut to crumbs", cut(GSO_TCPV4, 8, 34, 16), &tcp4, ALL),
        ("cut to datagrams without end", cut(GSO_UDP, 1, 34, 6), &udp4, ALL),
        ("UDP with marks", cut(GSO_UDP | GSO_ECN, 1000, 34, 6), &udp4, ALL),
    ] {
        assert_eq!(told(header, features, frame), Err(Cause::Malformed), "{what}");
    }
}

#[test]
fn a_guest_is_told_only_what_it_takes() {
    let valid = Header { flags: DATA_VALID, ..Header::default() };
    let large = |gso_type| cut(gso_type, 1448, 34, 16);
    assert_eq!(valid.for_guest(0), Some(Header::default()));
    assert_eq!(valid.for_guest(GUEST_CSUM), Some(valid));
    assert_eq!(sum(34, 16).for_guest(0), None);
    assert_eq!(large(GSO_TCPV4).for_guest(GUEST_CSUM), None);
    assert_eq!(large(GSO_TCPV4).for_guest(GUEST_CSUM | GUEST_TSO4), Some(large(GSO_TCPV4)));
    assert_eq!(large(GSO_TCPV6 | GSO_ECN).for_guest(GUEST_CSUM | GUEST_TSO6), None);
    assert_eq!(large(GSO_UDP).for_guest(GUEST_CSUM | GUEST_USO4), None);
    assert_eq!(large(3).for_guest(ALL), None);
    let counted = Header { hdr_len: 54, ..large(GSO_TCPV4) };
    assert_eq!([counted.segments(54 + 1448), counted.segments(54 + 1449), valid.segments(9000)], [1, 2, 1]);
}

proptest! {
    #[test]
    fn the_host_changes_no_byte_that_was_looked_at(
        bytes in any::<[u8; HEADER]>(),
        start in prop::sample::select(vec![0_u16, 14, 34, 38, 42, 54, 58, 62, 94, 300]),
        features in any::<u64>(),
        frame in prop_oneof![
            Just(v4(V4, protocol::TCP, &tcp(&[0; 900]))),
            Just(v4(V4, protocol::UDP, &udp(68, 67, &[0; 300]))),
            Just(v6(V6, protocol::UDP, &udp(1, 2, &[0; 300]))),
            Just(v6(V6, protocol::ICMPV6, &discovery(136, Some(V6), Some((2, MAC))))),
            Just(v6(V6, 0, &[&[6, 0, 5, 2, 0, 0, 1, 0][..], &tcp(&[0; 99])].concat())),
            prop::collection::vec(any::<u8>(), 14..400),
        ],
        cut in any::<bool>(),
    ) {
        let mut header = Header::read(bytes);
        (header.csum_start, header.flags) = (start, header.flags | NEEDS_CSUM);
        header.csum_offset = if header.csum_offset.is_multiple_of(2) { 16 } else { 6 };
        header.gso_type = if cut { [GSO_TCPV4, GSO_TCPV6, GSO_UDP][usize::from(header.gso_type % 3)] } else { 0 };
        let Ok((told, packets)) = told(header, features, &frame) else { return Ok(()) };
        prop_assert!(features & CSUM != 0 && told.flags == NEEDS_CSUM && (1..1500).contains(&packets));
        prop_assert!(told.gso_type == 0 || (told.gso_size > 0 && usize::from(told.hdr_len) <= frame.len()));
        let sum = usize::from(told.csum_start) + usize::from(told.csum_offset);
        prop_assert!(sum + 2 <= frame.len());
        with_packet(&frame, |packet| {
            if let Some(upper) = packet.upper {
                prop_assert!(sum >= upper.at + 6 && upper.protocol != protocol::ICMPV6);
            }
            Ok(())
        })?;
    }
}
