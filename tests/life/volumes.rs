//! Volumes in the API and in the lives of microVMs that are stood in for.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Daemon, daemon, path, spec, state, tell};

const SIZE: u64 = 16 << 20;

/// What to post for a microVM that stays, with these mounts.
fn with(name: &str, mounts: Value) -> Value {
    let mut spec = spec(name, &["stay"], json!({}));
    spec["container"]["mounts"] = mounts;
    spec
}

fn volume(source: &str, read_only: bool) -> Value {
    json!([{"type": "volume", "source": source, "target": "/data", "read_only": read_only, "size": SIZE}])
}

fn make(daemon: &Daemon, name: &str, mounts: Value) -> String {
    tell(daemon, 201, "POST /v1/microvms", Some(with(name, mounts)))["id"].as_str().unwrap().to_owned()
}

fn start(daemon: &Daemon, status: u16, id: &str) -> Value {
    tell(daemon, status, &format!("POST {}", path(id, "/start")), None)
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap()
}

#[test]
fn volumes_are_made_listed_grown_and_removed() {
    let daemon = daemon();
    let create = |key: &str, name: &str| {
        let body = json!({"name": name, "size": SIZE, "labels": {"of": "walk"}});
        daemon.request("POST /v1/volumes", &[("Idempotency-Key", key)], Some(&body)).unwrap()
    };
    let first = create("walk-1", "walk-1");
    assert_eq!((first.status, &first.json()["size"]), (201, &json!(SIZE)), "{}", first.text);
    let again = create("walk-1", "walk-1");
    assert_eq!((again.status, again.headers["idempotency-replayed"].as_str()), (201, "true"));
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(create("walk-1", "walk-2").status, 409);
    let taken = create("walk-9", "walk-1");
    assert!(taken.status == 409 && taken.text.contains("there is a volume walk-1 already"), "{}", taken.text);
    create("walk-2", "walk-2");
    create("walk-3", "walk-3");
    // Page by page, those with the label.
    let (mut line, mut names) = ("GET /v1/volumes?label=of=walk&limit=2".to_owned(), Vec::new());
    loop {
        let page = daemon.request(&line, &[], None).unwrap();
        let listed = page.json();
        names.extend(
            listed.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap().to_owned()),
        );
        let Some(link) = page.headers.get("link") else { break };
        line = format!("GET {}", link.split(['<', '>']).nth(1).unwrap());
    }
    assert_eq!(names, ["walk-1", "walk-2", "walk-3"]);
    let grow =
        |status, size: u64| tell(daemon, status, "PATCH /v1/volumes/walk-1", Some(json!({"size": size})));
    assert_eq!(grow(200, 2 * SIZE)["size"], 2 * SIZE);
    assert!(detail(&grow(409, SIZE)).contains("can be made larger"));
    assert_eq!(tell(daemon, 200, "GET /v1/volumes/walk-1", None)["size"], 2 * SIZE);
    for body in [json!({"size": 1}), json!({"name": "a/b"}), json!({"sice": SIZE})] {
        tell(daemon, 400, "POST /v1/volumes", Some(body));
    }
    for line in ["GET /v1/volumes/nope", "DELETE /v1/volumes/nope"] {
        assert!(detail(&tell(daemon, 404, line, None)).contains("there is no volume 'nope'"));
    }
    daemon.ok(&["volume", "rm", "walk-1", "walk-2", "walk-3"]);
    assert!(!daemon.ok(&["volume", "ls", "-q"]).contains("walk"));
}

