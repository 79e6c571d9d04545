//! How VMMs end that nobody told to, and a container that prints without end: neither touches its neighbours.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::support::{Daemon, spec};
use super::{daemon, state};

/// How long the container prints, in seconds.
const FLOOD: u64 = 4;
/// The most that a microVM's log takes on the host: two files, and what was written of a record beyond the first's end.
const LOG_MAX: u64 = (2 * 16 + 1) << 20;
/// What is done beside the flood, and how often.
const LIVES: usize = 20;

#[test]
fn a_vmm_that_ends_for_itself_says_why_and_takes_nothing_along() {
    let daemon = daemon();
    let neighbour = daemon.run("neighbour", &["tick", "5"], json!({}));
    let before = daemon.record(&neighbour);
    let bug = daemon.run("bug", &["bug"], json!({}));
    let ended = daemon.until(&bug, |record| state(record) == "failed");
    assert_eq!((&ended["exit"]["reason"], &ended["exit"]["status"]), (&json!("bug"), &json!(125)));
    let error = ended["exit"]["error"].as_str().unwrap();
    assert!(error.contains("please report") && error.contains("it stands in for one"), "{error}");
    let killed = daemon.run("shot", &["stay"], json!({}));
    let pid = daemon.record(&killed)["vmm_pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    let ended = daemon.until(&killed, |record| state(record) == "failed");
    let error = ended["exit"]["error"].as_str().unwrap();
    assert!(ended["exit"]["reason"].is_null() && error.contains("killed by the host"), "{ended}");
    assert!(daemon.ok(&["ps", "-a"]).contains("(125)"), "{}", daemon.ok(&["ps", "-a"]));
    let after = daemon.record(&neighbour);
    assert_eq!((state(&after), &after["vmm_pid"]), ("running", &before["vmm_pid"]));
    let lines = || daemon.ok(&["logs", "neighbour"]).lines().count();
    let (since, first) = (Instant::now(), lines());
    while lines() <= first {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not go on after {first} lines");
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.ok(&["rm", "-f", "neighbour", "bug", "shot"]);
}

/// Stops a process; returns when each of its threads stands still.
fn halt(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    let since = Instant::now();
    let stands = || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        threads.all(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap();
            status.contains("State:\tT (stopped)")
        })
    };
    while !stands() {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_vmm_that_takes_no_connections_is_ended_by_the_next_daemon() {
    let mut daemon = Daemon::start(&[]);
    let deaf = daemon.run("deaf", &["stay"], json!({}));
    let neighbour = daemon.run("neighbour", &["stay"], json!({}));
    let [pid, other] = [&deaf, &neighbour].map(|id| daemon.record(id)["vmm_pid"].as_i64().unwrap() as i32);
    daemon.kill();
    halt(pid);
    let control = daemon.dir.path().join("run").join(&deaf[..12]).join("control.sock");
    let address = SocketAddrUnix::new(&control).unwrap();
    let queued: Vec<_> = (0..100)
        .map_while(|_| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            connect(&socket, &address).is_ok().then_some(socket)
        })
        .collect();
    assert!((1..100).contains(&queued.len()), "{} connections are waiting", queued.len());
    daemon.spawn();
    let ended = daemon.record(&deaf);
    let error = ended["exit"]["error"].as_str().unwrap();
    assert!(state(&ended) == "failed" && error.contains("took no connections"), "{ended}");
    assert_eq!(daemon.until(&neighbour, |record| state(record) == "running")["vmm_pid"], other);
    let since = Instant::now();
    while daemon.vmms() != BTreeSet::from([other as u64]) {
        assert!(since.elapsed() < Duration::from_secs(10), "it still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.ok(&["start", "deaf"]);
    daemon.ok(&["rm", "-f", "deaf", "neighbour"]);
}

/// What a directory takes on disk, in bytes.
fn size(place: &Path) -> u64 {
    fs::read_dir(place).unwrap().flatten().map(|entry| entry.metadata().map_or(0, |found| found.len())).sum()
}

/// The lives of some microVMs, one after the other; what the one in the middle took.
fn median_life(daemon: &Daemon) -> Duration {
    let mut took: Vec<Duration> = (0..LIVES)
        .map(|_| {
            let since = Instant::now();
            let (made, _) = daemon.ask("POST", "/v1/microvms", Some(&spec("short", &["stay"], json!({}))));
            let (started, _) = daemon.ask("POST", "/v1/microvms/short/start", None);
            let (removed, _) = daemon.ask("DELETE", "/v1/microvms/short?force=true", None);
            assert_eq!((made, started, removed), (201, 200, 204));
            since.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

#[test]
fn a_flooded_log_is_bounded_and_others_do_not_feel_it() {
    let daemon = Daemon::start(&[]);
    let seconds = std::env::var("HULL_FLOOD").map_or(FLOOD, |seconds| seconds.parse().unwrap());
    let quiet = median_life(&daemon);
    let id = daemon.run("flood", &["flood", &seconds.to_string()], json!({}));
    let place = daemon.data().join("microvms").join(&id);
    let (since, first) = (Instant::now(), size(&place));
    let (mut largest, mut lives) = (0, Vec::new());
    while state(&daemon.record(&id)) == "running" && since.elapsed() < Duration::from_secs(2 * seconds + 60) {
        lives.push(median_life(&daemon));
        largest = largest.max(size(&place).saturating_sub(first));
    }
    lives.sort_unstable();
    let beside = lives[lives.len() / 2];
    println!(
        "{seconds} s of flood: {largest} bytes of log; a life took {quiet:?} before it, {beside:?} beside it"
    );
    assert_eq!(daemon.until(&id, |record| state(record) == "stopped")["exit"]["status"], 0);
    assert!(largest > LOG_MAX / 4 && largest <= LOG_MAX, "{largest}");
    // A host of two processors of which one floods: no more than a share of it is felt.
    assert!(beside < 10 * quiet + Duration::from_secs(1), "{beside:?} and {quiet:?}");
    // What is kept is whole lines, the last ones.
    let kept = daemon.ok(&["logs", "--tail", "3", "flood"]);
    assert!(kept.lines().all(|line| line.ends_with("a log that nobody needs")), "{kept}");
    daemon.ok(&["rm", "-f", "flood"]);
}
