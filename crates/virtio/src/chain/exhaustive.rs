//! Buffers of every small length at every place around the border of two regions, read and written in pieces of every
//! size: not a sample, all of them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use crate::iovec::IoVecs;
use crate::testing::{Guest, REGION};

/// Bytes on either side of the border that are looked at.
const SIDE: u64 = 4;
const LENGTHS: u32 = 6;

/// What lies at an address around the border.
fn byte_at(address: u64) -> u8 {
    0x40 + (address + SIDE - REGION).to_le_bytes()[0]
}

/// Calls `each` with two buffers of every place and length.
fn each_pair(mut each: impl FnMut((u64, u32), (u64, u32))) {
    let places = || (REGION - SIDE..REGION + 2).flat_map(|at| (0..LENGTHS).map(move |length| (at, length)));
    for first in places() {
        for second in places() {
            each(first, second);
        }
    }
}

#[test]
fn readers_give_each_byte_once_and_in_order() {
    let mut guest = Guest::new(1, 8);
    let around: Vec<u8> = (REGION - SIDE..REGION + 16).map(byte_at).collect();
    guest.write(REGION - SIDE, &around);
    each_pair(|first, second| {
        let bytes = |(at, length): (u64, u32)| (at..at + u64::from(length)).map(byte_at);
        let expected: Vec<u8> = bytes(first).chain(bytes(second)).collect();
        for piece in 1..=4 {
            guest.offer(0, &[(first.0, first.1, false), (second.0, second.1, false)]);
            let chain = guest.queues[0].pop(&guest.mem).unwrap().unwrap();
            let mut reader = chain.reader(&guest.mem);
            let mut got = Vec::new();
            while reader.remaining() > 0 {
                let mut part = vec![0; piece.min(reader.remaining() as usize)];
                reader.read(&mut part).unwrap();
                got.extend(part);
            }
            assert_eq!(got, expected, "{first:x?} {second:x?} by {piece}");
            assert!(reader.read(&mut [0]).is_err(), "past the end");
            // The same as lists of host buffers, whose lengths add up.
            let mut vecs = IoVecs::with_capacity(4);
            chain.reader(&guest.mem).gather(&mut vecs).unwrap();
            assert_eq!(vecs.remaining(), expected.len());
            guest.queues[0].push(&guest.mem, chain, 0).unwrap();
        }
    });
}

#[test]
fn writers_change_their_buffers_and_nothing_else() {
    let mut guest = Guest::new(1, 8);
    let blank = vec![0; 24];
    each_pair(|first, second| {
        // What is written twice would say nothing of order.
        let apart = first.0 + u64::from(first.1) <= second.0 || second.0 + u64::from(second.1) <= first.0;
        if !apart {
            return;
        }
        for piece in 1..=4_u8 {
            guest.write(REGION - SIDE - 4, &blank);
            guest.offer(0, &[(first.0, first.1, true), (second.0, second.1, true)]);
            let chain = guest.queues[0].pop(&guest.mem).unwrap().unwrap();
            let mut writer = chain.writer(&guest.mem);
            let mut next = 1_u8;
            while writer.remaining() > 0 {
                let count = u32::from(piece).min(writer.remaining());
                let part: Vec<u8> = (0..count).map(|at| next + at.to_le_bytes()[0]).collect();
                next += count.to_le_bytes()[0];
                writer.write(&part).unwrap();
            }
            assert!(writer.write(&[0]).is_err(), "past the end");
            let mut expected = blank.clone();
            let places = [first, second].into_iter().flat_map(|(at, length)| at..at + u64::from(length));
            for (number, at) in (1_u8..).zip(places) {
                expected[usize::try_from(at + SIDE + 4 - REGION).unwrap()] = number;
            }
            let got = guest.read(REGION - SIDE - 4, blank.len());
            assert_eq!(got, expected, "{first:x?} {second:x?} by {piece}");
            guest.queues[0].push(&guest.mem, chain, 0).unwrap();
        }
    });
}
