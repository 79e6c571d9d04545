//! The life of microVMs, from the API down to a stand-in for the VMM: no guest is needed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "life/console.rs"]
mod console;
#[path = "life/ends.rs"]
mod ends;
#[path = "life/full.rs"]
mod full;
#[path = "life/secrets.rs"]
mod secrets;
#[path = "support/daemon.rs"]
mod support;
#[path = "life/trace.rs"]
mod trace;
#[path = "life/volumes.rs"]
mod volumes;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, spec};

/// One daemon for all tests that do not stop it.
fn daemon() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| Daemon::start(&[]))
}

fn path(id: &str, below: &str) -> String {
    format!("/v1/microvms/{id}{below}")
}

fn state(record: &Value) -> &str {
    record["state"].as_str().unwrap()
}

/// Sends a request that must be answered by this status.
fn tell(daemon: &Daemon, status: u16, line: &str, body: Option<Value>) -> Value {
    let (method, path) = line.split_once(' ').unwrap();
    let (found, answer) = daemon.ask(method, path, body.as_ref());
    assert_eq!(found, status, "{line}: {answer}\n{}", daemon.log());
    answer
}

#[test]
fn a_microvm_pauses_and_goes_on() {
    let daemon = daemon();
    let id = daemon.run("pauses", &["tick", "5"], json!({}));
    assert_eq!(state(&tell(daemon, 200, &format!("POST {}", path(&id, "/pause")), None)), "paused");
    tell(daemon, 200, &format!("POST {}", path(&id, "/pause")), None);
    let refused = tell(daemon, 409, &format!("POST {}", path(&id, "/kill")), None);
    assert!(refused["detail"].as_str().unwrap().contains("unpause"), "{refused}");
    std::thread::sleep(Duration::from_millis(50));
    let before = daemon.ok(&["logs", "pauses"]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(daemon.ok(&["logs", "pauses"]), before, "it printed while it was paused");
    assert!(daemon.ok(&["ps"]).contains("(Paused)"));
    daemon.ok(&["unpause", "pauses"]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(daemon.ok(&["logs", "pauses"]).len() > before.len(), "it does not go on");
    tell(daemon, 409, &format!("DELETE {}", path(&id, "")), None);
    // One that is paused can be stopped, and removed by force.
    daemon.ok(&["pause", "pauses"]);
    assert_eq!(state(&tell(daemon, 200, &format!("POST {}", path(&id, "/stop")), None)), "stopped");
    daemon.ok(&["start", "pauses"]);
    daemon.ok(&["pause", "pauses"]);
    tell(daemon, 204, &format!("DELETE {}", path(&id, "?force=true")), None);
}

#[test]
fn a_vmm_is_alone_among_its_processes() {
    let daemon = daemon();
    let id = daemon.run("alone", &["stay"], json!({}));
    let pid = daemon.record(&id)["vmm_pid"].clone();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(ids.split_whitespace().collect::<Vec<_>>(), [pid.to_string().as_str(), "1"], "{status}");
    daemon.ok(&["rm", "-f", "alone"]);
}

#[test]
fn a_restart_is_a_stop_and_a_start() {
    let daemon = daemon();
    let id = daemon.run("again", &["stay"], json!({}));
    let first = daemon.record(&id);
    daemon.ok(&["restart", "again"]);
    let second = daemon.record(&id);
    assert_eq!(state(&second), "running");
    assert_ne!(first["vmm_pid"], second["vmm_pid"]);
    assert_eq!(second["stop_requested"], false);
    daemon.ok(&["stop", "again"]);
    // One that does not run is started.
    daemon.ok(&["restart", "again"]);
    assert_eq!(state(&daemon.record(&id)), "running");
    daemon.ok(&["rm", "-f", "again"]);
}

#[test]
fn restart_policies_do_what_they_say() {
    let daemon = daemon();
    let failing = daemon.run("thrice", &["exit", "3"], json!({"restart": "on-failure:3"}));
    let record = daemon.until(&failing, |record| state(record) == "stopped" && record["restarts"] == 3);
    assert_eq!(record["exit"]["status"], 3);
    let content = daemon.run("content", &["exit", "0"], json!({"restart": "on-failure"}));
    assert_eq!(daemon.until(&content, |record| state(record) == "stopped")["restarts"], 0);
    let always = daemon.run("always", &["exit", "0"], json!({"restart": "always"}));
    daemon.until(&always, |record| record["restarts"].as_u64() >= Some(2));
    // Between two runs it can be stopped, and stays so.
    daemon.until(&always, |record| state(record) == "restarting");
    daemon.ok(&["stop", "always"]);
    let stopped = daemon.record(&always);
    assert_eq!((state(&stopped), &stopped["stop_requested"]), ("stopped", &json!(true)));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.record(&always)["restarts"], stopped["restarts"]);
    // A VM that crashes is started again, too; one that was killed by its user is not.
    let crash = daemon.run("crash", &["crash"], json!({"restart": "on-failure:1"}));
    let record = daemon.until(&crash, |record| state(record) == "failed");
    assert_eq!((&record["restarts"], &record["exit"]["reason"]), (&json!(1), &json!("guest-panic")));
    let killed = daemon.run("killed", &["stay"], json!({"restart": "always"}));
    daemon.ok(&["kill", "killed"]);
    daemon.until(&killed, |record| state(record) == "stopped");
    // What could not be started once is not tried again.
    let missing = daemon.create("missing", &["missing"], json!({"restart": "always"}));
    let record = tell(daemon, 200, &format!("POST {}", path(&missing, "/start")), None);
    assert_eq!((state(&record), &record["exit"]["status"]), ("failed", &json!(127)));
    let both = spec("both", &["stay"], json!({"restart": "always", "auto_remove": true}));
    tell(daemon, 400, "POST /v1/microvms", Some(both));
    daemon.ok(&["rm", "thrice", "content", "always", "crash", "killed", "missing"]);
}

#[test]
fn a_stop_ends_whatever_does_not_listen() {
    let daemon = daemon();
    for (name, grace, status) in [("stay", 60, 143), ("stubborn", 0, 137)] {
        let id = daemon.run(name, &[name], json!({}));
        let stopped =
            tell(daemon, 200, &format!("POST {}", path(&id, &format!("/stop?grace={grace}"))), None);
        assert_eq!((state(&stopped), &stopped["exit"]["status"]), ("stopped", &json!(status)));
        daemon.ok(&["rm", name]);
    }
    // One that does not even die of SIGKILL has its power button pressed.
    let id = daemon.run("wedged", &["wedged"], json!({}));
    let since = Instant::now();
    let stopped = tell(daemon, 200, &format!("POST {}", path(&id, "/stop?grace=0")), None);
    assert_eq!(stopped["exit"]["reason"], "power-off", "{stopped}");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    // Delete waits for nobody.
    let id = daemon.run("dead", &["dead"], json!({}));
    tell(daemon, 204, &format!("DELETE {}", path(&id, "?force=true")), None);
    daemon.ok(&["rm", "wedged"]);
}

#[test]
fn names_labels_and_limits_change_where_nobody_was_faster() {
    let daemon = daemon();
    let id = daemon.run("before", &["stay"], json!({"labels": {"old": "1"}, "limits": {"cpu_shares": 512}}));
    daemon.create("taken", &["stay"], json!({}));
    let read = daemon.request(&format!("GET {}", path(&id, "")), &[], None).unwrap();
    let tag = read.headers["etag"].clone();
    let patch = json!({"labels": {"old": null, "new": "2"}, "restart": "unless-stopped", "cpu_quota": 50000});
    let update = |tag: &str| {
        let line = format!("PATCH {}", path(&id, ""));
        daemon.request(&line, &[("If-Match", tag)], Some(&patch)).unwrap()
    };
    let updated = update(&tag);
    assert_eq!(updated.status, 200, "{}", updated.text);
    let record = updated.json();
    assert_eq!(record["spec"]["labels"], json!({"new": "2"}));
    assert_eq!(record["spec"]["restart"], "unless-stopped");
    assert_eq!(record["spec"]["limits"], json!({"cpu_shares": 512, "cpu_quota": 50000}));
    let late = update(&tag);
    assert_eq!((late.status, &late.json()["type"]), (412, &json!("/problems/precondition-failed")));
    assert_eq!(update(&updated.headers["etag"]).status, 200);
    assert_eq!(update("soon").status, 400);
    daemon.ok(&["rename", "before", "after"]);
    assert_eq!(daemon.record("after")["id"], id.as_str());
    let rename = |name: &str| daemon.ask("PATCH", &path(&id, ""), Some(&json!({"name": name})));
    assert_eq!(rename("taken").1["type"], "/problems/name-taken");
    assert_eq!(rename("no/name").0, 400);
    assert_eq!(daemon.ask("PATCH", &path(&id, ""), Some(&json!({"memroy": 1}))).0, 400);
    daemon.ok(&["update", "--label-rm", "new", "--cpu-shares", "2", "after"]);
    assert_eq!(daemon.record("after")["spec"]["limits"]["cpu_shares"], 2);
    daemon.ok(&["rm", "-f", "after", "taken"]);
}

#[test]
fn a_request_that_is_sent_twice_makes_one_microvm() {
    let daemon = daemon();
    let post = |key: &str, name: &str| {
        let body = spec(name, &["stay"], json!({}));
        daemon.request("POST /v1/microvms", &[("Idempotency-Key", key)], Some(&body)).unwrap()
    };
    let first = post("key-1", "once");
    assert_eq!((first.status, first.headers.get("idempotency-replayed")), (201, None));
    let again = post("key-1", "once");
    assert_eq!(again.status, 201, "{}", again.text);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(post("key-1", "other").json()["type"], "/problems/key-reused");
    // At once: one is made, and all are told of it.
    let ids: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| post("key-2", "parallel").json()["id"].to_string())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    daemon.ok(&["rm", "once", "parallel"]);
    assert_eq!(post("key-1", "once").status, 409);
}

