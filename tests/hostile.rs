//! A guest that storms: for as long as it does, its VMM answers on its control socket and holds guest memory plus 8 MiB
//! and no more; it ends when it is told to, and says why. What single wrong acts lead to is in `tests/bare.rs`.
//! Runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/group.rs"]
mod group;
#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use group::MemoryGroup;
use hull_protocol::control::{Command, Event, Message};
use hull_protocol::exit::ExitReason;
use hull_protocol::units::Bytes;
use tap::Network;
use vmm::{Ended, Extras, LIMIT, Peer, Vmm};

/// The guest's memory, in KiB.
const GUEST_MEMORY: u64 = 32 << 10;
/// What a VMM may hold beyond it, in KiB.
const BEYOND_MAX: u64 = 8 << 10;
/// How long a storm goes on.
const STORM: Duration = Duration::from_secs(3);

/// What a VMM holds beyond its guest's memory, in KiB: its own memory, and what of its program was touched. None once it
/// has ended.
fn held(vmm: &Vmm) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", vmm.pid())).ok()?;
    let kib = |line: &str, name: &str| {
        line.strip_prefix(name).and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
    };
    let (mut size, mut guests, mut all) = (0, 0, 0);
    for line in maps.lines() {
        size = kib(line, "Size:").unwrap_or(size);
        match kib(line, "Rss:") {
            Some(_) if size == GUEST_MEMORY => guests += 1,
            resident => all += resident.unwrap_or(0),
        }
    }
    assert!(guests <= 1, "which mapping is the guest's memory?");
    (guests == 1).then_some(all)
}

/// A VM under a storm, in a control group that gives it no more than guest memory and [`BEYOND_MAX`].
struct Besieged {
    siege: &'static str,
    // Before its group, which has to be empty when it goes.
    vmm: Vmm,
    peer: Peer,
    group: Option<MemoryGroup>,
    /// The most that was held beyond the guest's memory, in KiB.
    most: u64,
}

impl Besieged {
    /// Starts it and waits for the storm.
    fn new(siege: &'static str, extras: Extras) -> Self {
        let group = MemoryGroup::new(Bytes(GUEST_MEMORY << 10), Bytes(BEYOND_MAX << 10));
        let entries = group.as_ref().map(MemoryGroup::entries).unwrap_or_default();
        let vmm = Vmm::with(&format!("siege={siege} end=off"), extras.groups(entries));
        vmm.await_text("STORM\n");
        let peer = vmm.control();
        Self { siege, vmm, peer, group, most: 0 }
    }

    /// Asks how the VMM is, and what it holds; why it ended, if it has.
    fn look(&mut self) -> Option<ExitReason> {
        let held = held(&self.vmm).unwrap_or(0);
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
    fn watch(&mut self, done: impl Fn(&Vmm) -> bool) -> Option<ExitReason> {
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
    fn wait(self, reason: ExitReason) -> Ended {
        let Self { siege, vmm, group, most, .. } = self;
        let ended = vmm.wait();
        assert_eq!(ended.status, reason.status(), "{siege}: {}", ended.log);
        assert!(!ended.console.contains("FAIL") && !ended.log.contains("met a bug"), "{}", ended.log);
        assert!(ended.log.len() < 64 << 10, "{siege}: {} bytes of log", ended.log.len());
        let all = group.map_or("its group cannot be measured here".into(), |group| {
            assert_eq!(group.killed(), 0, "{siege}");
            format!("its group at most {} KiB with it", group.peak().get() >> 10)
        });
        println!("{siege}: at most {most} KiB beyond the guest's {GUEST_MEMORY} KiB, {all}");
        ended
    }
}

/// Runs a storm, asks and measures while it goes on, pauses and resumes it, and ends it.
fn withstand(siege: &'static str) {
    let network = Network::new();
    let extras = Extras::default().card(network.tap(), |tap| Network::card(tap, false));
    let mut besieged = Besieged::new(siege, extras);
    let start = Instant::now();
    assert_eq!(besieged.watch(|_| start.elapsed() >= STORM), None, "{siege}");
    assert!(besieged.peer.ask(Command::Pause).unwrap().paused);
    assert!(!besieged.peer.ask(Command::Resume).unwrap().paused);
    assert_eq!(besieged.look(), None, "{siege}");
    besieged.peer.ask(Command::Kill).unwrap();
    assert_eq!(besieged.peer.hear_end(), ExitReason::Killed, "{siege}");
    besieged.wait(ExitReason::Killed);
}

#[test]
fn notifications_at_the_highest_rate() {
    withstand("notifications");
}

#[test]
fn queues_full_of_the_largest_requests() {
    withstand("requests");
}

#[test]
fn resets_in_the_middle_of_requests() {
    withstand("resets");
}

#[test]
fn accesses_to_every_address_at_every_width() {
    withstand("addresses");
}

#[test]
fn accesses_to_every_port_at_every_width() {
    withstand("ports");
}

#[test]
fn text_without_end() {
    withstand("print");
}

#[test]
fn interrupts_masked_and_no_exit() {
    withstand("masked");
}

#[test]
fn interrupts_masked_and_asleep() {
    withstand("asleep");
}

/// From 100,000 ports the guest asks for a connection and says no more, first without taking an answer. While it does, a
/// client of the host is served on a port of the guest, and the other devices work.
#[test]
fn a_hundred_thousand_half_open_connections() {
    let mut besieged = Besieged::new("sockets", Extras::default());
    assert_eq!(besieged.watch(|vmm| vmm.console().contains("LISTENING\n")), None);
    let place = besieged.vmm.vsock();
    let client = thread::spawn(move || vmm::converse(&place, 20));
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

#[test]
fn registers_and_leaves_of_the_processor_are_probed() {
    let ended = Vmm::start("siege=probe end=off").wait();
    assert_eq!(ended.status, 0, "{}{}", ended.console, ended.log);
    for line in ["ok msr probed\n", "ok cpuid probed\n", "DONE\n"] {
        assert!(ended.console.contains(line), "no '{line}' in {}", ended.console);
    }
}

/// A disk is what its plan says, never what its content looks like: this one looks like qcow2, with a file of the host
/// behind it. What the guest writes and reads are its own bytes, where it put them.
#[test]
fn a_raw_disk_stays_raw_whatever_it_holds() {
    let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
    // The backing file's name is at 1,024, 11 bytes long.
    header.extend(1024_u64.to_be_bytes());
    header.extend(11_u32.to_be_bytes());
    header.resize(1024, 0);
    header.extend(b"/etc/passwd");
    let vmm = Vmm::with_disk("do=drive end=off", |disk| disk[..header.len()].copy_from_slice(&header));
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.console, ended.log);
    assert!(ended.console.contains("ok block works\n"), "{}", ended.console);
    assert_eq!(ended.disk.len(), 1 << 20);
    assert!(ended.disk.starts_with(&header[..1024]), "the disk's first sectors changed");
    // Sectors 2 and 3 hold what the guest wrote, over the name that was there.
    let written: Vec<u8> = (0..1024_u32).map(|at| (at * 7) as u8).collect();
    assert_eq!(ended.disk[1024..2048], written);
}

#[test]
fn triple_faults_one_after_the_other_end_one_vm_each() {
    for _ in 0..10 {
        let ended = Vmm::start("end=triple").wait();
        assert_eq!(ended.status, ExitReason::TripleFault.status(), "{}", ended.log);
        assert!(ended.console.ends_with("DONE\n"), "{}", ended.console);
    }
}
