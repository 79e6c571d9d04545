//! A guest's socket driver, by hand: it answers, listens, sends and closes through the rings.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::device::{Interest, Ready, TIMER_TOKEN};
use crate::testing::{DATA, Guest};

const RX: usize = 0;
const TX: usize = 1;
const HEADER: u32 = 44;
const GUEST_CID: u32 = 7;
const CREDIT: u32 = 1 << 20;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;

/// A packet as the guest sees it.
#[derive(Debug)]
struct Packet {
    op: u16,
    host_port: u32,
    guest_port: u32,
    data: Vec<u8>,
}

struct Wire {
    guest: Guest,
    vsock: Vsock,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
    /// Bytes the guest has taken from the host.
    taken: u32,
    /// What the host last said of its buffer: its size, and the bytes it has passed on.
    credit: (u32, u32),
}

impl Wire {
    fn new() -> Self {
        Self::with(Box::new(RefuseAll))
    }

    fn with(dialer: Box<dyn Dialer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let (_, answers) = answers().unwrap();
        let parts = VsockParts { guest_cid: GUEST_CID, listener: Some(listener), dialer, answers };
        let mut wire = Self {
            guest: Guest::new(3, 64),
            vsock: Vsock::new(parts).unwrap(),
            path,
            _dir: dir,
            taken: 0,
            credit: (0, 0),
        };
        wire.vsock.start(&mut wire.guest.context()).unwrap();
        for slot in 0..16 {
            wire.offer_buffer(slot);
        }
        wire
    }

    fn offer_buffer(&mut self, slot: u64) {
        self.guest.offer(RX, &[(DATA + slot * 0x2000, HEADER + 4096, true)]);
    }

    fn connect(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream
    }

    /// Runs the device until nothing on the host is ready and no timer is due at once.
    fn turn(&mut self) {
        self.guest.notify(&mut self.vsock, RX).unwrap();
        for _ in 0..1000 {
            let watched: Vec<(i32, u32, Interest)> = self
                .guest
                .watch
                .watched
                .iter()
                .map(|(fd, (token, interest))| (*fd, *token, *interest))
                .collect();
            let mut ready = Vec::new();
            for (fd, token, interest) in watched {
                // SAFETY: the device watches descriptors it holds open.
                #[expect(unsafe_code, reason = "the watch list keeps descriptors by number")]
                let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.reads());
                flags.set(PollFlags::OUT, interest.writes());
                let mut polled = [PollFd::from_borrowed_fd(borrowed, flags)];
                poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
                let got = polled[0].revents();
                if !got.is_empty() {
                    let hangup = got.intersects(PollFlags::HUP | PollFlags::ERR);
                    let state = Ready {
                        readable: got.contains(PollFlags::IN),
                        writable: got.contains(PollFlags::OUT),
                        hangup,
                    };
                    ready.push((token, state));
                }
            }
            let due = self.guest.watch.timer.take_if(|after| after.is_zero()).is_some();
            if ready.is_empty() && !due {
                return;
            }
            if due {
                self.vsock.on_source(&mut self.guest.context(), TIMER_TOKEN, Ready::default()).unwrap();
            }
            for (token, state) in ready {
                self.vsock.on_source(&mut self.guest.context(), token, state).unwrap();
            }
        }
        panic!("the device never comes to rest");
    }

    /// Waits as the device's timer asks, unless that is one of its long deadlines, then lets it work.
    fn wait(&mut self) {
        if let Some(after) = self.guest.watch.timer.take_if(|after| *after < Duration::from_millis(100)) {
            std::thread::sleep(after);
            self.vsock.on_source(&mut self.guest.context(), TIMER_TOKEN, Ready::default()).unwrap();
        }
        self.turn();
    }

    /// What the host has sent, oldest first; the buffers go back at once.
    fn received(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some((head, written)) = self.guest.used_entry(RX) {
            let slot = u64::from(head % 16);
            let raw = self.guest.read(DATA + slot * 0x2000, usize::try_from(written).unwrap());
            let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
            let data = raw[44..].to_vec();
            self.taken = self.taken.wrapping_add(u32::try_from(data.len()).unwrap());
            self.credit = (word(36), word(40));
            let op = u16::from_le_bytes([raw[30], raw[31]]);
            packets.push(Packet { op, host_port: word(16), guest_port: word(20), data });
            self.offer_buffer(slot);
        }
        packets
    }

    fn send(&mut self, op: u16, to: u32, from: u32, data: &[u8]) {
        self.send_flags(op, to, from, (data, 0));
    }

    fn send_flags(&mut self, op: u16, to: u32, from: u32, (data, flags): (&[u8], u32)) {
        let at = DATA + 0x3_0000;
        let mut raw = Vec::new();
        raw.extend(u64::from(GUEST_CID).to_le_bytes());
        raw.extend(2u64.to_le_bytes());
        raw.extend(from.to_le_bytes());
        raw.extend(to.to_le_bytes());
        raw.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        raw.extend(1u16.to_le_bytes());
        raw.extend(op.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(CREDIT.to_le_bytes());
        raw.extend(self.taken.to_le_bytes());
        raw.extend(data);
        self.guest.write(at, &raw);
        self.guest.offer(TX, &[(at, u32::try_from(raw.len()).unwrap(), false)]);
        self.guest.notify(&mut self.vsock, TX).unwrap();
        self.turn();
    }

    /// A connection to a guest that listens on port 1024.
    fn connected(&mut self) -> (UnixStream, Packet) {
        let mut host = self.connect(1024);
        self.turn();
        let request = self.received().into_iter().find(|packet| packet.op == REQUEST).unwrap();
        assert_eq!(request.guest_port, 1024);
        self.send(RESPONSE, request.host_port, 1024, &[]);
        let mut line = [0; 3];
        host.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"OK ");
        let mut byte = [0];
        while byte != *b"\n" {
            host.read_exact(&mut byte).unwrap();
        }
        (host, request)
    }
}