#[test]
fn lists_come_in_pages() {
    let daemon = daemon();
    let label = json!({"labels": {"paged": "yes"}});
    let made: std::collections::BTreeSet<String> =
        (0..7).map(|number| daemon.create(&format!("page-{number}"), &["stay"], label.clone())).collect();
    let mut next = Some("/v1/microvms?label=paged=yes&limit=3".to_owned());
    let (mut seen, mut pages) = (Vec::new(), 0);
    while let Some(path) = next.take() {
        let answer = daemon.request(&format!("GET {path}"), &[], None).unwrap();
        let page = answer.json();
        seen.extend(page.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        next = answer.headers.get("link").map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
        pages += 1;
    }
    assert_eq!((pages, seen.len()), (3, 7));
    assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), made);
    assert_eq!(tell(daemon, 200, "GET /v1/microvms?state=running&label=paged", None), json!([]));
    tell(daemon, 400, "GET /v1/microvms?limit=many", None);
    for number in 0..7 {
        daemon.ok(&["rm", &format!("page-{number}")]);
    }
}

#[test]
fn a_page_of_images_leads_to_the_next_one() {
    let daemon = daemon();
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("file"), "another image").unwrap();
    daemon.ok(&["import", other.path().to_str().unwrap(), "another"]);
    let first = daemon.request("GET /v1/images?limit=1", &[], None).unwrap();
    let next = first.headers["link"].split(['<', '>']).nth(1).unwrap();
    let second = tell(daemon, 200, &format!("GET {next}"), None);
    assert!(!second.as_array().unwrap().is_empty() && second[0] != first.json()[0], "{second}");
    daemon.ok(&["rmi", "another"]);
}

