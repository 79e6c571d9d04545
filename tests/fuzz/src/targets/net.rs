//! The network card: its rings, what it lets through in its own name, its rates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hull_tap::Offload;
use hull_virtio::bucket::{Limiter, Limits, Rate};
use hull_virtio::iovec::IoVecs;
use hull_virtio::net::backend::Backend;
use hull_virtio::net::{Net, NetOptions};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::guest::{DATA, Guest, Program, WRITE, act};
use crate::input::{Input, Script};

const MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 2];
const V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x5eff, 0xfe10, 1);
const TRANSMIT: u16 = 1;
/// The virtio header's length.
const HEADER: usize = 12;

/// One end of a pair of sockets.
struct Wire(OwnedFd);

impl Backend for Wire {
    fn receive(&mut self, head: &mut [u8], vecs: &IoVecs<'_>) -> io::Result<Option<usize>> {
        vecs.read_frame(self.0.as_fd(), head)
    }

    fn send(&mut self, head: &[u8], vecs: &IoVecs<'_>) -> io::Result<()> {
        vecs.write_frame(self.0.as_fd(), head).map(|_| ())
    }

    fn set_offload(&mut self, _: Offload) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn segments_udp(&self) -> bool {
        true
    }
}

/// A guest with a guarded card, and the host's end.
fn bench() -> (Guest, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (host, card) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair of sockets");
    let guard = Some(vec![IpAddr::V4(V4), IpAddr::V6(V6)]);
    let options =
        NetOptions { mac: MAC, mtu: 1500, guard, receive: Limits::default(), transmit: Limits::default() };
    (Guest::new(Box::new(Net::new(Box::new(Wire(card)), &options))), host)
}

/// Takes all frames that reached the host and checks that each is in the card's own name; how many there were.
fn hear(host: &OwnedFd) -> usize {
    let mut packet = vec![0; 70_000];
    let mut frames = 0;
    while let Ok((length, _)) = recv(host, &mut packet, RecvFlags::DONTWAIT) {
        if length == 0 {
            break;
        }
        let frame = packet.get(HEADER..length).expect("every frame has its header");
        assert!(own(frame), "a frame in another's name: {frame:02x?}");
        frames += 1;
    }
    frames
}

/// Whether a frame's addresses are the card's, read anew and without the guard's code.
fn own(frame: &[u8]) -> bool {
    let at = |from: usize, length: usize| frame.get(from..from + length).unwrap_or_default();
    let is = |address: &[u8], all: &[&[u8]]| all.contains(&address);
    if at(6, 6) != MAC {
        return false;
    }
    let none = [0; 16];
    match at(12, 2) {
        [0x08, 0x06] => at(22, 6) == MAC && is(at(28, 4), &[&V4.octets(), &none[..4]]),
        [0x08, 0x00] => is(at(26, 4), &[&V4.octets(), &none[..4]]),
        [0x86, 0xdd] => is(at(22, 16), &[&V6.octets(), &LOCAL.octets(), &none]),
        _ => false,
    }
}

/// The network card.
pub(crate) fn net(data: &[u8]) {
    let (mut guest, host) = bench();
    let mut input = Input(data);
    while input.more() {
        guest.step(&mut input, &mut |guest, input| {
            // The tap gives a frame, as long as somebody reads them.
            let frame = input.block();
            // Its queue may be full: that costs a frame.
            let _ = send(&host, &[&[0; HEADER], frame].concat(), SendFlags::DONTWAIT);
            guest.settle();
        });
        hear(&host);
    }
    guest.set_up(0);
    hear(&host);
    send_frame(&mut guest, &[0; HEADER], &arp());
    assert_eq!(hear(&host), 1, "the card does not send after a reset");
}

/// Single frames behind a virtio header, from a driver that does everything else right.
pub(crate) fn frames(data: &[u8]) {
    let (mut guest, host) = bench();
    guest.set_up(u64::MAX);
    let mut input = Input(data);
    while input.more() {
        let (header, frame) = (input.bytes(HEADER), input.block());
        send_frame(&mut guest, header, frame);
        assert!(guest.used(TRANSMIT).is_some(), "the card gave up on a frame");
        hear(&host);
    }
}

/// Sends a frame in two buffers, the first with the headers.
fn send_frame(guest: &mut Guest, header: &[u8], frame: &[u8]) {
    let mut first = header.to_vec();
    first.resize(HEADER, 0);
    guest.put(DATA, &first);
    guest.put(DATA + HEADER as u64, frame);
    let length = u32::try_from(frame.len()).unwrap_or(0);
    guest.offer(TRANSMIT, &[(DATA, 12, 0), (DATA + HEADER as u64, length, 0)]);
    guest.notify(TRANSMIT);
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&OTHER[..], &MAC, &kind.to_be_bytes(), payload].concat()
}

fn arp() -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet(0x0806, &[&fixed[..], &MAC, &V4.octets(), &[0; 6], &[10, 88, 0, 1]].concat())
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(20 + payload.len()).unwrap_or(20).to_be_bytes();
    let head = [0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
    ethernet(0x0800, &[&head[..], &V4.octets(), &[192, 0, 2, 1], payload].concat())
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, next, 255];
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    ethernet(0x86dd, &[&head[..], &V6.octets(), &all, payload].concat())
}