#[test]
fn bytes_go_both_ways_and_each_way_closes_by_itself() {
    let mut wire = Wire::new();
    let (mut host, request) = wire.connected();
    host.write_all(b"to the guest").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    wire.turn();
    let got = wire.received();
    let data: Vec<u8> =
        got.iter().filter(|packet| packet.op == RW).flat_map(|packet| packet.data.clone()).collect();
    assert_eq!(data, b"to the guest");
    assert!(got.iter().any(|packet| packet.op == SHUTDOWN), "{got:?}");
    // The host has closed its way only: the guest's bytes still arrive.
    wire.send(RW, request.host_port, 1024, b"to the host");
    wire.send_flags(SHUTDOWN, request.host_port, 1024, (&[], 3));
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the host");
}

#[test]
fn a_request_is_held_until_the_guest_listens() {
    let mut wire = Wire::new();
    let mut host = wire.connect(1024);
    wire.turn();
    for _ in 0..3 {
        let request = wire.received().into_iter().find(|packet| packet.op == REQUEST).unwrap();
        wire.send(RST, request.host_port, 1024, &[]);
        wire.wait();
    }
    let request = wire.received().into_iter().find(|packet| packet.op == REQUEST).unwrap();
    wire.send(RESPONSE, request.host_port, 1024, &[]);
    let mut line = [0; 3];
    host.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK ");
}

#[test]
fn a_connection_the_guest_starts_is_refused() {
    let mut wire = Wire::new();
    wire.send(REQUEST, 1024, 5000, &[]);
    wire.wait();
    let got = wire.received();
    assert!(got.iter().any(|packet| packet.op == RST && packet.guest_port == 5000), "{got:?}");
}

/// A host that takes every offer and never answers.
struct Silent(Arc<AtomicUsize>);

impl Dialer for Silent {
    fn offer(&mut self, _: OfferId, _: u32) -> Result<(), Refused> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn of_a_hundred_thousand_half_open_connections_a_few_are_held() {
    const ASKED: u32 = 100_000;
    let offered = Arc::new(AtomicUsize::new(0));
    let mut wire = Wire::with(Box::new(Silent(Arc::clone(&offered))));
    let mut refused = 0;
    for port in 0..ASKED {
        wire.send(REQUEST, 9999, 2000 + port, &[]);
        refused += wire.received().iter().filter(|packet| packet.op == RST).count();
        assert!(wire.vsock.table.count(|_| true) <= host::OFFERS_MAX);
    }
    // On a slow machine some offers became too old meanwhile: those were made and are refused.
    let offered = offered.load(Ordering::Relaxed);
    assert!(offered >= host::OFFERS_MAX && offered + refused >= usize::try_from(ASKED).unwrap());
    // Who comes from the host is served all the same.
    let (mut host, request) = wire.connected();
    wire.send(RW, request.host_port, 1024, b"served");
    let mut said = [0; 6];
    host.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"served");
}

#[test]
fn a_megabyte_arrives_whole_each_way() {
    let mut wire = Wire::new();
    let (host, request) = wire.connected();
    let content: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    let (mut reader, mut writer, sent) =
        (host.try_clone().unwrap(), host.try_clone().unwrap(), content.clone());
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; 1 << 20];
        reader.read_exact(&mut got).unwrap();
        got
    });
    let mut got = Vec::new();
    let mut chunks = content.chunks(4096);
    let mut sent_bytes = 0;
    for _ in 0..100_000 {
        let (size, passed_on) = wire.credit;
        if sent_bytes - passed_on + 4096 <= size
            && let Some(chunk) = chunks.next()
        {
            sent_bytes += 4096;
            wire.send(RW, request.host_port, 1024, chunk);
        }
        wire.wait();
        let packets = wire.received();
        got.extend(packets.into_iter().filter(|packet| packet.op == RW).flat_map(|packet| packet.data));
        // What was taken is new credit for the host.
        wire.send(6, request.host_port, 1024, &[]);
        if got.len() == content.len() && chunks.len() == 0 {
            break;
        }
    }
    assert!(got == content, "{} bytes, or not the same", got.len());
    writing.join().unwrap();
    // What the reader had no room for follows as it takes what it has.
    for _ in 0..100_000 {
        if reading.is_finished() {
            break;
        }
        wire.turn();
        std::thread::yield_now();
    }
    assert!(reading.join().unwrap() == content);
    drop(host);
}

proptest::proptest! {
    /// Whatever the guest sends, the device neither panics nor hangs.
    #[test]
    fn random_packets_are_survived(packets in proptest::collection::vec((0..9u16, 1020..1030u32, 0..4u32, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)), 0..40)) {
        let mut wire = Wire::new();
        let _host = wire.connect(1024);
        wire.turn();
        for (op, port, flags, data) in packets {
            let to = wire.received().first().map_or(port, |packet| packet.host_port);
            wire.send_flags(op, to, port, (&data, flags));
        }
    }
}