#[test]
fn events_tell_a_life_and_are_replayed() {
    let daemon = daemon();
    let id = daemon.run("eventful", &["stay"], json!({}));
    daemon.ok(&["pause", "eventful"]);
    daemon.ok(&["unpause", "eventful"]);
    daemon.ok(&["rename", "eventful", "renamed"]);
    daemon.ok(&["stop", "renamed"]);
    daemon.ok(&["rm", "renamed"]);
    let of = format!("of={id}");
    let told =
        daemon.ok(&["events", "--since", "10m", "--until", "now", "--filter", &of, "--format", "json"]);
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    let life = ["create", "start", "pause", "unpause", "rename", "update", "stop", "die", "destroy"];
    assert_eq!(actions, life);
    assert_eq!(events[7]["attributes"]["exit_status"], "143");
    assert!(events.windows(2).all(|pair| pair[0]["id"].as_u64() < pair[1]["id"].as_u64()));
    // From a number on, none twice and none left out.
    let line = format!("GET /v1/events?follow=false&{of}&after={}", events[5]["id"]);
    let rest = daemon.request(&line, &[], None).unwrap();
    assert_eq!(rest.headers["content-type"], "text/event-stream");
    let found: Vec<&str> = rest.text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(found, life[6..]);
    let header = [("Last-Event-ID", "1")];
    let lost = daemon.request(&format!("GET /v1/events?follow=false&{of}"), &header, None).unwrap();
    assert!(lost.text.contains("event: lost"), "{}", lost.text);
    tell(daemon, 400, "GET /v1/events?since=soon", None);
}

