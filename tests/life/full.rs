//! The disk of the daemon's data is full while microVMs run.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::support::{Daemon, spec};
use super::{path, state, tell};

/// A small disk, which goes with its test.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512m", "none"])
            .arg(disk.0.path())
            .status();
        assert!(mounted.unwrap().success());
        disk
    }

    /// Takes every byte that is free; the file that does.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        for size in [1 << 20, 4096, 1] {
            let full = (0..1 << 20).find_map(|_| file.write_all(&vec![1; size]).err()).unwrap();
            assert_eq!(full.kind(), ErrorKind::StorageFull);
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn is_whole(state: &Path) -> bool {
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";
    let output = Command::new("python3").args(["-c", script]).arg(state).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout == b"ok\n"
}

#[test]
fn a_full_disk_refuses_what_is_new_and_what_runs_goes_on() {
    let disk = Disk::new();
    let mut daemon = Daemon::start_in(disk.0.path(), &[]);
    let runs = daemon.run("runs", &["tick", "20"], json!({}));
    let created = daemon.create("created", &["stay"], json!({}));
    let [stops, killed, removed, ends, returns] =
        ["stops", "killed", "removed", "ends", "returns"].map(|name| {
            let command = if name == "ends" { ["sleep", "2000"] } else { ["stay", ""] };
            let restart = if name == "returns" { "always" } else { "no" };
            daemon.run(name, &command, json!({"restart": restart}))
        });
    let pid = daemon.record(&runs)["vmm_pid"].clone();
    let ballast = disk.fill();
    let start = format!("POST {}", path(&created, "/start"));
    let news = [
        ("POST /v1/microvms", Some(spec("new", &["stay"], json!({})))),
        ("POST /v1/volumes", Some(json!({"name": "new", "size": 32 << 20}))),
        (start.as_str(), None),
    ];
    for (line, body) in news {
        let refused = tell(&daemon, 507, line, body);
        assert_eq!(refused["type"], "/problems/no-space");
        assert!(refused["detail"].as_str().unwrap().contains("are free on the disk of"), "{refused}");
    }
    // Whatever is there can be ended and removed: that is how room comes.
    assert_eq!(
        state(&tell(&daemon, 200, &format!("POST {}", path(&stops, "/stop?grace=5")), None)),
        "stopped"
    );
    tell(&daemon, 204, &format!("POST {}", path(&killed, "/kill")), None);
    tell(&daemon, 204, &format!("DELETE {}", path(&removed, "?force=true")), None);
    daemon.until(&ends, |record| state(record) == "stopped");
    daemon.until(&killed, |record| state(record) == "stopped");
    // So does one that comes now, of which nothing is lost.
    daemon.kill();
    let _there_again = disk.fill();
    daemon.spawn();
    let found = |name: &str| daemon.record(name);
    assert_eq!(daemon.until(&runs, |record| state(record) == "running")["vmm_pid"], pid);
    daemon.until(&returns, |record| state(record) == "running");
    for (name, expected) in
        [(&stops, "stopped"), (&killed, "stopped"), (&ends, "stopped"), (&created, "created")]
    {
        assert_eq!(state(&found(name)), expected);
    }
    assert_eq!(daemon.ask("GET", &path(&removed, ""), None).0, 404);
    // There is room again: everything goes on by itself.
    fs::remove_file(ballast).unwrap();
    tell(&daemon, 200, &start, None);
    daemon.run("new", &["stay"], json!({}));
    let before = daemon.ok(&["logs", "runs"]).lines().count();
    thread::sleep(Duration::from_millis(500));
    assert!(daemon.ok(&["logs", "runs"]).lines().count() > before, "its output is not kept any more");
    let all = daemon.ask("GET", "/v1/microvms", None).1;
    assert_eq!(all.as_array().map(Vec::len), Some(7), "{all}");
    let databases: Vec<PathBuf> = (fs::read_dir(daemon.data()).unwrap().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "db"))
        .collect();
    // Nobody else may read it while a daemon does.
    daemon.kill();
    assert_eq!(databases.len(), 1, "{databases:?}");
    assert!(is_whole(&databases[0]));
}
