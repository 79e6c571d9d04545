//! Secrets: what is kept where, for how long, and who is told. The run directory is in memory here.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::{Daemon, spec};
use super::{path, state, tell};

/// What is nowhere to be found.
const VALUE: &str = "the-horse-battery-staple";

fn in_memory() -> Daemon {
    Daemon::start_in(Path::new("/dev/shm"), &[])
}

/// What to post for a microVM with these secrets, whose process does this.
fn with(name: &str, word: &str, secrets: Value) -> Value {
    let mut spec = spec(name, &[word], json!({}));
    spec["container"]["secrets"] = secrets;
    spec
}

fn make(daemon: &Daemon, spec: Value) -> String {
    tell(daemon, 201, "POST /v1/microvms", Some(spec))["id"].as_str().unwrap().to_owned()
}

/// Gives a value; the status of the answer, and what it says.
fn give(daemon: &Daemon, id: &str, name: &str, value: &str) -> (u16, Value) {
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\r\n",
        path(id, &format!("/secrets/{name}")),
        value.len()
    );
    let answer = daemon.say(&(head + value)).unwrap();
    (answer.status, answer.json())
}

fn start(daemon: &Daemon, status: u16, id: &str) -> Value {
    tell(daemon, status, &format!("POST {}", path(id, "/start")), None)
}

/// The files below a directory that have a text in them, but for one directory.
fn found(place: &Path, but: &Path, text: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).unwrap().flatten().map(|entry| entry.path()).filter(|path| path != but);
    let mut all = Vec::new();
    for path in entries {
        let kind = fs::symlink_metadata(&path).map(|found| found.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => all.extend(found(&path, but, text)),
            // The programs and the image are not the daemon's to write, and large.
            Ok(kind) if kind.is_file() && path.file_name() != Some(OsStr::new("vmlinux")) => {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    all.push(path);
                }
            }
            _ => {}
        }
    }
    all
}

#[test]
fn a_start_needs_the_values_and_nobody_else_sees_them() {
    let mut daemon = in_memory();
    let (name, key) =
        (json!({"name": "db"}), json!({"name": "key", "target": "/etc/key", "mode": 256, "uid": 33}));
    let id = make(&daemon, with("has", "secrets", json!([name, key])));
    assert_eq!(give(&daemon, &id, "db", VALUE).0, 204);
    let refused = start(&daemon, 409, &id);
    assert_eq!(refused["type"], "/problems/secret-missing");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("the secret key: give it") && detail.contains("PUT"), "{detail}");
    assert_eq!(state(&daemon.record(&id)), "created");
    assert_eq!(give(&daemon, "has", "key", VALUE).0, 204);
    start(&daemon, 200, &id);
    daemon.until(&id, |record| state(record) == "stopped");
    let sum: u64 = VALUE.bytes().map(u64::from).sum();
    let said = format!("0: 444 0:0, 24 bytes of sum {sum}\n1: 400 33:0, 24 bytes of sum {sum}\n");
    assert_eq!(daemon.ok(&["logs", "has"]), said);
    // They outlive the daemon and the run.
    daemon.kill();
    daemon.spawn();
    start(&daemon, 200, &id);
    daemon.until(&id, |record| state(record) == "stopped");
    assert_eq!(daemon.ok(&["logs", "has"]), said.repeat(2));
    let kept = daemon.dir.path().join("run/secrets");
    assert_eq!(found(&kept, Path::new(""), VALUE).len(), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&kept), mode(&kept.join(&id).join("db"))), (0o700, 0o600));
    // Nowhere else: state, records, logs of the daemon and of who did what, what is shown, what happened.
    let elsewhere = found(daemon.dir.path(), &kept, VALUE);
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let audited = fs::read_to_string(daemon.data().join("audit.jsonl")).unwrap();
    assert!(audited.contains(&path(&id, "/secrets/db")), "{audited}");
    for line in ["/v1/microvms/has", "/v1/microvms", "/v1/events?follow=false", "/v1/audit", "/metrics"] {
        let answer = daemon.request(&format!("GET {line}"), &[], None).unwrap();
        assert!(answer.status == 200 && !answer.text.contains(VALUE), "{line}: {}", answer.text);
    }
    // Forgotten one by one, and all with the microVM.
    tell(&daemon, 204, &format!("DELETE {}", path(&id, "/secrets/key")), None);
    tell(&daemon, 204, &format!("DELETE {}", path(&id, "/secrets/key")), None);
    assert_eq!(start(&daemon, 409, &id)["type"], "/problems/secret-missing");
    daemon.ok(&["rm", "has"]);
    assert!(!kept.join(&id).exists());
    assert!(found(daemon.dir.path(), Path::new(""), VALUE).is_empty());
}

