//! A guest that storms: for as long as it does, its VMM answers on its control socket and holds guest memory plus 8 MiB
//! and no more; it ends when it is told to, and says why. What single wrong acts lead to is in `tests/bare.rs`.
//! Runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use std::fs;
use std::time::{Duration, Instant};

use hull_protocol::control::{Command, Event, Message};
use hull_protocol::exit::ExitReason;
use tap::Network;
use vmm::{LIMIT, Peer, Vmm};

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

/// Asks how the VMM is, past whatever it has to say by itself; how long the answer took.
fn asked(peer: &mut Peer) -> Duration {
    let start = Instant::now();
    peer.send_request(Command::Status);
    loop {
        match peer.hear() {
            Some(Message::Reply(reply)) => {
                assert!(reply.result.is_ok(), "{reply:?}");
                return start.elapsed();
            }
            Some(Message::Event(Event::VsockRequest { .. })) => {}
            other => panic!("the VMM has gone or says {other:?}"),
        }
        assert!(start.elapsed() < LIMIT, "events only, and no answer");
    }
}

/// Runs a storm, asks and measures while it goes on, pauses and resumes it, and ends it.
fn withstand(siege: &str) {
    let network = Network::new();
    let vmm = Vmm::on_network(&format!("siege={siege}"), network.tap(), |tap| Network::card(tap, false));
    vmm.await_text("STORM\n");
    let mut peer = vmm.control();
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < STORM {
        asked(&mut peer);
        most = most.max(held(&vmm).expect("the VMM has gone"));
        assert!(most <= BEYOND_MAX, "{siege}: the VMM holds {most} KiB");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(peer.ask(Command::Pause).unwrap().paused);
    assert!(!peer.ask(Command::Resume).unwrap().paused);
    asked(&mut peer);
    peer.ask(Command::Kill).unwrap();
    assert_eq!(peer.hear_end(), ExitReason::Killed, "{siege}");
    let ended = vmm.wait();
    assert_eq!(ended.status, ExitReason::Killed.status(), "{siege}: {}", ended.log);
    assert!(!ended.console.contains("FAIL") && !ended.log.contains("met a bug"), "{}", ended.log);
    assert!(ended.log.len() < 64 << 10, "{siege}: {} bytes of log", ended.log.len());
    println!("{siege}: at most {most} KiB beyond the guest's memory");
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

/// The daemon is slow to answer: it never does. The guest is refused what is over the bound, and the VMM goes on.
#[test]
fn a_hundred_thousand_half_open_connections() {
    let vmm = Vmm::start("siege=sockets end=off");
    vmm.await_text("STORM\n");
    let mut peer = vmm.control();
    let (mut most, mut offers) = (0, 0_u32);
    loop {
        most = most.max(held(&vmm).unwrap_or(0));
        assert!(most <= BEYOND_MAX, "the VMM holds {most} KiB");
        // It may have gone meanwhile, and then said so.
        peer.try_request(Command::Status);
        let answer = loop {
            match peer.hear() {
                Some(Message::Event(Event::VsockRequest { .. })) => offers += 1,
                Some(Message::Event(Event::Exited(reason))) => break Some(reason),
                Some(Message::Reply(_)) => break None,
                None => break Some(ExitReason::PowerOff),
            }
        };
        if let Some(reason) = answer {
            assert_eq!(reason, ExitReason::PowerOff);
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.console, ended.log);
    assert!(ended.console.contains("ok vsock asked for 100000 connections\n"), "{}", ended.console);
    assert!(ended.console.contains("ok vsock works after a flood\n"), "{}", ended.console);
    assert!(offers > 0 && ended.log.len() < 64 << 10, "{offers} offers, {} bytes of log", ended.log.len());
    println!(
        "sockets: {offers} offers, at most {} KiB beyond the guest's memory",
        most.saturating_sub(32 << 10)
    );
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