#[test]
fn logs_can_be_cut_by_time_and_stamped() {
    let daemon = daemon();
    daemon.run("printer", &["say", "5"], json!({}));
    daemon.until("printer", |record| state(record) == "stopped");
    let whole = daemon.ok(&["logs", "printer"]);
    assert_eq!(whole.lines().count(), 5);
    assert_eq!(daemon.ok(&["logs", "--tail", "2", "printer"]), "line 3\nline 4\n");
    assert_eq!(daemon.ok(&["logs", "--since", "0s", "printer"]), "");
    assert_eq!(daemon.ok(&["logs", "--since", "10m", "--until", "now", "printer"]), whole);
    assert_eq!(daemon.ok(&["logs", "--until", "10m", "printer"]), "");
    let stamped = daemon.ok(&["logs", "--timestamps", "printer"]);
    assert!(stamped.lines().all(|line| line.len() == 30 + 1 + 6 && line.contains("Z line ")), "{stamped}");
    daemon.ok(&["rm", "printer"]);
}

#[test]
fn what_runs_is_measured_and_counted() {
    let daemon = daemon();
    let id = daemon.run("measured", &["tick", "1"], json!({"cpus": 2}));
    let stats = tell(daemon, 200, &format!("GET {}", path(&id, "/stats")), None);
    assert_eq!((&stats["cpus"], &stats["state"]), (&json!(2), &json!("running")));
    assert!(stats["memory"].as_u64() > Some(100_000) && stats["threads"].as_u64() > Some(1), "{stats}");
    let table = daemon.ok(&["stats", "--no-stream", "measured"]);
    assert!(table.lines().count() == 2 && table.contains("measured"), "{table}");
    let metrics = daemon.request("GET /metrics", &[], None).unwrap();
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    let line = format!("hull_microvm_memory_bytes{{id=\"{id}\",name=\"measured\",tenant=\"default\"}}");
    let count = "hull_microvms{state=\"running\",tenant=\"default\"}";
    for part in [line.as_str(), count, "route=\"/v1/microvms/{id}/stats\"", "# EOF"] {
        assert!(metrics.text.contains(part), "{part} is not in\n{}", metrics.text);
    }
    daemon.ok(&["stop", "measured"]);
    tell(daemon, 409, &format!("GET {}", path(&id, "/stats")), None);
    let usage = tell(daemon, 200, "GET /v1/system/df", None);
    let microvms = &usage["kinds"][0];
    assert!(microvms["reclaimable"].as_u64() > Some(0), "{usage}");
    daemon.ok(&["rm", "measured"]);
    assert!(daemon.ok(&["system", "info"]).contains("memory promised"));
    let unknown = tell(daemon, 404, "GET /problems/nothing", None);
    assert_eq!(unknown["status"], 404);
    assert!(daemon.request("GET /problems/over-capacity", &[], None).unwrap().text.contains("409"));
}

