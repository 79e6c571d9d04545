//! The bare guest drives the platform and every virtio device right and wrong: the VM ends only as it says, the VMM
//! never hangs, and each device works again after its reset. Runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use std::io::Write;
use std::process::{Command, Stdio};

use hull_protocol::plan::JAIL_NOTICE;
use tap::Network;
use vmm::{DISK_BYTE, Ended, LIMIT, Vmm, bare};

const DEVICES: [&str; 4] = ["block", "vsock", "net", "rng"];

/// Runs the guest to its end under `hull boot`: status, console, standard error.
fn boot(kernel: &str, cmdline: &str, flags: &[&str]) -> (i32, String, String) {
    let output = Command::new("timeout")
        .args([
            "--kill-after=5",
            &LIMIT.as_secs().to_string(),
            env!("CARGO_BIN_EXE_hull"),
            "boot",
            "--kernel",
        ])
        .arg(bare(kernel))
        .args(["--memory", "32m", "--cmdline", cmdline])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // What the host lacks for a whole jail is said, and no concern of the guest's.
    let notice = format!("hull-vmm: {JAIL_NOTICE}");
    let errors = text(&output.stderr);
    let errors = errors.split_inclusive('\n').filter(|line| !line.starts_with(&notice)).collect();
    (output.status.code().unwrap_or(-1), text(&output.stdout), errors)
}

/// Runs a part of the guest against all devices, then checks that it went to its end and had nothing to complain of.
fn run(part: &str) -> Ended {
    let network = Network::new();
    let card = |tap| Network::card(tap, false);
    let ended = Vmm::on_network(&format!("do={part} end=off"), network.tap(), card).wait();
    ended.assert_done(part);
    let Ended { console, log, .. } = &ended;
    assert!(console.contains("DEVICES 4\n"), "{console}");
    // However often devices break, what is logged of it stays bounded.
    assert!(log.lines().count() < 200, "{} lines", log.lines().count());
    ended
}

fn assert_all_said(ended: &Ended, what: &str) {
    for device in DEVICES {
        let line = format!("ok {device} {what}\n");
        assert!(ended.console.contains(&line), "no '{line}' in:\n{}", ended.console);
    }
}

#[test]
fn each_end_is_told_apart() {
    for (end, status, words) in [
        ("off", 0, ""),
        ("reset", 64, "reset"),
        ("keyboard", 64, "reset"),
        ("panic", 65, "panicked"),
        ("triple", 66, "triple fault"),
    ] {
        let (got, console, errors) = boot("bare", &format!("end={end}"), &[]);
        assert_eq!(console, "HELLO linux64\nDONE\n", "{end}: {errors}");
        assert_eq!(got, status, "{end}: {errors}");
        assert!(errors.contains(words), "{end}: {errors}");
    }
}

#[test]
fn a_kernel_is_entered_by_pvh_when_asked_or_when_it_has_nothing_else() {
    let mut initrd = tempfile::NamedTempFile::new().unwrap();
    initrd.write_all(b"initial RAM disk").unwrap();
    let initrd = initrd.path().to_str().unwrap();
    let device = "do=drive end=off";
    for (kernel, flags) in [("bare", vec!["--entry", "pvh"]), ("bare-pvh", vec![])] {
        let (status, console, errors) =
            boot(kernel, device, &[flags.as_slice(), &["--initrd", initrd]].concat());
        assert_eq!((status, errors.as_str()), (0, ""), "{console}");
        for line in ["HELLO pvh", "ok pvh magic", "ok pvh rsdp", "ok pvh initrd", "ok rng works", "DONE"] {
            assert!(console.lines().any(|said| said == line), "{kernel}: no '{line}' in\n{console}");
        }
        // 32 MiB less what lies between 639 KiB and 1 MiB.
        assert!(console.contains("RAM 32383\n"), "{console}");
    }
    let (status, _, errors) = boot("bare-pvh", device, &["--entry", "linux64"]);
    assert!(status != 0 && errors.contains("no 64-bit entry"), "{errors}");
}

#[test]
fn every_device_does_as_asked() {
    let ended = run("drive");
    assert_all_said(&ended, "works");
    let written: Vec<u8> = (0..1024u32).map(|at| (at * 7) as u8).collect();
    assert!(ended.disk[1024..2048] == written, "what the guest wrote is not on the disk");
    let others = ended.disk[..1024].iter().chain(&ended.disk[2048..]);
    assert!(others.into_iter().all(|byte| *byte == DISK_BYTE), "the guest changed what it did not write to");
}

#[test]
fn any_access_to_a_register_is_harmless() {
    let ended = run("registers");
    for what in [
        "works after every access",
        "refuses features it did not offer",
        "starts step by step only",
        "works after wrong set-ups",
        "keeps its rings",
        "works after its rings were moved",
    ] {
        assert_all_said(&ended, what);
    }
}

#[test]
fn broken_rings_cost_the_device_and_only_until_its_reset() {
    let ended = run("rings");
    assert_all_said(&ended, "wrong chains were tried");
    assert_all_said(&ended, "misplaced rings were tried");
    assert_all_said(&ended, "works after broken rings");
}

#[test]
fn wrong_requests_are_answered_or_break_the_device() {
    assert_all_said(&run("requests"), "works after wrong requests");
}

#[test]
fn notification_storms_and_resets_under_way_are_borne() {
    assert_all_said(&run("storm"), "works after a storm and resets");
}

#[test]
fn ports_take_any_access() {
    let (status, console, errors) = boot("bare", "do=ports end=off", &[]);
    assert_eq!((status, errors.as_str()), (0, ""), "{console}");
    assert!(console.ends_with("ok ports every width\nDONE\n"), "{console:?}");
}

#[test]
fn a_flood_on_the_serial_port_arrives_whole_for_a_reader_that_keeps_up() {
    let ended = Vmm::start("do=flood end=off").wait();
    let printed = ended.console.len();
    let last = ended.console.get(printed.saturating_sub(100)..);
    assert_eq!(ended.status, 0, "after {printed} bytes, {last:?}: {}", ended.log);
    let line = "x".repeat(63);
    let whole = ended.console.lines().filter(|got| *got == line).count();
    // What a slow reader misses is told, and only then may it be less.
    assert!(whole == 1600 || ended.log.contains("were dropped"), "{whole} lines of 1600: {}", ended.log);
    assert!(ended.console.ends_with("ok serial flood\nDONE\n"));
}

#[test]
fn a_client_of_the_host_talks_to_a_port_of_the_guest() {
    let vmm = Vmm::start("do=echo end=off");
    // Before the guest listens: the request is held.
    vmm::converse(&vmm.vsock(), 50);
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.console, ended.log);
    assert!(ended.console.contains("ok vsock closed"), "{}", ended.console);
}
