//! `hull boot` with a stock distribution kernel: it boots as it is, sees what it was given, and ends as it says.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

mod support;
#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hull_protocol::control::Command;
use hull_protocol::exit::ExitReason;
use hull_protocol::units::Bytes;
use support::boot;
use tap::{GUEST, Network};
use vmm::Vmm;

fn host_cpuinfo(field: &str) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = cpuinfo.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn an_elf_kernel_boots_and_powers_off() {
    let outcome = boot("vmlinux", "", &[], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    assert!(outcome.console.contains("READY"));
    assert_eq!(outcome.said("CPUS"), Some("1"));
    assert_eq!(outcome.errors, "");
}

#[test]
fn a_bzimage_boots_and_powers_off() {
    let outcome = boot("bzImage", "", &[], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    assert!(outcome.console.contains("READY"));
}

#[test]
fn an_elf_kernel_boots_by_its_pvh_entry() {
    let outcome = boot("vmlinux", "", &["--entry", "pvh", "--cpus", "2", "--memory", "4g"], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    assert_eq!(outcome.said("CPUS"), Some("2"));
    let memory: u64 = outcome.said("MEMORY").unwrap().parse().unwrap();
    assert!((3_900_000..4_194_304).contains(&memory), "{memory} KiB");
}

#[test]
fn two_processors_and_memory_beyond_the_device_gap_are_seen() {
    let outcome = boot("vmlinux", "", &["--cpus", "2", "--memory", "5g"], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    assert_eq!(outcome.said("CPUS"), Some("2"));
    assert_eq!(outcome.said("APICS"), Some("0 1"));
    let memory: u64 = outcome.said("MEMORY").unwrap().parse().unwrap();
    assert!((4_900_000..5_242_880).contains(&memory), "{memory} KiB");
}

#[test]
fn the_guests_processor_is_the_hosts() {
    let outcome = boot("vmlinux", "", &[], "");
    assert_eq!(outcome.said("MODEL"), Some(host_cpuinfo("model name").as_str()));
    let host = host_cpuinfo("flags");
    let flags = outcome.said("FLAGS").unwrap();
    // What programs pick their code by is the host's. Not AVX: a kernel turns it off where the layout of its state,
    // which KVM reports, is not consistent, as on emulated hosts.
    for feature in ["sse2", "ssse3", "sse4_1", "sse4_2", "cx16", "popcnt", "movbe", "rdtscp"] {
        let has = |flags: &str| flags.split(' ').any(|flag| flag == feature);
        assert_eq!(has(flags), has(&host), "{feature}");
    }
    assert!(flags.contains("hypervisor"));
}

#[test]
fn a_baseline_shows_its_features_and_no_others_or_names_what_the_host_lacks() {
    let outcome = boot("vmlinux", "", &["--cpu", "x86-64-v2"], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    let flags: Vec<&str> = outcome.said("FLAGS").unwrap().split(' ').collect();
    for feature in ["pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt", "lahf_lm", "hypervisor"] {
        assert!(flags.contains(&feature), "{feature}: {flags:?}");
    }
    for feature in ["movbe", "abm", "bmi1", "avx", "xsave", "aes", "rdrand", "svm", "erms"] {
        assert!(!flags.contains(&feature), "{feature}: {flags:?}");
    }
    if !host_cpuinfo("flags").split(' ').any(|flag| flag == "avx512f") {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_hull"))
            .args(["boot", "--cpu", "x86-64-v4", "--kernel"])
            .arg(support::fixture("vmlinux"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("lacks"), "{said}");
    }
}

#[test]
fn a_disk_is_copied_to_another_and_a_read_only_one_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.img"), dir.path().join("to.img"));
    let content: Vec<u8> = (0..8u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&from, &content).unwrap();
    fs::File::create(&to).unwrap().set_len(8 << 20).unwrap();
    let disks =
        [format!("path={},format=raw,ro", from.display()), format!("path={},format=raw", to.display())];
    let outcome = boot("vmlinux", "do=copy", &["--disk", &disks[0], "--disk", &disks[1]], "");
    assert_eq!(outcome.status, 0, "{}{}", outcome.console, outcome.errors);
    assert!(outcome.said("COPIED").is_some(), "{}", outcome.console);
    assert!(outcome.console.contains("DISK vda disk0 16384 ro=1"), "{}", outcome.console);
    assert!(outcome.console.contains("DISK vdb disk1 16384 ro=0"), "{}", outcome.console);
    assert!(fs::read(&to).unwrap() == content, "the copy differs");
    assert!(fs::read(&from).unwrap() == content, "the read-only disk was changed");
}

#[test]
fn the_entropy_device_feeds_the_guest() {
    let outcome = boot("vmlinux", "do=random", &[], "");
    let (device, bytes) = outcome.said("RANDOM").unwrap().split_once(' ').unwrap();
    assert!(device.starts_with("virtio_rng"), "{device}");
    assert_eq!(bytes.len(), 128);
    assert_ne!(bytes, "0".repeat(128));
}

#[test]
fn what_is_typed_reaches_the_guest() {
    let outcome = boot("vmlinux", "do=echo", &[], "hello guest\n");
    assert_eq!(outcome.said("HEARD"), Some("hello guest"), "{}", outcome.console);
}

#[test]
fn each_end_has_its_own_status() {
    for (cmdline, status, words) in [
        // What a kernel picks by itself is a jump to the BIOS, on hardware-reduced ACPI.
        ("do=reboot", 64, "reset"),
        ("do=reboot reboot=a", 64, "reset"),
        ("do=reboot reboot=k", 64, "reset"),
        ("do=panic", 65, "panicked"),
        ("do=reboot reboot=t", 66, "triple fault"),
    ] {
        let outcome = boot("vmlinux", cmdline, &[], "");
        assert_eq!(outcome.status, status, "{cmdline}: {}{}", outcome.console, outcome.errors);
        assert!(outcome.errors.contains(words), "{cmdline}: {}", outcome.errors);
    }
}

#[test]
fn the_power_button_reaches_the_guests_init() {
    let initramfs = support::fixture("initramfs");
    let cmdline = "console=ttyS0 quiet panic=-1 do=button";
    let vmm = Vmm::boot(&support::fixture("vmlinux"), Some(&initramfs), Bytes::mib(256), cmdline);
    vmm.await_text("LISTENING");
    let mut peer = vmm.control();
    assert!(peer.ask(Command::PowerButton).is_ok());
    assert_eq!(peer.hear_end(), ExitReason::PowerOff);
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}", ended.log);
    assert!(ended.console.contains("PRESSED"), "{}", ended.console);
}

/// The guest's connection, once it has booted.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let start = Instant::now();
    while start.elapsed() < vmm::LIMIT {
        if let Ok((stream, from)) = listener.accept() {
            assert_eq!(from.ip().to_string(), GUEST);
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(vmm::LIMIT)).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the guest does not connect");
}

#[test]
fn a_network_card_moves_large_segments_both_ways() {
    const LENGTH: usize = 8 << 20;
    let network = Network::new();
    let listener = network.within(|| TcpListener::bind(("10.77.0.1", 7001)).unwrap());
    let card = |slot| Network::card(slot, true);
    let vmm = Vmm::linux_on_network("do=net", network.tap(), card);
    let stream = accept(&listener);
    let content: Vec<u8> = (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut back = vec![0; LENGTH];
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| (&stream).write_all(&content).unwrap());
        (&stream).read_exact(&mut back).unwrap();
        sending.join().unwrap();
    });
    assert!(back == content, "what came back differs");
    let stats = vmm.control().ask_net(0).unwrap();
    for (way, traffic) in [("in", stats.receive), ("out", stats.transmit)] {
        // No frame of a wire is longer than 1,514 bytes: a larger mean needs large ones. How much larger it is lies with
        // TCP, which sends what a busy peer has made room for.
        assert!(traffic.bytes > LENGTH as u64 && traffic.frames < traffic.bytes / 1514, "{way}: {traffic:?}");
    }
    // A guest that gets no processor for a while has no buffers meanwhile; nothing else is lost, and TCP makes up for it.
    let dropped = stats.receive.dropped;
    assert_eq!(dropped.sum(), dropped.no_buffer, "{stats:?}");
    assert!(dropped.no_buffer < stats.receive.frames / 4, "{stats:?}");
    drop(stream);
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}", ended.log);
    assert!(ended.console.contains("CARD 02:00:00:00:00:07 1500 up=1"), "{}", ended.console);
    assert!(ended.console.contains("ECHOED"), "{}", ended.console);
}

#[test]
fn what_cannot_boot_is_refused_in_words() {
    let mut junk = tempfile::NamedTempFile::new().unwrap();
    junk.write_all(&[7; 4096]).unwrap();
    let junk = junk.path().to_str().unwrap().to_owned();
    let kernel = support::fixture("vmlinux").to_str().unwrap().to_owned();
    for (flags, words) in [
        (vec!["--kernel", "/nowhere/vmlinux"], "cannot be opened"),
        (vec!["--kernel", &junk], "neither an ELF vmlinux nor a bzImage"),
        (vec!["--kernel", &kernel, "--memory", "1m"], "at least 32 MiB"),
        (vec!["--kernel", &kernel, "--memory", "33m"], "does not fit"),
        (vec!["--kernel", &kernel, "--memory", "900t"], "more than this host has"),
        (vec!["--kernel", &kernel, "--cpus", "10000"], "1 to 64"),
        (
            vec!["--kernel", &kernel, "--disk", "path=/dev/null,format=raw"],
            "neither a file nor a block device",
        ),
        (vec!["--kernel", &kernel, "--disk", "path=x,format=qcow2"], "qcow2"),
    ] {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_hull")).arg("boot").args(&flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{flags:?}: {said}");
    }
}
