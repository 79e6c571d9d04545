//! What steers a running microVM, with real guests: pause, limits on the host, restart, the order of a stop.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/hull.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Hull, furnished};

fn record(hull: &Hull, name: &str) -> Value {
    let inspected: Value = serde_json::from_str(&hull.ok(&["inspect", name])).unwrap();
    inspected[0].clone()
}

/// The control group of a running VMM, as the kernel names it.
fn group(hull: &Hull, name: &str) -> PathBuf {
    let pid = record(hull, name)["vmm_pid"].clone();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    PathBuf::from("/sys/fs/cgroup").join(path)
}

#[test]
fn a_paused_guest_stands_still_and_its_clock_is_right_afterwards() {
    let hull = furnished();
    let script = "i=0; while :; do i=$((i + 1)); echo $i $(date +%s); sleep 1; done";
    hull.ok(&["run", "-d", "--name", "counts", "busybox", "sh", "-c", script]);
    let lines = || hull.ok(&["logs", "counts"]).lines().count();
    let since = Instant::now();
    while lines() < 2 {
        assert!(since.elapsed() < Duration::from_secs(120), "it does not count");
        std::thread::sleep(Duration::from_millis(200));
    }
    hull.ok(&["pause", "counts"]);
    assert!(hull.ok(&["ps"]).contains("(Paused)"));
    let stands = lines();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(lines(), stands, "a paused guest has printed");
    hull.ok(&["unpause", "counts"]);
    let since = Instant::now();
    while lines() < stands + 4 {
        assert!(since.elapsed() < Duration::from_secs(120), "it does not go on");
        std::thread::sleep(Duration::from_millis(200));
    }
    let logs = hull.ok(&["logs", "--tail", "1", "--timestamps", "counts"]);
    let words: Vec<&str> = logs.split_whitespace().collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let guest: u64 = words[2].parse().unwrap();
    assert!(now.abs_diff(guest) < 6, "the guest's clock says {guest}, the host's {now}");
    // The agent is asked first, and the shell has no handler: it is process 1 and is killed at last.
    hull.ok(&["stop", "--time", "1", "counts"]);
    assert_eq!(hull.ok(&["wait", "counts"]).trim(), "137");
    hull.ok(&["rm", "counts"]);
}

#[test]
fn limits_are_enforced_on_the_host_and_changed_while_it_runs() {
    let hull = furnished();
    let busy = ["busybox", "sh", "-c", "while :; do :; done"];
    let flags = ["run", "-d", "--name", "busy", "--memory", "128m", "--disk-size", "64m"];
    let limits = ["--cpu-quota", "20000", "-c", "512"];
    hull.ok(&[&flags[..], &limits[..], &busy[..]].concat());
    let group = group(hull, "busy");
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("cpu.max").as_str(), read("cpu.weight").as_str()), ("20000 100000", "50"));
    // Where the disk is kept in memory, as in the lab, it counts too.
    let memory: u64 = read("memory.max").parse().unwrap();
    assert!((128 << 20..256 << 20).contains(&memory), "{memory}");
    assert!(read("pids.max").parse::<u32>().unwrap() < 64);
    // All it took was taken in the group: the guest's memory is there, too.
    assert!(read("memory.current").parse::<u64>().unwrap() > 16 << 20);
    // A fifth of a processor, measured by the host.
    let used = |stat: String| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).map(str::to_owned);
        line.unwrap().parse().unwrap()
    };
    let (before, since) = (used(read("cpu.stat")), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let share = (used(read("cpu.stat")) - before) as f64 / since.elapsed().as_micros() as f64;
    assert!(share < 0.3, "it got {share} of a processor");
    let stats: Value =
        serde_json::from_str(&hull.ok(&["stats", "--no-stream", "--format", "json", "busy"])).unwrap();
    assert!(stats[0]["throttled_ns"].as_u64() > Some(0) && stats[0]["memory_limit"] == memory, "{stats}");
    hull.ok(&["update", "--cpu-quota", "50000", "busy"]);
    assert_eq!(read("cpu.max"), "50000 100000");
    hull.ok(&["restart", "--time", "0", "busy"]);
    assert_eq!(read("cpu.max"), "50000 100000");
    hull.ok(&["rm", "-f", "busy"]);
    assert!(!group.exists(), "its control group is left");
}
