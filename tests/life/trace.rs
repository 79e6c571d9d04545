//! One id leads from a request to what was logged because of it, in every log.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::support::Daemon;
use super::{path, state, tell};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What the daemon has logged in a trace.
fn logged(daemon: &Daemon, trace: &str) -> Vec<Value> {
    let log = daemon.log();
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let events: Vec<Value> = log.lines().map(line).collect();
    events.into_iter().filter(|event| event["span"]["trace"] == trace).collect()
}

fn find<'a>(events: &'a [Value], message: &str) -> &'a Value {
    let found = events.iter().find(|event| event["message"] == message);
    found.unwrap_or_else(|| panic!("'{message}' is not in {events:#?}"))
}

#[test]
fn a_request_is_found_in_every_log_by_its_trace() {
    let daemon = Daemon::start_within(&["env", "HULL_LOG=debug"], &["--log-format", "json"]);
    let id = daemon.create("traced", &["stay"], json!({}));
    let parent = format!("00-{ID}-00f067aa0ba902b7-01");
    let start = format!("POST {}", path(&id, "/start"));
    let started = daemon.request(&start, &[("traceparent", &parent)], None).unwrap();
    assert_eq!((started.status, started.headers["hull-trace-id"].as_str()), (200, ID));
    assert_eq!(started.json()["trace"], ID);
    let vmm = fs::read_to_string(daemon.data().join("microvms").join(&id).join("vmm.log")).unwrap();
    assert_eq!(vmm, format!("hull-vmm[{ID}]: stands in for {id}\n"));
    // The end is the run's, whoever asks for it.
    let stopped = tell(&daemon, 200, &format!("POST {}", path(&id, "/stop")), None);
    assert_eq!((state(&stopped), &stopped["trace"]), ("stopped", &json!(ID)));
    let events = logged(&daemon, ID);
    let answered = find(&events, "request answered");
    assert_eq!((&answered["status"], &answered["level"]), (&json!(200), &json!("DEBUG")));
    assert!(answered["path"].as_str().unwrap().contains(&path(&id, "/start")), "{answered}");
    for (message, field, value) in
        [("microVM started", "level", json!("INFO")), ("microVM ended", "status", json!(143))]
    {
        let event = find(&events, message);
        assert_eq!((&event[field], &event["span"]["id"]), (&value, &json!(id)), "{event}");
    }
    assert_eq!(find(&events, "microVM ended")["reason"], "the guest powered off");
    let audit: Vec<Value> = serde_json::from_str(&daemon.ok(&["audit", "--format", "json"])).unwrap();
    let traced: Vec<&Value> = audit.iter().filter(|entry| entry["trace"] == ID).collect();
    assert!(matches!(traced[..], [entry] if entry["object"] == path(&id, "/start").as_str()), "{audit:#?}");
}

#[test]
fn a_request_that_fails_says_its_trace_and_nobody_writes_into_the_log() {
    let daemon = Daemon::start_within(&["env", "HULL_LOG=debug", "HULL_LOG_FORMAT=json"], &[]);
    let long = format!("GET /v1/{}", "x".repeat(20_000));
    for (line, parent) in [("GET /v1/microvms/nobody", "00-soon"), (long.as_str(), ID)] {
        let refused = daemon.request(line, &[("traceparent", parent)], None).unwrap();
        let trace = refused.headers["hull-trace-id"].clone();
        assert!(refused.status == 404 && trace.len() == 32 && trace != ID, "{refused:?}");
        assert_eq!(refused.json()["trace"], trace.as_str());
        assert_eq!(find(&logged(&daemon, &trace), "request answered")["status"], 404);
    }
    assert!(daemon.log().lines().all(|line| line.len() < 2000), "{}", daemon.log());
    let mut unknown = Command::new(env!("CARGO_BIN_EXE_hull"));
    unknown.arg("serve").env("HULL_LOG_FORMAT", "yaml").env("HULL_RUN_DIR", daemon.dir.path().join("run"));
    let unknown = unknown.env("HULL_DATA_DIR", daemon.data()).output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("write human or json"), "{said}");
}