/// TCP, UDP, DHCP, ICMP, neighbour discovery, extension headers, fragments.
fn samples() -> Vec<Vec<u8>> {
    let tcp =
        [&[0, 80, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0][..], &[7; 3000]].concat();
    let mut advertisement = vec![136, 0, 0, 0, 0, 0, 0, 0];
    advertisement.extend(V6.octets());
    advertisement.extend([2, 1]);
    advertisement.extend(MAC);
    let hop = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
    let fragment = [&[17, 0, 0, 1, 0, 0, 0, 1][..], &[0; 16]].concat();
    let mut part = v4(17, &[0; 32]);
    if let Some(flags) = part.get_mut(20) {
        *flags = 0x20;
    }
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &V6.octets()].concat();
    vec![
        arp(),
        v4(6, &tcp),
        v4(17, &[0, 68, 0, 67, 0, 12, 0, 0, 1, 1, 6, 0]),
        v4(1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        part,
        v6(58, &advertisement),
        v6(58, &solicitation),
        v6(0, &hop),
        v6(44, &fragment),
        v6(6, &tcp[..40]),
    ]
}

/// One driver for each frame, and one for each offload.
pub(crate) fn frames_seeds() -> Vec<Vec<u8>> {
    let tcp4 = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
    let udp = [1, 5, 42, 0, 0xb4, 5, 34, 0, 6, 0, 0, 0];
    let one = |header: &[u8], frame: &[u8]| Script::default().bytes(header).block(frame).0;
    let mut seeds: Vec<_> = samples().iter().map(|frame| one(&[0; HEADER], frame)).collect();
    let samples = samples();
    seeds.extend(samples.get(1).map(|frame| one(&tcp4, frame)));
    seeds.extend(samples.get(2).map(|frame| one(&udp, frame)));
    seeds
}

/// Frames both ways, commands, and wrong rings.
pub(crate) fn net_seeds() -> Vec<Vec<u8>> {
    let up = || Program::set_up(u64::MAX);
    let mut seeds: Vec<_> = samples()
        .iter()
        .map(|frame| up().send(1, &[&[0; HEADER], frame.as_slice()].concat()).end())
        .collect();
    let receive = Script::default().block(&ethernet(0x0800, &[0; 60]));
    let buffers = [(0, 2000, WRITE), (2000, 40, WRITE), (4000, 2000, WRITE)];
    seeds.push(up().offer(0, &buffers).notify(0).host(&receive).then(act::DRAIN).host(&receive).end());
    for command in
        [&[0, 0, 1][..], &[1, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        let ask = up().put(DATA, command);
        let length = u16::try_from(command.len()).unwrap_or(0);
        seeds.push(ask.offer(2, &[(0, length, 0), (0x100, 1, WRITE)]).notify(2).end());
    }
    seeds
}

/// The token bucket, in any rates and at any times.
pub(crate) fn bucket(data: &[u8]) {
    let mut input = Input(data);
    let mut rate = || {
        let (per_second, burst) = (input.u64() >> (input.u8() % 64), input.u64() >> (input.u8() % 64));
        Rate { per_second: per_second.max(1), burst: burst.max(1) }
    };
    let (bytes, packets) = (rate(), rate());
    let mut limiter = Limiter::new(&Limits { bytes: Some(bytes), units: Some(packets) });
    let mut now = Duration::ZERO;
    let (mut passed, mut greatest) = (0_u128, 0_u128);
    while input.more() {
        now = now.saturating_add(Duration::from_nanos(input.u64() >> (input.u8() % 64)));
        let (size, count) = (u64::from(input.u32()), u64::from(input.u8()));
        if let Some(wait) = limiter.wait(now, size, count) {
            assert!(!wait.is_zero(), "told to wait for no time");
            now = now.saturating_add(wait);
            if wait < Duration::from_secs(1 << 32) {
                assert_eq!(limiter.wait(now, size, count), None, "who waits as long as told may pass");
            }
        }
        limiter.take(size, count);
        passed += u128::from(size);
        greatest = greatest.max(u128::from(size));
        // What is larger than the bucket passes when it is full, and is paid off before anything else.
        let earned = u128::from(bytes.per_second).saturating_mul(now.as_nanos()) / 1_000_000_000;
        let allowed = earned + 1 + u128::from(bytes.burst) + greatest;
        assert!(passed <= allowed, "{passed} bytes passed where {allowed} may");
    }
}

/// Rates of a card that is slow, and of one that is not.
pub(crate) fn bucket_seeds() -> Vec<Vec<u8>> {
    let rates = |shift| {
        let script = Script::default().u64(u64::MAX).u8(shift).u64(u64::MAX).u8(shift + 4);
        script.u64(u64::MAX).u8(50).u64(u64::MAX).u8(54)
    };
    let steps = |script: Script| (0..6).fold(script, |script, _| script.u64(u64::MAX).u8(40).u32(1500).u8(1));
    vec![steps(rates(44)).0, steps(rates(30)).0]
}
