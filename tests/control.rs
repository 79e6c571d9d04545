//! The control socket of a VMM, as the daemon uses it and as nobody should: the VM is what it says, and goes on
//! whatever its peer does. Runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/vmm.rs"]
mod vmm;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use hull_protocol::control::{Command, PACKET_MAX, VmmStatus};
use hull_protocol::exit::ExitReason;
use hull_protocol::trace::TraceId;
use hull_protocol::units::Bytes;
use vmm::{Extras, Guest, LIMIT, Vmm};

/// Long enough for what is under way to arrive; nothing is expected to come later.
const SETTLE: Duration = Duration::from_millis(300);

fn status(paused: bool) -> Result<VmmStatus, String> {
    Ok(VmmStatus { paused, cpus: 1, memory: Bytes::mib(32) })
}

/// The guest counts lines for ever.
fn ticking() -> Vmm {
    let vmm = Vmm::start("do=tick");
    vmm.await_text("tick 3\n");
    vmm
}

/// Ends a guest that would go on for ever.
fn kill(vmm: Vmm) {
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::Kill), status(false));
    assert_eq!(peer.hear_end(), ExitReason::Killed);
    assert_eq!(vmm.wait().status, ExitReason::Killed.status());
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_where_it_was() {
    let vmm = ticking();
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::Status), status(false));
    let grow = Command::GrowDisk { disk: 16, size: Bytes::mib(64) };
    assert_eq!(peer.ask(grow), Err("there is no disk 16".into()));
    for _ in 0..5 {
        assert_eq!(peer.ask(Command::Pause), status(true));
        assert_eq!(peer.ask(Command::Pause), status(true), "pausing what is paused is no error");
        thread::sleep(SETTLE);
        let before = vmm.console().len();
        thread::sleep(SETTLE);
        assert_eq!(vmm.console().len(), before, "a paused guest printed");
        assert_eq!(peer.ask(Command::Status), status(true));
        assert_eq!(peer.ask(Command::Resume), status(false));
        assert_eq!(peer.ask(Command::Resume), status(false), "resuming what runs is no error");
        vmm.await_more(before);
    }
    let console = vmm.console();
    // The last line may be cut off.
    let whole = console.rsplit_once('\n').unwrap().0;
    let ticks = whole.lines().filter_map(|line| line.strip_prefix("tick "));
    for (expected, tick) in ticks.enumerate() {
        assert_eq!(tick.parse(), Ok(expected), "the guest did not go on where it was");
    }
    drop(peer);
    kill(vmm);
}

#[test]
fn a_guest_at_work_can_be_paused_at_any_time() {
    for part in ["rings", "storm", "drive"] {
        let vmm = Vmm::start(&format!("do={part} end=off"));
        let mut peer = vmm.control();
        for _ in 0..20 {
            // The guest may have come to its end meanwhile.
            if !peer.try_request(Command::Pause) || !peer.try_request(Command::Resume) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        vmm.wait().assert_done(part);
    }
}

#[test]
fn what_the_host_sends_to_a_paused_guest_arrives_once_it_goes_on() {
    let vmm = Vmm::start("do=echo end=off");
    let mut client = UnixStream::connect(vmm.vsock()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    let mut byte = [0];
    while byte != *b"\n" {
        client.read_exact(&mut byte).unwrap();
    }
    let mut peer = vmm.control();
    for round in 0..5 {
        assert_eq!(peer.ask(Command::Pause), status(true));
        client.write_all(&[round]).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(peer.ask(Command::Resume), status(false));
        client.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
    drop(client);
    assert_eq!(peer.hear_end(), ExitReason::PowerOff);
    assert_eq!(vmm.wait().status, 0);
}

#[test]
fn what_a_vmm_logs_is_in_the_trace_of_its_plan() {
    let trace: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap();
    // A control group that cannot be entered.
    let extras = Extras::default().trace(trace).groups(vec![File::open("/dev/null").unwrap()]);
    let ended = Vmm::with(Guest::Bare, "do=tick", extras).wait();
    assert_eq!(ended.status, 1, "{}", ended.log);
    let lines: Vec<&str> = ended.log.lines().collect();
    let traced = lines.iter().all(|line| line.starts_with(&format!("hull-vmm[{trace}]: ")));
    assert!(traced && lines.iter().any(|line| line.contains("control group")), "{}", ended.log);
}

#[test]
fn a_paused_guest_can_be_killed() {
    let vmm = ticking();
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::Pause), status(true));
    assert_eq!(peer.ask(Command::Kill), status(true));
    assert_eq!(peer.hear_end(), ExitReason::Killed);
    assert_eq!(vmm.wait().status, 67);
}

#[test]
fn the_power_button_reaches_the_guest() {
    let vmm = Vmm::start("do=button end=off");
    vmm.await_text("LISTENING\n");
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::PowerButton), status(false));
    assert_eq!(peer.hear_end(), ExitReason::PowerOff);
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}", ended.log);
    assert!(ended.console.contains("ok button pressed"), "{}", ended.console);
}

