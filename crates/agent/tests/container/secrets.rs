//! Secrets: files in memory, for whom they are, and nowhere else.

use std::fs;
use std::os::unix::fs::symlink;

use hull_protocol::agent::{AgentErrorKind, Command, Mount, MountSource, Secret};
use hull_protocol::secret::{SECRET_MAX, SecretValue};

use crate::host::{Agent, Control, Options, beside, shell};

fn at(target: &str, number: u32) -> Mount {
    Mount { target: target.into(), source: MountSource::Secret(number) }
}

fn secret(number: u32, mode: u32, (uid, gid): (u32, u32), value: &[u8]) -> Command {
    let value = SecretValue::new(value.to_vec()).unwrap();
    Command::Secret(Box::new(Secret { number, mode, uid, gid, value }))
}

/// An agent whose container has these mounts.
fn agent(name: &str, mounts: Vec<Mount>, change: impl FnOnce(&std::path::Path)) -> Agent {
    Agent::with(name, Options { mounts, ..Options::default() }, change)
}

fn outcome(agent: &Agent, control: &mut Control, script: &str) -> (i32, String) {
    let started = agent.start(control, shell(script)).unwrap();
    let outcome = started.finish(control);
    (outcome.status, outcome.stdout + &outcome.stderr)
}

#[test]
fn a_secret_is_a_file_in_memory_for_whom_it_is() {
    let mounts = vec![at("/run/secrets/db", 0), at("/etc/key", 1)];
    let agent = agent("secrets", mounts, |root| fs::write(root.join("etc/key"), "of the image").unwrap());
    let mut control = agent.ready();
    control.ask(secret(0, 0o444, (0, 0), b"hunter2")).unwrap();
    control.ask(secret(1, 0o400, (33, 34), &[b'k'; SECRET_MAX])).unwrap();
    let script = "cat /run/secrets/db; echo; stat -c '%a %u:%g %s' /run/secrets/db /etc/key; \
        grep -E ' /(run/secrets/db|etc/key) ' /proc/self/mounts | cut -d ' ' -f 3,4 | cut -d , -f 1-4; \
        echo x 2>/dev/null >/run/secrets/db || echo read-only; rm -f /run/secrets/db 2>/dev/null || echo stays; \
        ls /run/hull 2>/dev/null || echo hidden; sleep 60 & wait";
    let mut started = agent.start(&mut control, shell(script)).unwrap();
    let said: Vec<String> = (0..8).map(|_| started.line()).collect();
    let tight = "tmpfs ro,nosuid,nodev,noexec";
    let files = ["hunter2", "444 0:0 7", &format!("400 33:34 {SECRET_MAX}")];
    assert_eq!(said[..3], files);
    assert_eq!(said[3..], [tight, tight, "read-only", "stays", "hidden"]);
    // Those that join it see the same.
    let joined =
        agent.start(&mut control, beside("joined", "cat /run/secrets/db; head -c 1 /etc/key")).unwrap();
    assert_eq!(joined.finish(&mut control).stdout, "hunter2k");
    let mut other = beside("other", "cat /run/secrets/db; cat /etc/key 2>/dev/null || echo refused");
    other.user = "1000:1000".into();
    let other = agent.start(&mut control, other).unwrap();
    assert_eq!(other.finish(&mut control).stdout, "hunter2refused\n");
    control.signal(9, true).unwrap();
    // What the container's disk has of it is a name.
    assert_eq!(fs::read(agent.root().join("run/secrets/db")).unwrap(), b"");
    assert_eq!(fs::read(agent.root().join("etc/key")).unwrap(), b"of the image");
}

#[test]
fn links_lead_a_secret_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let mounts = vec![at("/run/secrets/db", 0), at("/etc/key", 1)];
    let agent = agent("secret-links", mounts, |root| {
        symlink("../../../../../var", root.join("run")).unwrap();
        symlink(&victim, root.join("etc/key")).unwrap();
    });
    let mut control = agent.ready();
    control.ask(secret(0, 0o444, (0, 0), b"one")).unwrap();
    control.ask(secret(1, 0o444, (0, 0), b"two")).unwrap();
    let (status, said) = outcome(&agent, &mut control, "cat /var/secrets/db /etc/key");
    assert_eq!((status, said.as_str()), (0, "onetwo"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read(agent.root().join("var/secrets/db")).unwrap(), b"");
}

#[test]
fn a_secret_comes_once_and_before_the_start() {
    let agent = agent("secret-order", vec![at("/run/secrets/db", 0)], |_| {});
    let mut control = agent.connect();
    let kind =
        |control: &mut Control, number| control.ask(secret(number, 0o444, (0, 0), b"x")).unwrap_err().kind;
    assert_eq!(kind(&mut control, 0), AgentErrorKind::Invalid);
    control.ask(Command::Setup(Box::new(agent.setup()))).unwrap();
    assert_eq!(kind(&mut control, 1), AgentErrorKind::Invalid);
    let error = agent.start(&mut control, shell("true")).err().unwrap();
    assert!(error.message.contains("/run/secrets/db: the secret's value was not given"), "{error}");
    control.ask(secret(0, 0o7777, (0, 0), b"x")).unwrap();
    assert_eq!(kind(&mut control, 0), AgentErrorKind::Failed);
    let (status, said) = outcome(&agent, &mut control, "stat -c %a /run/secrets/db");
    assert_eq!((status, said.as_str()), (0, "777\n"));
}