#[test]
fn what_is_no_secret_is_refused() {
    let daemon = in_memory();
    let id = make(&daemon, with("one", "stay", json!([{"name": "db"}])));
    assert_eq!(give(&daemon, &id, "other", VALUE).0, 404);
    assert_eq!(give(&daemon, &id, "..%2Fdb", VALUE).0, 404);
    assert_eq!(give(&daemon, "nobody", "db", VALUE).0, 404);
    tell(&daemon, 404, &format!("DELETE {}", path(&id, "/secrets/other")), None);
    let (status, refused) = give(&daemon, &id, "db", &"x".repeat((512 << 10) + 1));
    assert_eq!((status, &refused["type"]), (413, &json!("/problems/too-large")));
    assert_eq!(give(&daemon, &id, "db", &"x".repeat(512 << 10)).0, 204);
    for (secrets, why) in [
        (json!([{"name": "db", "value": VALUE}]), "value"),
        (json!([{"name": "a/b"}]), "no name"),
        (json!([{"name": "a"}, {"name": "a"}]), "two secrets"),
        (json!([{"name": "a", "target": "/proc/a"}]), "kernel"),
    ] {
        let refused = tell(&daemon, 400, "POST /v1/microvms", Some(with("bad", "stay", secrets)));
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(why) && !detail.contains(VALUE), "{refused}");
    }
    daemon.ok(&["rm", "one"]);
}

#[test]
fn a_run_directory_on_a_disk_takes_none() {
    // Where the build tree is: on a disk, but for those who have it in memory.
    let place = Path::new(env!("CARGO_BIN_EXE_hull")).parent().unwrap();
    let daemon = Daemon::start_in(place, &[]);
    let id = make(&daemon, with("disk", "stay", json!([{"name": "db"}])));
    let (status, refused) = give(&daemon, &id, "db", VALUE);
    if status == 204 {
        return;
    }
    assert_eq!((status, &refused["type"]), (409, &json!("/problems/conflict")));
    assert!(refused["detail"].as_str().unwrap().contains("HULL_RUN_DIR"), "{refused}");
    assert!(found(daemon.dir.path(), Path::new(""), VALUE).is_empty());
}

#[test]
fn after_a_reboot_a_restart_policy_asks_for_them_again() {
    let mut daemon = in_memory();
    let mut spec = with("keeps", "stay", json!([{"name": "db"}]));
    spec["restart"] = json!("always");
    let id = make(&daemon, spec);
    assert_eq!(give(&daemon, &id, "db", VALUE).0, 204);
    start(&daemon, 200, &id);
    // What runs is taken up without them; what has to be started is not.
    daemon.kill();
    let run = daemon.dir.path().join("run");
    let orphan = run.join("secrets").join("0".repeat(32));
    fs::create_dir(&orphan).unwrap();
    fs::write(orphan.join("db"), VALUE).unwrap();
    daemon.spawn();
    assert_eq!(state(&daemon.record(&id)), "running");
    assert!(!orphan.exists(), "what is nobody's stays");
    daemon.kill();
    for pid in daemon.vmms() {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    fs::remove_dir_all(&run).unwrap();
    daemon.spawn();
    let record = daemon.until(&id, |record| state(record) == "failed");
    let error = record["exit"]["error"].as_str().unwrap();
    assert!(error.contains("the secret db: give it") && error.contains("restarted"), "{record}");
    // The same by the client.
    let file = daemon.dir.path().join("file");
    fs::write(&file, VALUE).unwrap();
    daemon.ok(&["start", "--secret", &format!("id=db,src={}", file.display()), "keeps"]);
    assert_eq!(state(&daemon.record(&id)), "running");
    daemon.ok(&["rm", "-f", "keeps"]);
}

#[test]
fn the_client_gives_them_or_leaves_nothing() {
    let daemon = in_memory();
    let flags = ["--network", "none", "--memory", "96m", "--disk-size", "16m", "--name", "client"];
    let file = daemon.dir.path().join("value");
    fs::write(&file, VALUE).unwrap();
    let (by_file, by_name) =
        (format!("id=a,src={}", file.display()), "id=b,env=HULL_DATA_DIR,target=deep/b,mode=0440");
    let secrets = ["--secret", &by_file, "--secret", by_name];
    let words = [&["run", "--rm"][..], &flags, &secrets, &["tree", "secrets"]].concat();
    let said = daemon.ok(&words);
    let [first, second] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(first.starts_with("0: 444 0:0, 24 bytes") && second.starts_with("1: 440 0:0, "), "{said}");
    for bad in ["id=a,src=/nowhere/at/all", "id=a,env=NOT_THERE_AT_ALL", "id=a", "id=a/b,env=HOME"] {
        let words = [&["create"][..], &flags, &["--secret", bad, "tree", "stay"]].concat();
        let output = daemon.hull(&words).output().unwrap();
        assert!(!output.status.success(), "{bad}");
        assert_eq!(daemon.ok(&["ps", "-aq"]), "", "{bad}");
    }
}
