//! A card on a pair of sockets instead of a tap, and the guest and the host at its ends, for tests.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::samples::MAC;
use super::*;
use crate::iovec::IoVecs;
use crate::testing::{DATA, Guest};

/// The card's end.
pub(super) struct Wire {
    socket: OwnedFd,
    offloads: Arc<Mutex<Vec<Offload>>>,
    /// Done before each frame is sent: what a guest on another processor may do.
    meanwhile: Box<dyn FnMut() + Send>,
}

impl Backend for Wire {
    fn receive(&mut self, head: &mut [u8], vecs: &IoVecs<'_>) -> std::io::Result<Option<usize>> {
        vecs.read_frame(self.socket.as_fd(), head)
    }

    fn send(&mut self, head: &[u8], vecs: &IoVecs<'_>) -> std::io::Result<()> {
        (self.meanwhile)();
        vecs.write_frame(self.socket.as_fd(), head).map(|_| ())
    }

    fn set_offload(&mut self, offload: Offload) -> std::io::Result<()> {
        self.offloads.lock().unwrap().push(offload);
        Ok(())
    }

    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn segments_udp(&self) -> bool {
        true
    }
}

/// Where received frames go, and where those to be sent are.
pub(super) const INBOX: u64 = DATA;
pub(super) const OUTBOX: u64 = DATA + 0x6_0000;

/// A guest with one card, and the host.
pub(super) struct Bench {
    pub(super) guest: Guest,
    pub(super) net: Net,
    pub(super) host: OwnedFd,
    pub(super) offloads: Arc<Mutex<Vec<Offload>>>,
    ready: Ready,
}

pub(super) fn options() -> NetOptions {
    NetOptions { mac: MAC, mtu: 1500, guard: None, receive: Limits::default(), transmit: Limits::default() }
}

impl Bench {
    pub(super) fn new(options: &NetOptions, features: u64) -> Self {
        Self::disturbed(options, features, |_| Box::new(|| ()))
    }

    /// With something that happens before each frame is sent.
    pub(super) fn disturbed(
        options: &NetOptions,
        features: u64,
        meanwhile: impl FnOnce(&Guest) -> Box<dyn FnMut() + Send>,
    ) -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (host, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let offloads = Arc::new(Mutex::new(Vec::new()));
        let mut guest = Guest::new(3, 64);
        guest.features = features;
        let wire = Wire { socket, offloads: offloads.clone(), meanwhile: meanwhile(&guest) };
        let mut net = Net::new(Box::new(wire), options);
        net.start(&mut guest.context()).unwrap();
        Self { guest, net, host, offloads, ready: Ready::default() }
    }

    /// The host sends a frame behind an empty header.
    pub(super) fn host_sends(&self, frame: &[u8]) -> bool {
        self.host_sends_behind(&[0; 12], frame)
    }

    pub(super) fn host_sends_behind(&self, header: &[u8; 12], frame: &[u8]) -> bool {
        let packet = [header, frame].concat();
        send(&self.host, &packet, SendFlags::DONTWAIT).is_ok_and(|sent| sent == packet.len())
    }

    /// What the host receives next, with the header.
    pub(super) fn host_hears(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 70_000];
        let (length, _) = recv(&self.host, &mut packet, RecvFlags::DONTWAIT).ok()?;
        packet.truncate(length);
        Some(packet).filter(|packet| !packet.is_empty())
    }

    /// The guest offers a frame as one buffer, and the device is told.
    pub(super) fn guest_sends(&mut self, header: &[u8; 12], frame: &[u8]) {
        self.guest.write(OUTBOX, &[header, frame].concat());
        let length = u32::try_from(12 + frame.len()).unwrap();
        self.guest.offer(TRANSMIT, &[(OUTBOX, length, false)]);
        self.guest.notify(&mut self.net, TRANSMIT).unwrap();
    }

    /// What an event loop would do now, until there is nothing to do; timers that are far count as nothing.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let timer = self.guest.watch.timer.take_if(|after| after.is_zero()).is_some();
            let source = self.ready_now();
            if timer {
                self.net.on_source(&mut self.guest.context(), TIMER_TOKEN, Ready::default()).unwrap();
            }
            if let Some(ready) = source {
                self.net.on_source(&mut self.guest.context(), BACKEND_TOKEN, ready).unwrap();
            }
            if !timer && source.is_none() {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// What the card's descriptor is ready for of what it is watched for.
    fn ready_now(&mut self) -> Option<Ready> {
        use rustix::event::{PollFd, PollFlags, poll};
        let descriptor = self.net.backend.descriptor();
        let (_, interest) = *self.guest.watch.watched.values().next()?;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, interest.reads());
        wanted.set(PollFlags::OUT, interest.writes());
        let mut polled = [PollFd::from_borrowed_fd(descriptor, wanted)];
        let soon = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&soon)).unwrap();
        let got = polled[0].revents();
        self.ready = Ready {
            readable: got.contains(PollFlags::IN),
            writable: got.contains(PollFlags::OUT),
            hangup: got.intersects(PollFlags::HUP | PollFlags::ERR),
        };
        Some(self.ready).filter(|_| !got.is_empty())
    }

    /// Lets the clock go on and the timer fire, if one is set.
    pub(super) fn pass_time(&mut self) {
        if let Some(after) = self.guest.watch.timer.take() {
            std::thread::sleep(after);
            self.net.on_source(&mut self.guest.context(), TIMER_TOKEN, Ready::default()).unwrap();
        }
        self.settle();
    }

    /// A command on the control queue; the answer.
    pub(super) fn command(&mut self, command: &[u8]) -> u8 {
        self.guest.write(OUTBOX, command);
        self.guest.write(OUTBOX + 0x1000, &[0xff]);
        let length = u32::try_from(command.len()).unwrap();
        self.guest.offer(CONTROL, &[(OUTBOX, length, false), (OUTBOX + 0x1000, 1, true)]);
        self.guest.notify(&mut self.net, CONTROL).unwrap();
        assert_eq!(self.guest.used(CONTROL), Some(1));
        self.guest.read(OUTBOX + 0x1000, 1)[0]
    }
}