#[test]
fn the_end_is_told_with_its_reason() {
    for (end, reason) in [
        ("off", ExitReason::PowerOff),
        ("reset", ExitReason::Reset),
        ("panic", ExitReason::GuestPanic),
        ("triple", ExitReason::TripleFault),
    ] {
        // The guest waits for the button, so that the peer is there before the end.
        let vmm = Vmm::start(&format!("do=button end={end}"));
        vmm.await_text("LISTENING\n");
        let mut peer = vmm.control();
        assert_eq!(peer.ask(Command::PowerButton), status(false));
        assert_eq!(peer.hear_end(), reason);
        assert!(peer.hear().is_none(), "something came after the end");
        assert_eq!(vmm.wait().status, reason.status());
    }
}

#[test]
fn garbage_costs_the_peer_its_connection_and_the_guest_nothing() {
    let vmm = ticking();
    let huge = vec![b' '; PACKET_MAX + 1];
    for garbage in [
        b"garbage".as_slice(),
        b"{}",
        br#"{"seq":1,"command":"self-destruct"}"#,
        br#"{"seq":1,"command":"status","more":1}"#,
        br#"{"seq":-1,"command":"status"}"#,
        &[0xff; 64],
        &huge,
    ] {
        let peer = vmm.control();
        peer.send_raw(garbage);
        assert!(peer.hear().is_none(), "{:?} was answered", String::from_utf8_lossy(garbage));
        let printed = vmm.console().len();
        vmm.await_more(printed);
    }
    kill(vmm);
}

#[test]
fn a_peer_may_die_and_another_come() {
    let vmm = ticking();
    for _ in 0..20 {
        let mut peer = vmm.control();
        assert_eq!(peer.ask(Command::Status), status(false));
        // It dies with a question unanswered.
        peer.send_request(Command::Status);
    }
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::Pause), status(true));
    drop(peer);
    // What one peer did, the next one finds.
    let mut peer = vmm.control();
    assert_eq!(peer.ask(Command::Status), status(true));
    assert_eq!(peer.ask(Command::Resume), status(false));
    drop(peer);
    kill(vmm);
}

#[test]
fn a_second_peer_waits_for_the_first_to_go() {
    let vmm = ticking();
    let mut first = vmm.control();
    assert_eq!(first.ask(Command::Status), status(false));
    let mut second = vmm.control();
    second.send_request(Command::Status);
    thread::sleep(SETTLE);
    assert!(!second.has_message(), "two peers were served at a time");
    assert_eq!(first.ask(Command::Status), status(false));
    drop(first);
    assert!(second.hear().is_some());
    assert_eq!(second.ask(Command::Status), status(false));
    drop(second);
    kill(vmm);
}

#[test]
fn a_peer_that_does_not_read_stops_nothing() {
    let vmm = ticking();
    let mut peer = vmm.control();
    // Until the VMM, whose answers nobody takes, hangs up.
    while peer.try_request(Command::Status) {}
    let printed = vmm.console().len();
    vmm.await_more(printed);
    drop(peer);
    kill(vmm);
}
