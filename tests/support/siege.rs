//! A VM under a storm: what its VMM holds and says meanwhile.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use hull_protocol::control::{Command, Event, Message};
use hull_protocol::exit::ExitReason;
use hull_protocol::units::Bytes;

use super::group::MemoryGroup;
use super::tap::Network;
use super::vmm::{Ended, Extras, Guest, LIMIT, Peer, Vmm};

/// What a VMM may hold beyond its guest's memory, in KiB.
const BEYOND_MAX: u64 = 8 << 10;
/// How long a storm goes on.
const STORM: Duration = Duration::from_secs(3);

/// What a VMM holds beyond its guest's memory, in KiB: its own memory, and what of its program was touched. None once it
/// has ended.
fn held(vmm: &Vmm, guest: Guest) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", vmm.pid())).ok()?;
    let kib = |line: &str, name: &str| {
        line.strip_prefix(name).and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
    };
    let (mut size, mut guests, mut all) = (0, 0, 0);
    for line in maps.lines() {
        size = kib(line, "Size:").unwrap_or(size);
        match kib(line, "Rss:") {
            Some(_) if size == guest.memory().get() >> 10 => guests += 1,
            resident => all += resident.unwrap_or(0),
        }
    }
    assert!(guests <= 1, "which mapping is the guest's memory?");
    (guests == 1).then_some(all)
}

/// A VM under a storm, in a control group that gives it no more than guest memory and [`BEYOND_MAX`].
pub struct Besieged {
    guest: Guest,
    siege: &'static str,
    // Before its group, which has to be empty when it goes.
    pub vmm: Vmm,
    pub peer: Peer,
    group: Option<MemoryGroup>,
    /// The most that was held beyond the guest's memory, in KiB.
    most: u64,
}

impl Besieged {
    /// Starts it and waits for the storm.
    pub fn new(guest: Guest, siege: &'static str, extras: Extras) -> Self {
        let group = MemoryGroup::new(guest.memory(), Bytes(BEYOND_MAX << 10));
        let entries = group.as_ref().map(MemoryGroup::entries).unwrap_or_default();
        let vmm = Vmm::with(guest, &format!("siege={siege} end=off"), extras.groups(entries));
        vmm.await_text("STORM\n");
        let peer = vmm.control();
        Self { guest, siege, vmm, peer, group, most: 0 }
    }

    /// Asks how the VMM is, and what it holds; why it ended, if it has.
    pub fn look(&mut self) -> Option<ExitReason> {
        let held = held(&self.vmm, self.guest).unwrap_or(0);
        self.most = self.most.max(held);
        assert!(held <= BEYOND_MAX, "{}: the VMM holds {held} KiB", self.siege);
        // It may have gone meanwhile, and said so.
        self.peer.try_request(Command::Status);
        match self.peer.hear() {
            Some(Message::Reply(reply)) => {
                assert!(reply.result.is_ok(), "{reply:?}");
                None
            }
            Some(Message::Event(Event::Exited(reason))) => Some(reason),
            other => panic!("{}: the VMM says {other:?}", self.siege),
        }
    }

    /// Looks at it again and again until `done`; why it ended, if it did first.
    pub fn watch(&mut self, done: impl Fn(&Vmm) -> bool) -> Option<ExitReason> {
        let start = Instant::now();
        while !done(&self.vmm) {
            if let Some(reason) = self.look() {
                return Some(reason);
            }
            assert!(start.elapsed() < LIMIT, "{}: nothing more in {}", self.siege, self.vmm.console());
            thread::sleep(Duration::from_millis(100));
        }
        None
    }

    /// Waits for the end, for which there is this reason, and says what was measured.
    pub fn wait(self, reason: ExitReason) -> Ended {
        let Self { guest, siege, vmm, group, most, .. } = self;
        let ended = vmm.wait();
        assert_eq!(ended.status, reason.status(), "{siege}: {}", ended.log);
        ended.assert_sound(siege);
        let all = group.map_or("its group cannot be measured here".into(), |group| {
            assert_eq!(group.killed(), 0, "{siege}");
            format!("its group at most {} KiB with it", group.peak().get() >> 10)
        });
        println!(
            "{siege}: at most {most} KiB beyond the {guest:?} guest's {} MiB, {all}",
            guest.memory().get() >> 20
        );
        ended
    }
}

/// Runs a storm, asks and measures while it goes on, pauses and resumes it, and ends it.
pub fn withstand(guest: Guest, siege: &'static str) {
    let network = Network::new();
    let extras = Extras::default().card(network.tap(), |tap| Network::card(tap, false));
    let mut besieged = Besieged::new(guest, siege, extras);
    let start = Instant::now();
    assert_eq!(besieged.watch(|_| start.elapsed() >= STORM), None, "{siege}");
    assert!(besieged.peer.ask(Command::Pause).unwrap().paused);
    assert!(!besieged.peer.ask(Command::Resume).unwrap().paused);
    assert_eq!(besieged.look(), None, "{siege}");
    besieged.peer.ask(Command::Kill).unwrap();
    assert_eq!(besieged.peer.hear_end(), ExitReason::Killed, "{siege}");
    besieged.wait(ExitReason::Killed);
}

/// From 100,000 ports the guest asks for a connection and says no more, first without taking an answer. While it does, a
/// client of the host is served on a port of the guest, and the other devices work.
pub fn bear_half_open_connections(guest: Guest) {
    let mut besieged = Besieged::new(guest, "sockets", Extras::default());
    assert_eq!(besieged.watch(|vmm| vmm.console().contains("LISTENING\n")), None);
    let place = besieged.vmm.vsock();
    let client = thread::spawn(move || super::vmm::converse(&place, 20));
    assert_eq!(besieged.watch(|_| false), Some(ExitReason::PowerOff));
    client.join().unwrap();
    let ended = besieged.wait(ExitReason::PowerOff);
    for line in [
        "ok vsock holds back who takes no answers\n",
        "ok vsock closed\n",
        "ok devices work in a flood\n",
        "ok vsock asked for 100000 connections\n",
        "ok vsock works after a flood\n",
    ] {
        assert!(ended.console.contains(line), "no '{line}' in {}", ended.console);
    }
}
