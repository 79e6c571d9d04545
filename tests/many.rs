//! Many microVMs at once: each is made, started, has a command run and is removed by a client of its own, while others
//! read. A stand-in takes the VMM's place, but with `HULL_REAL`.
//!
//! `HULL_MANY` is how many. What the reads took is printed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/daemon.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, patience, real, spec};

const MANY: usize = 500;
/// What a host of any size may promise: the stand-ins use next to nothing of it.
const GENEROUS: [&str; 4] = ["--cpu-overcommit", "10000", "--memory-overcommit", "100000"];
/// A read that takes longer is not quick on any machine.
const SLOW: Duration = Duration::from_secs(10);

fn many() -> usize {
    std::env::var("HULL_MANY").map_or(MANY, |count| count.parse().unwrap())
}

/// One microVM's life, as its client asks for it; the step that was refused, and what was answered.
fn live(daemon: &Daemon, name: &str) -> Result<(), (&'static str, u16, Value)> {
    let step = |what: &'static str, expected: u16, line: &str, body: Option<&Value>| {
        let (method, path) = line.split_once(' ').unwrap();
        match daemon.ask(method, path, body) {
            (status, answer) if status == expected => Ok(answer),
            (status, answer) => Err((what, status, answer)),
        }
    };
    step("create", 201, "POST /v1/microvms", Some(&spec(name, &["stay"], json!({}))))?;
    let lived = step("start", 200, &format!("POST /v1/microvms/{name}/start"), None).and_then(|_| {
        let command = json!({"command": ["true"]});
        let made = step("exec", 201, &format!("POST /v1/microvms/{name}/exec"), Some(&command))?;
        let exec = made["id"].as_str().unwrap();
        step("run", 200, &format!("POST /v1/exec/{exec}/start?detach=true"), None)
    });
    step("remove", 204, &format!("DELETE /v1/microvms/{name}?force=true"), None)?;
    lived.map(|_| ())
}

/// Reads until it is told to stop; what each read took.
fn read(daemon: &Daemon, over: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        for path in ["/v1/system", "/v1/microvms?limit=20", "/v1/images"] {
            let since = Instant::now();
            assert_eq!(daemon.ask("GET", path, None).0, 200, "{path}");
            took.push(since.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    took
}

/// All of them at once; those that were refused.
fn all_at_once(daemon: &Daemon, round: usize) -> Vec<(&'static str, u16, Value)> {
    let over = AtomicBool::new(false);
    let since = Instant::now();
    let (refused, mut took) = thread::scope(|scope| {
        let reader = scope.spawn(|| read(daemon, &over));
        let lives: Vec<_> = (0..many())
            .map(|number| scope.spawn(move || live(daemon, &format!("round{round}-{number}"))))
            .collect();
        let refused = lives.into_iter().filter_map(|life| life.join().unwrap().err()).collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        (refused, reader.join().unwrap())
    });
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    let (p50, p99) = (at(50), at(99));
    let count = took.len();
    println!("{} lives in {:?}; {count} reads, p50 {p50:?}, p99 {p99:?}", many(), since.elapsed());
    assert!(p99 < patience(SLOW), "reads wait for starts: {p99:?}");
    refused
}

/// Nothing of them is there any more.
fn nothing_is_left(daemon: &Daemon) {
    assert_eq!(daemon.ask("GET", "/v1/microvms", None).1, json!([]));
    assert!(daemon.vmms().is_empty(), "{:?}", daemon.vmms());
    let left: Vec<_> = std::fs::read_dir(daemon.data().join("microvms")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn many_live_at_once_and_reads_stay_quick() {
    let daemon = Daemon::start(&GENEROUS);
    for round in 0..2 {
        let refused = all_at_once(&daemon, round);
        assert!(
            refused.is_empty(),
            "{} were refused, such as {:?}\n{}",
            refused.len(),
            refused[0],
            daemon.log()
        );
        nothing_is_left(&daemon);
    }
}

#[test]
fn what_is_too_many_is_refused_by_the_stated_limit() {
    let daemon = Daemon::start(&["--cpu-overcommit", if real() { "1" } else { "8" }]);
    let limit = daemon.ask("GET", "/v1/system", None).1["capacity"]["cpus_limit"].as_u64().unwrap();
    let kept: Vec<String> =
        (0..limit).map(|n| daemon.run(&format!("kept{n}"), &["stay"], json!({}))).collect();
    let refused = all_at_once(&daemon, 0);
    assert_eq!(refused.len(), many());
    for (step, status, answer) in refused {
        assert_eq!(
            (step, status, &answer["type"]),
            ("start", 409, &json!("/problems/over-capacity")),
            "{answer}"
        );
    }
    kept.iter().for_each(|id| assert_eq!(daemon.record(id)["state"], "running"));
    assert_eq!(daemon.ask("GET", "/v1/microvms", None).1.as_array().unwrap().len(), kept.len());
}
