//! A Linux whose first process owns the machine: with memory and devices of its own before itself it does what
//! `tests/bare.rs` and `tests/hostile.rs` have a guest without an operating system do. The VMM bears it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/group.rs"]
mod group;
#[path = "support/siege.rs"]
mod siege;
#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use siege::{bear_half_open_connections, withstand};
use tap::Network;
use vmm::{Extras, Guest, Vmm};

/// Each wrong act there is: the device breaks, works again after its reset, and nothing else happens.
#[test]
fn wrong_acts_break_a_device_until_its_reset() {
    let network = Network::new();
    for part in ["drive", "registers", "rings", "requests", "storm", "ports"] {
        let extras = Extras::default().card(network.tap(), |tap| Network::card(tap, false));
        let ended = Vmm::with(Guest::Linux, &format!("do={part} end=off"), extras).wait();
        ended.assert_done(part);
        let said = &ended.console;
        assert!(said.contains("HELLO first process\n"), "{part}: {said}");
        let fine = said.lines().filter(|line| line.starts_with("ok ")).count();
        assert!(fine >= if part == "ports" { 1 } else { 4 }, "{part}: {said}");
    }
}

#[test]
fn notifications_at_the_highest_rate() {
    withstand(Guest::Linux, "notifications");
}

#[test]
fn queues_full_of_the_largest_requests() {
    withstand(Guest::Linux, "requests");
}

#[test]
fn resets_in_the_middle_of_requests() {
    withstand(Guest::Linux, "resets");
}

#[test]
fn accesses_to_every_address_at_every_width() {
    withstand(Guest::Linux, "addresses");
}

#[test]
fn accesses_to_every_port_at_every_width() {
    withstand(Guest::Linux, "ports");
}

#[test]
fn text_without_end() {
    withstand(Guest::Linux, "print");
}

#[test]
fn a_hundred_thousand_half_open_connections() {
    bear_half_open_connections(Guest::Linux);
}