#[test]
fn a_volume_has_one_writer_or_readers_whatever_happens_to_the_daemon() {
    let mut daemon = Daemon::start(&[]);
    let (db, other) =
        (make(&daemon, "db", volume("data", false)), make(&daemon, "other", volume("data", false)));
    let readers = [make(&daemon, "r1", volume("data", true)), make(&daemon, "r2", volume("data", true))];
    assert_eq!(state(&start(&daemon, 200, &db)), "running");
    for id in [&other, &readers[0]] {
        let refused = start(&daemon, 409, id);
        assert!(detail(&refused).contains("attached to db, which writes to it"), "{refused}");
        assert_eq!(state(&daemon.record(id)), "created");
    }
    // The next daemon knows, and so does the file itself.
    daemon.kill();
    let file = fs::read_dir(daemon.data().join("volumes")).unwrap().next().unwrap().unwrap().path();
    let locked = Command::new("flock").arg("--nonblock").arg(&file).arg("true").status().unwrap();
    assert!(!locked.success(), "the VMM holds no lock on the volume");
    daemon.spawn();
    assert!(detail(&start(&daemon, 409, &other)).contains("attached to db"));
    let shown = tell(&daemon, 200, "GET /v1/volumes/data", None);
    let attached: Vec<_> =
        shown["users"].as_array().unwrap().iter().map(|user| user["attached"] == true).collect();
    assert_eq!(attached, [true, false, false, false], "{shown}");
    // Grown in use: the VMM and the agent are told; one that is paused cannot be.
    let resize =
        |status, size: u64| tell(&daemon, status, "PATCH /v1/volumes/data", Some(json!({"size": size})));
    assert_eq!(resize(200, 2 * SIZE)["size"], 2 * SIZE);
    tell(&daemon, 200, &format!("POST {}", path(&db, "/pause")), None);
    assert!(detail(&resize(409, 3 * SIZE)).contains("paused"));
    assert_eq!(file.metadata().unwrap().len(), 2 * SIZE);
    daemon.ok(&["unpause", "db"]);
    // When the writer has gone, readers share.
    daemon.ok(&["rm", "-f", "db"]);
    for id in &readers {
        assert_eq!(state(&start(&daemon, 200, id)), "running");
    }
    let refused = start(&daemon, 409, &other);
    assert!(detail(&refused).contains("reads it") && detail(&refused).contains("read-only"), "{refused}");
    // It stays until all that were made with it have gone, and then until it is removed.
    let refused = tell(&daemon, 409, "DELETE /v1/volumes/data", None);
    assert!(detail(&refused).contains("belongs to other, r1, r2"), "{refused}");
    let usage = tell(&daemon, 200, "GET /v1/system/df", None);
    let volumes = usage["kinds"].as_array().unwrap().iter().find(|kind| kind["kind"] == "volumes").unwrap();
    assert_eq!(
        (&volumes["count"], &volumes["active"], &volumes["reclaimable"]),
        (&json!(1), &json!(1), &json!(0))
    );
    daemon.ok(&["rm", "-f", "r1", "r2"]);
    daemon.ok(&["system", "prune"]);
    assert!(file.exists(), "a volume went without being named");
    assert!(daemon.ok(&["system", "prune", "--volumes"]).contains("volume data"));
    assert!(!file.exists());
}

#[test]
fn a_microvm_that_cannot_be_made_leaves_no_volume() {
    let daemon = daemon();
    daemon.create("first", &["stay"], json!({}));
    tell(daemon, 409, "POST /v1/microvms", Some(with("first", volume("orphan", false))));
    tell(daemon, 404, "GET /v1/volumes/orphan", None);
    for (mounts, why) in [
        (json!([{"type": "bind", "source": "/srv", "target": "/x"}]), "not possible yet"),
        (json!([{"type": "volume", "source": "a", "target": "/"}]), "root"),
        (json!([{"type": "volume", "source": "a", "target": "/x", "size": 1}]), "not possible"),
        (json!([{"type": "tmpfs", "target": "/x", "colour": "red"}]), "colour"),
    ] {
        let refused = tell(daemon, 400, "POST /v1/microvms", Some(with("bad", mounts)));
        assert!(detail(&refused).contains(why), "{refused}");
    }
    // What is to be copied is looked for at the start.
    let lost = json!([{"type": "bind", "source": "/nowhere/at/all", "target": "/x", "read_only": true}]);
    let id = make(daemon, "lost", lost);
    let failed = start(daemon, 200, &id);
    assert_eq!(state(&failed), "failed");
    assert!(
        failed["exit"]["error"].as_str().unwrap().contains("/nowhere/at/all cannot be copied"),
        "{failed}"
    );
    daemon.ok(&["rm", "lost", "first"]);
}

#[test]
fn a_daemon_that_is_killed_leaves_no_half_volume() {
    let mut daemon = Daemon::start(&[]);
    let directory: PathBuf = daemon.data().join("volumes");
    for round in 0..6_u64 {
        thread::scope(|scope| {
            for client in 0..2 {
                let daemon = &daemon;
                scope.spawn(move || {
                    for number in 0.. {
                        // Other sizes, other times.
                        let body = json!({"name": format!("v{round}-{client}-{number}"), "size": SIZE << (number % 4)});
                        let Ok((201, _)) = daemon.try_ask("POST", "/v1/volumes", Some(&body)) else { return };
                        let _gone = daemon.try_ask("DELETE", &format!("/v1/volumes/v{round}-{client}-{}", number / 2), None);
                    }
                });
            }
            thread::sleep(Duration::from_millis(40 + 37 * round));
            daemon.kill_now();
        });
        daemon.kill();
        daemon.spawn();
        let listed = tell(&daemon, 200, "GET /v1/volumes", None);
        let known: BTreeSet<String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|volume| format!("{}.ext4", volume["id"].as_str().unwrap()))
            .collect();
        let there: BTreeSet<String> = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, known, "{}", daemon.log());
        for name in &there {
            let checked = Command::new("e2fsck").arg("-fn").arg(directory.join(name)).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }
}
