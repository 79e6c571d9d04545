//! Files in and out of a container that runs, and its processes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;

use hull_protocol::agent::{AgentError, AgentErrorKind, ProcessSpec};
use hull_protocol::transfer::{Answer, FileKind, FileStat, Query, chunk_prefix};

use crate::host::{Agent, Control, Started, beside, read_message, shell};

/// A container whose own process waits.
fn container(name: &str, change: impl FnOnce(&Path)) -> (Agent, Control, Started) {
    let agent = Agent::with_image(name, change);
    let mut control = agent.ready();
    let script = "mkdir -p /own/tree/deep; echo inside >/own/tree/file; ln -s /own/tree/file /own/link
        ln -s ../../../../etc /own/up; echo runs; exec sleep 1000";
    let mut started = agent.start(&mut control, shell(script)).unwrap();
    assert_eq!(started.line(), "runs");
    (agent, control, started)
}

fn stat(agent: &Agent, path: &str, follow: bool) -> Result<FileStat, AgentError> {
    match agent.query(&Query::Stat { path: path.into(), follow }).1? {
        Answer::Stat(stat) => Ok(stat),
        other => panic!("{other:?}"),
    }
}

fn pack(agent: &Agent, path: &str) -> Result<Vec<u8>, AgentError> {
    let (mut connection, answer) = agent.query(&Query::Pack { path: path.into(), follow: false, name: None });
    answer?;
    let mut bytes = Vec::new();
    loop {
        let mut prefix = [0; 4];
        connection.read_exact(&mut prefix).unwrap();
        let length = u32::from_le_bytes(prefix) as usize;
        if length == 0 {
            return read_message::<Result<(), AgentError>>(&mut connection).map(|()| bytes);
        }
        let start = bytes.len();
        bytes.resize(start + length, 0);
        connection.read_exact(&mut bytes[start..]).unwrap();
    }
}

fn send(connection: &mut UnixStream, bytes: &[u8]) {
    for chunk in bytes.chunks(60_000) {
        connection.write_all(&chunk_prefix(chunk.len()).unwrap()).unwrap();
        connection.write_all(chunk).unwrap();
    }
    connection.write_all(&[0; 4]).unwrap();
}

fn unpack(agent: &Agent, path: &str, keep_owner: bool, bytes: &[u8]) -> Result<(), AgentError> {
    let (mut connection, answer) = agent.query(&Query::Unpack { path: path.into(), keep_owner });
    answer?;
    send(&mut connection, bytes);
    read_message(&mut connection)
}

#[test]
fn paths_are_the_containers_and_lead_nowhere_else() {
    let (agent, _control, _main) = container("files-paths", |_| {});
    let file = stat(&agent, "/own/tree/file", false).unwrap();
    assert_eq!((file.path.as_str(), file.kind, file.size), ("/own/tree/file", FileKind::File, 7));
    let link = stat(&agent, "own/link", false).unwrap();
    assert_eq!((link.kind, link.link_target.as_deref()), (FileKind::Link, Some("/own/tree/file")));
    assert_eq!(stat(&agent, "/own/link", true).unwrap().path, "/own/tree/file");
    // Above the root there is the root.
    assert_eq!(stat(&agent, "/../../own/up", true).unwrap().path, "/etc");
    assert_eq!(stat(&agent, "/own/up/plain", true).unwrap().path, "/etc/plain");
    assert_eq!(stat(&agent, "/", true).unwrap().kind, FileKind::Directory);
    assert_eq!(stat(&agent, "/dev/null", true).unwrap().kind, FileKind::Special);
    for (path, kind) in [
        ("/missing", AgentErrorKind::NotFound),
        ("/etc/plain/x", AgentErrorKind::Invalid),
        ("/a\0b", AgentErrorKind::Invalid),
        (&"x/".repeat(3000), AgentErrorKind::Invalid),
        // A link of the kernel's to somewhere else altogether.
        ("/proc/1/root/etc", AgentErrorKind::Failed),
        ("/proc/1/cwd/x", AgentErrorKind::Failed),
    ] {
        assert_eq!(stat(&agent, path, true).unwrap_err().kind, kind, "{path:?}");
    }
}

#[test]
fn a_tree_goes_out_and_in_again() {
    let (agent, mut control, _main) = container("files-tree", |root| {
        fs::write(root.join("etc/big"), vec![b'x'; 3 << 20]).unwrap();
    });
    let bytes = pack(&agent, "/own/tree").unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("archive"), &bytes).unwrap();
    let tar = std::process::Command::new("tar").args(["tf", "archive"]).current_dir(dir.path()).output();
    let mut names: Vec<String> =
        String::from_utf8(tar.unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["tree/", "tree/deep/", "tree/file"]);
    unpack(&agent, "/tmp", false, &bytes).unwrap();
    unpack(&agent, "/tmp", false, &pack(&agent, "/etc/big").unwrap()).unwrap();
    let script = "cmp /tmp/big /etc/big && diff -r /own/tree /tmp/tree && cat /tmp/tree/file";
    let outcome = agent.start(&mut control, beside("look", script)).unwrap().finish(&mut control);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("inside\n", 0), "{outcome:?}");
    // Of the root, without what the kernel has in it.
    let all = pack(&agent, "/").unwrap();
    fs::write(dir.path().join("archive"), &all).unwrap();
    let tar = std::process::Command::new("tar").args(["tf", "archive"]).current_dir(dir.path()).output();
    let names = String::from_utf8(tar.unwrap().stdout).unwrap();
    assert!(names.contains("./own/tree/file\n") && names.contains("./dev/null\n"));
    assert!(!names.contains("./proc/1") && !names.contains("./sys/class"));
}

