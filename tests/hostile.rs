//! A guest that storms: for as long as it does, its VMM answers on its control socket and holds guest memory plus 8 MiB
//! and no more; it ends when it is told to, and says why. What single wrong acts lead to is in `tests/bare.rs`.
//! Runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/group.rs"]
mod group;
#[path = "support/siege.rs"]
mod siege;
#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use hull_protocol::exit::ExitReason;
use siege::{bear_half_open_connections, withstand};
use vmm::{Guest, Vmm};

#[test]
fn notifications_at_the_highest_rate() {
    withstand(Guest::Bare, "notifications");
}

#[test]
fn queues_full_of_the_largest_requests() {
    withstand(Guest::Bare, "requests");
}

#[test]
fn resets_in_the_middle_of_requests() {
    withstand(Guest::Bare, "resets");
}

#[test]
fn accesses_to_every_address_at_every_width() {
    withstand(Guest::Bare, "addresses");
}

#[test]
fn accesses_to_every_port_at_every_width() {
    withstand(Guest::Bare, "ports");
}

#[test]
fn text_without_end() {
    withstand(Guest::Bare, "print");
}

#[test]
fn interrupts_masked_and_no_exit() {
    withstand(Guest::Bare, "masked");
}

#[test]
fn interrupts_masked_and_asleep() {
    withstand(Guest::Bare, "asleep");
}

#[test]
fn a_hundred_thousand_half_open_connections() {
    bear_half_open_connections(Guest::Bare);
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