#[test]
fn a_host_promises_no_more_than_it_was_told_to() {
    // None of the host's memory, but for what fits into one per cent of it; processors are few.
    let daemon = Daemon::start(&["--cpu-overcommit", "1"]);
    let info = tell(&daemon, 200, "GET /v1/system", None);
    let limit = info["capacity"]["cpus_limit"].as_u64().unwrap();
    let cpus = json!({"cpus": limit});
    let first = daemon.run("first", &["stay"], cpus.clone());
    let second = daemon.create("second", &["stay"], cpus);
    let refused = tell(&daemon, 409, &format!("POST {}", path(&second, "/start")), None);
    assert_eq!(refused["type"], "/problems/over-capacity");
    assert!(refused["detail"].as_str().unwrap().contains("--cpu-overcommit"), "{refused}");
    assert_eq!(state(&daemon.record(&second)), "created");
    daemon.ok(&["stop", "first"]);
    daemon.ok(&["start", "second"]);
    assert_eq!(tell(&daemon, 200, "GET /v1/system", None)["capacity"]["cpus"], limit);
    assert_eq!(state(&daemon.record(&first)), "stopped");
    // Prune takes what does not run.
    let pruned = tell(&daemon, 200, "POST /v1/system/prune", None);
    assert_eq!(pruned["microvms"], json!([first]));
}

#[test]
fn the_next_daemon_finds_everything_as_it_was() {
    let mut daemon = Daemon::start(&[]);
    let runs = daemon.run("runs", &["tick", "20"], json!({}));
    let paused = daemon.run("paused", &["tick", "5"], json!({}));
    daemon.ok(&["pause", "paused"]);
    let dies = daemon.run("dies", &["stay"], json!({}));
    let returns = daemon.run("returns", &["stay"], json!({"restart": "always"}));
    let stopped = daemon.run("stopped", &["stay"], json!({"restart": "unless-stopped"}));
    daemon.ok(&["stop", "stopped"]);
    let started = daemon.run("started", &["stay"], json!({"restart": "always"}));
    daemon.ok(&["stop", "started"]);
    let pids: Vec<Value> =
        [&runs, &paused, &dies, &returns].iter().map(|id| daemon.record(id)["vmm_pid"].clone()).collect();
    daemon.kill();
    for pid in &pids[2..] {
        let pid = rustix::process::Pid::from_raw(pid.as_i64().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    // What nobody knows goes; what is not a microVM's stays.
    std::fs::create_dir(daemon.data().join("microvms/0123456789abcdef0123456789abcdef")).unwrap();
    daemon.spawn();
    assert_eq!(daemon.until(&runs, |record| state(record) == "running")["vmm_pid"], pids[0]);
    let before = daemon.ok(&["logs", "runs"]).lines().count();
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.ok(&["logs", "runs"]).lines().count() > before, "its output is not read any more");
    // It is still paused, and goes on when it is told to.
    assert_eq!(state(&daemon.record(&paused)), "paused");
    daemon.ok(&["unpause", "paused"]);
    daemon.ok(&["stop", "--time", "1", "paused"]);
    let lost = daemon.record(&dies);
    assert_eq!((state(&lost), &lost["exit"]["status"]), ("failed", &json!(125)));
    let again = daemon.until(&returns, |record| state(record) == "running");
    assert_ne!(again["vmm_pid"], pids[3]);
    assert_eq!(state(&daemon.record(&stopped)), "stopped");
    // A daemon that stays starts what is to run always, even what was stopped.
    daemon.until(&started, |record| state(record) == "running");
    assert!(!daemon.data().join("microvms/0123456789abcdef0123456789abcdef").exists());
    // It leaves although somebody follows events, and its VMs do not.
    let mut follower = daemon.hull(&["events"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    daemon.stop();
    assert!(daemon.vmms().contains(&pids[0].as_u64().unwrap()));
    let _it_may_have_noticed = follower.kill();
    follower.wait().unwrap();
}