#[test]
fn owners_are_kept_where_that_is_wanted() {
    let (agent, mut control, _main) = container("files-owners", |root| {
        fs::write(root.join("etc/webs"), "x").unwrap();
        std::os::unix::fs::chown(root.join("etc/webs"), Some(33), Some(34)).unwrap();
    });
    let bytes = pack(&agent, "/etc/webs").unwrap();
    unpack(&agent, "/tmp", false, &bytes).unwrap();
    unpack(&agent, "/var", true, &bytes).unwrap();
    let spec = beside("look", "stat -c '%u:%g' /tmp/webs /var/webs");
    assert_eq!(agent.start(&mut control, spec).unwrap().finish(&mut control).stdout, "0:0\n33:34\n");
}

#[test]
fn the_containers_own_mounts_are_written_and_links_are_not_followed_out() {
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = outside.path().to_owned();
    let (agent, mut control, _main) = container("files-mounts", |root| {
        symlink(&elsewhere, root.join("escape")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        symlink(&elsewhere, root.join("dir/deep")).unwrap();
        fs::write(root.join("etc/deep"), "x").unwrap();
    });
    // The container's own tmpfs, which the guest's root does not show.
    unpack(&agent, "/dev/shm", false, &pack(&agent, "/own/tree").unwrap()).unwrap();
    let outcome =
        agent.start(&mut control, beside("look", "cat /dev/shm/tree/file")).unwrap().finish(&mut control);
    assert_eq!(outcome.stdout, "inside\n");
    assert!(!agent.root().join("dev/shm/tree").exists());
    // The link's target is a path of the container's, where there is nothing.
    let error = unpack(&agent, "/escape", false, &[]).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::NotFound);
    let through = tempfile::tempdir().unwrap();
    fs::create_dir_all(through.path().join("dir/deep")).unwrap();
    fs::write(through.path().join("dir/deep/file"), "x").unwrap();
    let tar =
        std::process::Command::new("tar").args(["c", "dir/deep/file"]).current_dir(through.path()).output();
    let error = unpack(&agent, "/", false, &tar.unwrap().stdout).unwrap_err();
    assert!(error.kind == AgentErrorKind::Invalid && error.message.contains("symbolic link"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_written_is_said_and_what_is_no_archive_too() {
    let (agent, _control, _main) = container("files-bad", |_| {});
    assert_eq!(unpack(&agent, "/etc/plain", false, &[]).unwrap_err().kind, AgentErrorKind::Invalid);
    let error = unpack(&agent, "/tmp", false, &[b'x'; 100_000]).unwrap_err();
    assert!(error.kind == AgentErrorKind::Invalid && error.message.contains("archive"), "{error}");
    let error = unpack(&agent, "/proc/sys", false, &pack(&agent, "/own/tree").unwrap()).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Failed, "{error}");
    // A host that breaks off, one that sends nonsense, one that says nothing.
    let (mut connection, answer) = agent.query(&Query::Unpack { path: "/tmp".into(), keep_owner: false });
    answer.unwrap();
    connection.write_all(&[0xff; 16]).unwrap();
    assert!(read_message::<Result<(), AgentError>>(&mut connection).is_err());
    let (connection, answer) = agent.query(&Query::Unpack { path: "/tmp".into(), keep_owner: false });
    answer.unwrap();
    drop(connection);
    let (connection, answer) = agent.query(&Query::Pack { path: "/".into(), follow: true, name: None });
    answer.unwrap();
    drop(connection);
    for name in ["", "..", "a/b"] {
        let query = Query::Pack { path: "/etc".into(), follow: true, name: Some(name.into()) };
        assert_eq!(agent.query(&query).1.unwrap_err().kind, AgentErrorKind::Invalid);
    }
    assert!(stat(&agent, "/etc", true).is_ok());
}

#[test]
fn before_the_start_there_is_nothing() {
    let agent = Agent::new("files-early");
    assert_eq!(agent.query(&Query::Processes).1.unwrap_err().kind, AgentErrorKind::Invalid);
    let _control = agent.ready();
    assert_eq!(stat(&agent, "/", true).unwrap_err().kind, AgentErrorKind::Invalid);
}

#[test]
fn processes_are_listed_as_the_container_knows_them() {
    let (agent, mut control, _main) = container("top", |_| {});
    let spec = ProcessSpec { user: "web".into(), ..beside("other", "sleep 77 & echo up; wait") };
    let mut other = agent.start(&mut control, spec).unwrap();
    assert_eq!(other.line(), "up");
    // The shell does not wait until its child is the program that it asked for.
    let listed = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let Answer::Processes(all) = agent.query(&Query::Processes).1.unwrap() else { panic!() };
        all.iter().any(|process| process.command == "sleep 77").then_some(all)
    });
    let all = listed.unwrap();
    let line = |process: &hull_protocol::exec::ContainerProcess| {
        (process.user.clone(), process.ppid, process.command.clone())
    };
    assert_eq!((all[0].pid, line(&all[0])), (1, ("root".into(), 0, "sleep 1000".into())));
    let shell = all.iter().find(|process| process.command.starts_with("sh -c sleep 77")).unwrap();
    assert_eq!((shell.user.as_str(), shell.ppid), ("web", 0));
    let child = all.iter().find(|process| process.command == "sleep 77").unwrap();
    assert_eq!(child.ppid, shell.pid);
    assert_eq!(all.len(), 3, "{all:?}");
}
