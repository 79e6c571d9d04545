//! Volumes, memory and copies of the host's files in containers of real guests.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/hull.rs"]
mod support;

use std::fs;

use support::{Hull, furnished};

/// What a command in a running container prints.
fn exec(hull: &Hull, name: &str, script: &str) -> String {
    hull.ok(&["exec", name, "sh", "-c", script])
}

#[test]
fn what_is_mounted_is_there_with_its_limits_and_a_volume_outlives_its_container() {
    let hull = furnished();
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("tree")).unwrap();
    fs::write(host.path().join("tree/file"), "of the host\n").unwrap();
    let tree = format!("{}:/host:ro", host.path().join("tree").display());
    let file = format!("{}:/opt/one/file:ro", host.path().join("tree/file").display());
    // The image's /etc goes into the empty volume, and the guest's own names stay over it.
    let mounts = ["-v", "etc:/etc", "-v", "data:/srv/data", "--mount", "src=data,dst=/ro,readonly,size=64m"];
    let script =
        "echo first >/srv/data/file && cat /ro/file; (echo x >/ro/file) 2>/dev/null || echo read-only
        cat /host/file /opt/one/file; (echo x >/host/file) 2>/dev/null || echo read-only
        dd if=/dev/zero of=/memory/x bs=64k 2>/dev/null || wc -c </memory/x; stat -c %a /memory
        grep -c ^root: /etc/passwd; cat /etc/hostname; echo changed >>/etc/passwd; ls /srv/data";
    let more =
        ["-v", &tree, "-v", &file, "--tmpfs", "/memory:size=1m,mode=700", "--hostname", "named", "busybox"];
    let said = hull.ok(&[&["run", "--rm"], &mounts[..], &more, &["sh", "-c", script]].concat());
    let expected = "first\nread-only\nof the host\nof the host\nread-only\n1048576\n700\n1\nnamed\nfile\n";
    assert_eq!(said, expected, "{}", hull.daemon_log());
    // Another container, the same volumes; what the host's files are is looked up again.
    fs::write(host.path().join("tree/file"), "anew\n").unwrap();
    let script = "cat /srv/data/file /host/file; tail -n 1 /etc/passwd; cat /etc/hostname";
    let more = ["-v", &tree, "--hostname", "other", "--read-only", "busybox"];
    let said = hull.ok(&[&["run", "--rm"], &mounts[..], &more, &["sh", "-c", script]].concat());
    assert_eq!(said, "first\nanew\nchanged\nother\n");
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "data\netc\n");
    hull.ok(&["volume", "rm", "etc", "data"]);
}

#[test]
fn a_volume_has_one_writer_grows_under_it_and_is_whole_when_that_is_removed() {
    let hull = furnished();
    hull.ok(&["volume", "create", "--size", "32m", "grow"]);
    let stay = ["sh", "-c", "echo ready; while :; do sleep 1; done"];
    hull.ok(&[&["run", "-d", "--name", "holder", "-v", "grow:/data", "busybox"], &stay[..]].concat());
    let second = hull.hull(&["run", "--rm", "-v", "grow:/data", "busybox", "true"]);
    assert!(second.status == 125 && second.stderr.contains("attached to holder, which writes"), "{second:?}");
    let size = "df -k /data | tail -n 1 | awk '{print $2}'";
    let kib = |text: String| text.trim().parse::<u64>().unwrap();
    let before = kib(exec(hull, "holder", size));
    assert!(before < 32 << 10, "{before} KiB");
    let full = "dd if=/dev/zero of=/data/fill bs=1M 2>&1 | grep -c 'No space left'";
    assert_eq!(exec(hull, "holder", full), "1\n");
    hull.ok(&["volume", "resize", "grow", "160m"]);
    let after = kib(exec(hull, "holder", size));
    assert!(after > before + (96 << 10), "{before} KiB, then {after} KiB: {}", hull.daemon_log());
    // Not written out when its microVM is removed by force.
    exec(hull, "holder", "dd if=/dev/zero of=/data/more bs=1M count=48 2>/dev/null && echo kept >/data/kept");
    let refused = hull.hull(&["volume", "resize", "grow", "64m"]);
    assert!(refused.status == 1 && refused.stderr.contains("can be made larger"), "{refused:?}");
    hull.ok(&["rm", "-f", "holder"]);
    let script = "cat /data/kept; wc -c </data/more; (echo x >/data/kept) 2>/dev/null || echo read-only; grep -c ' /data ext4 ro' /proc/mounts";
    let said = hull.ok(&["run", "--rm", "-v", "grow:/data:ro", "busybox", "sh", "-c", script]);
    assert_eq!(said, format!("kept\n{}\nread-only\n1\n", 48 << 20));
    hull.ok(&["volume", "rm", "grow"]);
}
