//! A running VMM is behind every wall of its jail, and one that is killed at a wall says so. What the walls stop is
//! shown in `crates/jail/tests/walls.rs`; that a VM lacks nothing behind them, by every other test. Runs on whatever
//! KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/group.rs"]
mod group;
#[path = "support/vmm.rs"]
mod vmm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use group::MemoryGroup;
use hull_protocol::control::Command as Ask;
use hull_protocol::exit::ExitReason;
use hull_protocol::plan::FIRST_USER;
use hull_protocol::units::Bytes;
use rustix::process::Signal;
use vmm::{Vmm, bare};

/// The fields of a process's or thread's `status`.
fn status(of: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.into(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

fn running() -> Vmm {
    let vmm = Vmm::start("do=tick");
    vmm.await_text("tick 3\n");
    vmm
}

fn end(vmm: Vmm) {
    let mut peer = vmm.control();
    peer.ask(Ask::Kill).unwrap();
    assert_eq!(peer.hear_end(), ExitReason::Killed);
    assert_eq!(vmm.wait().status, ExitReason::Killed.status());
}

#[test]
fn each_thread_is_without_rights_and_behind_its_list_of_calls() {
    let vmm = running();
    let pid = vmm.pid();
    let mut names = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap().file_name().into_string().unwrap();
        let status = status(&format!("{pid}/task/{thread}"));
        let name = status["Name"].clone();
        // KVM's own workers never leave the kernel.
        if name.starts_with("kvm") {
            continue;
        }
        assert_eq!((status["Seccomp"].as_str(), status["NoNewPrivs"].as_str()), ("2", "1"), "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status[set].bytes().all(|digit| digit == b'0'), "{name}: {set} {}", status[set]);
        }
        if rustix::process::geteuid().is_root() {
            let user = vec![(FIRST_USER + pid).to_string(); 4].join(" ");
            assert_eq!((&status["Uid"], &status["Gid"]), (&user, &user), "{name}");
            assert_eq!(status["Groups"], "", "{name}");
        }
        names.insert(name);
    }
    let expected = ["hull-vmm", "io", "vcpu0", "console"].map(String::from);
    assert_eq!(names, BTreeSet::from(expected), "a thread nobody thought of");
    end(vmm);
}

#[test]
fn the_process_sees_an_empty_root_and_nobody() {
    let vmm = running();
    let place = format!("/proc/{}", vmm.pid());
    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(&place), of("/proc/self"), "{namespace}");
    }
    assert_eq!(fs::read_dir(format!("{place}/root/")).unwrap().count(), 0);
    assert_eq!(fs::metadata(format!("{place}/root/")).unwrap().mode() & 0o777, 0o555);
    let mounts = fs::read_to_string(format!("{place}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / ro,nosuid,nodev,noexec"), "{mounts}");
    // Its devices and nothing else: no directory, no file of the system.
    for descriptor in fs::read_dir(format!("{place}/fd")).unwrap() {
        let path = descriptor.unwrap().path();
        let of = fs::read_link(&path).unwrap().to_string_lossy().into_owned();
        assert!(!fs::metadata(&path).is_ok_and(|open| open.is_dir()), "a directory is open: {of}");
    }
    end(vmm);
}

#[test]
fn its_limits_are_closed() {
    let vmm = running();
    let limits = fs::read_to_string(format!("/proc/{}/limits", vmm.pid())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let words = line.trim_start_matches(name).split_whitespace();
        words.take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for none in ["Max core file size", "Max locked memory", "Max msgqueue size", "Max realtime priority"] {
        assert_eq!(limit(none), ["0", "0"], "{none}");
    }
    let files: u64 = limit("Max open files")[1].parse().unwrap();
    assert!(files < 1500, "{files} descriptors");
    if rustix::process::geteuid().is_root() {
        assert_eq!(limit("Max processes"), ["9", "9"]);
    }
    end(vmm);
}

#[test]
fn a_vmm_that_is_killed_at_a_wall_says_so() {
    let mut hull = Command::new(env!("CARGO_BIN_EXE_hull"))
        .args(["boot", "--memory", "32m", "--cmdline", "do=tick", "--kernel"])
        .arg(bare("bare"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut console = BufReader::new(hull.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("tick") {
        line.clear();
        assert!(console.read_line(&mut line).unwrap() > 0, "the guest ended");
    }
    let vmm = child_of(hull.id());
    rustix::process::kill_process(vmm, Signal::SYS).unwrap();
    let mut errors = String::new();
    hull.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("its jail forbids"), "{errors}");
    assert_eq!(hull.wait().unwrap().code(), Some(ExitReason::Forbidden.status()));
}

#[test]
fn memory_that_is_filled_costs_the_vmm_its_life_and_its_neighbour_nothing() {
    let Some(group) = MemoryGroup::new(Bytes::mib(24), Bytes::mib(8)) else {
        println!("not shown: this host cannot limit memory");
        return;
    };
    let neighbour = running();
    // Who attacks as a VMM's event loop could, from behind all its walls.
    let attempt = Path::new(env!("CARGO_BIN_EXE_hull")).with_file_name("examples").join("attempt");
    let script = "echo 0 > \"$1\" && exec \"$2\" io fill-memory";
    let status =
        Command::new("sh").args(["-c", script, "sh"]).arg(group.door()).arg(attempt).status().unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    assert!(group.killed() > 0);
    assert!(group.peak() <= Bytes::mib(32));
    let printed = neighbour.console().len();
    neighbour.await_more(printed);
    end(neighbour);
}

/// The one process that another has started.
fn child_of(parent: u32) -> rustix::process::Pid {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let child = processes.filter(|name| name.bytes().all(|digit| digit.is_ascii_digit())).find(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1) == Some(parent.to_string().as_str())
    });
    rustix::process::Pid::from_raw(child.unwrap().parse().unwrap()).unwrap()
}
