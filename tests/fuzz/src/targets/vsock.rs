//! The socket device: any rings, and any order of packets, clients and answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_virtio::vsock::{Answers, Dialer, OfferId, Refused, Vsock, VsockParts, answers};

use crate::guest::{DATA, Guest, Program, WRITE, act};
use crate::input::{Input, Script};

const CID: u32 = 7;
const HOST: u64 = 2;
const RX: u16 = 0;
const TX: u16 = 1;
const HEADER: u32 = 44;
/// Operations.
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
/// Where the host's packets to the guest go.
const INBOX: u64 = DATA + 0x2_0000;
/// No more clients than this at once.
const CLIENTS: usize = 8;

/// Keeps what the guest asks for; takes every second port.
#[derive(Clone, Default)]
struct Offers(Arc<Mutex<Vec<OfferId>>>);

impl Offers {
    fn take(&self) -> Option<OfferId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Dialer for Offers {
    fn offer(&mut self, offer: OfferId, port: u32) -> Result<(), Refused> {
        if port & 1 == 0 {
            return Err(Refused);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(offer);
        Ok(())
    }
}

/// The host around the device.
struct Host {
    address: SocketAddr,
    offers: Offers,
    answers: Answers,
    /// The host's ends of streams.
    streams: Vec<UnixStream>,
}

fn bench() -> (Guest, Host) {
    // A name of its own in no file system: many of these run at once.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("hull-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    let listener = UnixListener::bind_addr(&address).expect("a name that is free");
    let (answers, queue) = answers().expect("a descriptor");
    let offers = Offers::default();
    let parts = VsockParts {
        guest_cid: CID,
        listener: Some(listener),
        dialer: Box::new(offers.clone()),
        answers: queue,
    };
    let device = Vsock::new(parts).expect("a device");
    (Guest::new(Box::new(device)), Host { address, offers, answers, streams: Vec::new() })
}

impl Host {
    /// What the host does: a client comes, says something, hears, goes; an offer is answered.
    fn act(&mut self, guest: &mut Guest, input: &mut Input<'_>) {
        let what = input.u8() % 6;
        let at = usize::from(input.u8());
        let count = self.streams.len().max(1);
        match what {
            0 if self.streams.len() < CLIENTS => {
                if let Ok(mut stream) = UnixStream::connect_addr(&self.address) {
                    let said = stream.set_nonblocking(true).and_then(|()| stream.write(input.block()));
                    // What the device does not take in at once, this client does not say.
                    drop(said);
                    self.streams.push(stream);
                }
            }
            1 => {
                let answer = (at & 1 != 0 && self.streams.len() < CLIENTS).then(UnixStream::pair);
                let (kept, given) = match answer {
                    Some(Ok((kept, given))) => (Some(kept), Some(given)),
                    _ => (None, None),
                };
                if let Some(offer) = self.offers.take() {
                    self.answers.answer(offer, given).expect("the device is there");
                    self.streams.extend(kept.filter(|kept| kept.set_nonblocking(true).is_ok()));
                }
            }
            2 => drop(self.streams.get_mut(at % count).map(|stream| stream.write(input.block()))),
            3 => drop(self.streams.get_mut(at % count).map(|stream| stream.read(&mut [0; 4096]))),
            4 if !self.streams.is_empty() => drop(self.streams.swap_remove(at % count)),
            5 => {
                let how = if at & 1 == 0 { std::net::Shutdown::Write } else { std::net::Shutdown::Both };
                drop(self.streams.get(at % count).map(|stream| stream.shutdown(how)));
            }
            _ => {}
        }
        guest.settle();
    }
}

/// A packet, with its data.
fn packet(ports: (u32, u32), op: u16, flags: u32, credit: (u32, u32), data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(0);
    let script = Script::default().u64(u64::from(CID)).u64(HOST).u32(ports.0).u32(ports.1).u32(length);
    script.u16(1).u16(op).u32(flags).u32(credit.0).u32(credit.1).bytes(data).0
}

/// After whatever happened, a driver that asks for a port that nobody serves is refused.
fn refused_after_reset(guest: &mut Guest) {
    guest.set_up(0);
    guest.offer(RX, &[(INBOX, HEADER + 4096, WRITE)]);
    guest.notify(RX);
    guest.put(DATA, &packet((1, 2), REQUEST, 0, (4096, 0), &[]));
    guest.offer(TX, &[(DATA, HEADER, 0)]);
    guest.notify(TX);
    assert_eq!(guest.used(TX), Some(0), "the device does not read after a reset");
    assert_eq!(guest.used(RX), Some(HEADER), "the device does not answer after a reset");
}

/// Any rings and registers.
pub(crate) fn rings(data: &[u8]) {
    let (mut guest, mut host) = bench();
    let mut input = Input(data);
    while input.more() {
        guest.step(&mut input, &mut |guest, input| host.act(guest, input));
    }
    host.streams.clear();
    refused_after_reset(&mut guest);
}

/// Connections: packets that are well formed, in any order, with any numbers in them.
pub(crate) fn connections(data: &[u8]) {
    let (mut guest, mut host) = bench();
    guest.set_up(u64::MAX);
    lend(&mut guest, 8);
    let mut input = Input(data);
    // The ports of connections that the host started, as the guest learns them.
    let mut known: BTreeMap<u32, u32> = BTreeMap::new();
    while input.more() {
        match input.u8() % 4 {
            0 => host.act(&mut guest, &mut input),
            1 => {
                hear(&mut guest, &mut known);
                lend(&mut guest, u16::from(input.u8() % 8));
            }
            2 => {
                // An answer to a connection that there is.
                let op = input.pick(&[RESPONSE, RW, SHUTDOWN, RST, 6, 7]);
                let at = usize::from(input.u8());
                let ports = known.iter().nth(at % known.len().max(1)).map(|(host, own)| (*own, *host));
                let (flags, credit) = (u32::from(input.u8()), (input.u32(), input.u32()));
                tell(&mut guest, &packet(ports.unwrap_or((1, 3)), op, flags, credit, input.block()));
            }
            _ => {
                let (own, port) = (u32::from(input.u8() % 4), u32::from(input.u8() % 8));
                let (op, flags) = (u16::from(input.u8() % 9), u32::from(input.u8()));
                let credit = (input.u32(), input.u32());
                tell(&mut guest, &packet((own, port), op, flags, credit, input.block()));
                known.insert(port, own);
            }
        }
    }
    host.streams.clear();
    refused_after_reset(&mut guest);
}

/// Sends a packet.
fn tell(guest: &mut Guest, packet: &[u8]) {
    guest.put(DATA, packet);
    guest.offer(TX, &[(DATA, u32::try_from(packet.len()).unwrap_or(0), 0)]);
    guest.notify(TX);
    while guest.used(TX).is_some() {}
}

/// Lends the device buffers for its packets.
fn lend(guest: &mut Guest, count: u16) {
    for slot in 0..count {
        guest.offer(RX, &[(INBOX + u64::from(slot) * 0x2000, HEADER + 4096, WRITE)]);
    }
    guest.notify(RX);
}

/// Takes what the device sent; remembers who it was from.
fn hear(guest: &mut Guest, known: &mut BTreeMap<u32, u32>) {
    let mut slot = 0;
    while let Some(written) = guest.used(RX) {
        assert!((HEADER..=HEADER + 4096).contains(&written), "a packet of {written} bytes");
        let mut ports = [0; 8];
        let at = vm_memory::GuestAddress(INBOX + slot % 8 * 0x2000 + 16);
        if vm_memory::Bytes::read_slice(&guest.mem, &mut ports, at).is_ok() {
            let mut ports = Input(&ports);
            known.insert(ports.u32(), ports.u32());
        }
        slot += 1;
        if known.len() > 64 {
            known.pop_first();
        }
    }
}

/// A connection each way, with wrong rings after it.
pub(crate) fn rings_seeds() -> Vec<Vec<u8>> {
    let up = || Program::set_up(u64::MAX).offer(0, &[(0x4000, 4140, WRITE), (0x6000, 60, WRITE)]).notify(0);
    let request = packet((5, 3), REQUEST, 0, (4096, 0), &[]);
    let data = packet((5, 3), RW, 0, (4096, 0), b"hello");
    let client = Script::default().u8(0).u8(0).block(b"CONNECT 52\n");
    let answer = Script::default().u8(1).u8(1);
    vec![
        up().send(1, &request).host(&answer).send(1, &data).then(act::DRAIN).end(),
        up().host(&client)
            .send(1, &packet((52, 1 << 30), RESPONSE, 0, (4096, 0), &[]))
            .then(act::RESET)
            .end(),
        up().send(1, &request[..20]).end(),
    ]
}

/// Whole conversations: the guest's, the host's, one that is refused, one that is cut off.
pub(crate) fn connections_seeds() -> Vec<Vec<u8>> {
    let guest = |op: u8, flags: u8, data: &[u8]| {
        Script::default().u8(3).u8(1).u8(3).u8(op).u8(flags).u32(4096).u32(0).block(data).0
    };
    let reply =
        |op: u8, data: &[u8]| Script::default().u8(2).u8(op).u8(0).u8(3).u32(1 << 16).u32(0).block(data).0;
    let host = |what: u8, data: &[u8]| Script::default().u8(0).u8(what).u8(1).bytes(data).0;
    let hear = Script::default().u8(1).u8(4).0;
    let line = Script::default().block(b"CONNECT 52\n").0;
    let text = Script::default().block(b"some text").0;
    vec![
        [
            guest(1, 0, b""),
            host(1, b""),
            guest(5, 0, b"hello"),
            host(3, b""),
            host(2, &text),
            guest(4, 3, b""),
        ]
        .concat(),
        [
            host(0, &line),
            hear.clone(),
            reply(0, b""),
            reply(1, b"abc"),
            host(3, b""),
            host(2, &text),
            hear.clone(),
            reply(2, b""),
        ]
        .concat(),
        [host(0, &line), hear.clone(), reply(3, b""), host(4, b"")].concat(),
        [guest(1, 0, b""), host(1, b""), host(5, b""), hear, guest(5, 0, &[7; 200])].concat(),
    ]
}
