//! Tenants on one host, over the API: what each has, what it may have, and an attacker who wants what is another's.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "tenants/attacks.rs"]
mod attacks;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/registry.rs"]
mod registry;
#[path = "support/daemon.rs"]
mod support;
#[path = "tenants/tls.rs"]
mod tls;
#[path = "tenants/trust.rs"]
mod trust;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use namespace::Namespace;
use serde_json::{Value, json};
use support::{Answer, Daemon, spec};

/// A daemon in a network namespace of its own, with the tenants `acme` and `mallory`, an image of each, and tokens.
struct Host {
    daemon: Daemon,
    acme: String,
    mallory: String,
    _namespace: Namespace,
}

impl Host {
    fn new(flags: &[&str]) -> Self {
        let namespace = Namespace::new();
        let daemon = Daemon::start_within(&["nsenter", &namespace.flag(), "--"], flags);
        let tree = daemon.dir.path().join("tree");
        for tenant in ["acme", "mallory"] {
            daemon.ok(&["tenant", "create", tenant]);
            daemon.ok(&["--tenant", tenant, "import", tree.to_str().unwrap(), "tree"]);
        }
        let token = |tenant| token(&daemon, tenant, &["--scope", "admin"]);
        Self { acme: token("acme"), mallory: token("mallory"), daemon, _namespace: namespace }
    }

    /// A request by whoever has this token.
    fn ask(&self, token: &str, line: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {token}");
        self.daemon.request(line, &[("Authorization", &bearer)], body).unwrap()
    }

    /// The same, which must succeed.
    fn done(&self, token: &str, line: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(token, line, body);
        assert!((200..300).contains(&answer.status), "{line}: {answer:?}\n{}", self.daemon.log());
        answer.json()
    }

    /// Makes and starts a microVM.
    fn run(&self, token: &str, spec: &Value) -> String {
        let id = self.done(token, "POST /v1/microvms", Some(spec))["id"].as_str().unwrap().to_owned();
        self.done(token, &format!("POST /v1/microvms/{id}/start"), None);
        id
    }
}

/// A new token of a tenant's.
fn token(daemon: &Daemon, tenant: &str, flags: &[&str]) -> String {
    let words = [&["--tenant", tenant, "token", "create"], flags].concat();
    daemon.ok(&words).trim().to_owned()
}

/// Says something over a socket, and prints what is answered.
const SAY: &str = "import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(sys.argv[2].encode())
while said := connection.recv(65536): sys.stdout.buffer.write(said)";

/// A user of the host who says this over the unix socket at this path.
fn user(uid: u32, socket: &Path, words: &str) -> Command {
    let uid = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "/usr/bin/python3", "-c", SAY]);
    command.arg(socket).arg(words);
    command
}

/// Such a user asks for this: the status, 0 where the socket cannot be opened, and the text.
fn as_user(uid: u32, socket: &Path, path: &str) -> (u16, String) {
    let words = format!("GET {path} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\n\r\n");
    let output = user(uid, socket, &words).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (head, text) = said.split_once("\r\n\r\n").unwrap_or(("HTTP/1.1 0", ""));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

fn open_directory(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn users_of_the_host_are_their_tenants() {
    let mut daemon = Daemon::start(&[]);
    open_directory(daemon.dir.path());
    let socket = daemon.socket();
    // Nobody but its owner opens the socket while there is no other user.
    assert_eq!(as_user(4242, &socket, "/v1/system").0, 0);
    daemon.ok(&["tenant", "create", "--uid", "4242", "acme"]);
    let listed = as_user(4242, &socket, "/v1/tenants");
    assert_eq!(
        (listed.0, listed.1.contains("acme"), listed.1.contains("default")),
        (200, true, false),
        "{listed:?}"
    );
    let stranger = as_user(4243, &socket, "/v1/system");
    assert!(stranger.0 == 403 && stranger.1.contains("--uid 4243"), "{stranger:?}");
    assert_eq!(as_user(4242, &socket, "/v1/audit").0, 403);
    // A link to the socket leads to the same door, and a token of somebody's is no better than none where it is bad.
    let link = daemon.dir.path().join("link");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    assert_eq!(as_user(4243, &link, "/v1/system").0, 403);
    // What is beside it in the directory is for its owner alone, and all of it is so for the next daemon, too.
    daemon.run("job", &["stay"], json!({}));
    let beside = daemon.dir.path().join("run").join(&daemon.record("job")["id"].as_str().unwrap()[..12]);
    assert!(beside.is_dir());
    let look = Command::new("setpriv").args(["--reuid", "4242", "--clear-groups", "ls"]).arg(beside).output();
    assert!(!look.unwrap().status.success());
    daemon.kill();
    daemon.spawn();
    assert_eq!(as_user(4242, &socket, "/v1/microvms"), (200, "[]".into()));
    assert_eq!(as_user(4243, &socket, "/v1/system").0, 403);
    let refusals = daemon.ok(&["audit", "--who", "uid:4243", "--format", "json"]);
    assert_eq!(refusals.matches("\"status\": 403").count(), 3, "{refusals}");
    daemon.ok(&["tenant", "update", "--no-uids", "acme"]);
    assert_eq!(as_user(4242, &socket, "/v1/system").0, 0);
    daemon.ok(&["tenant", "rm", "acme"]);
    daemon.ok(&["rm", "-f", "job"]);
}

#[test]
fn quotas_are_kept() {
    let host = Host::new(&[]);
    let (daemon, token) = (&host.daemon, host.acme.as_str());
    let quotas = ["--microvms", "3", "--cpus", "2", "--memory", "256m", "--disk", "65m"];
    daemon.ok(&[&["tenant", "update", "acme", "--networks", "1", "--ports", "2"], &quotas[..]].concat());
    let over = |line: &str, body: Option<Value>, what: &str| {
        let refused = host.ask(token, line, body.as_ref());
        assert_eq!(
            (refused.status, refused.json()["type"].as_str()),
            (409, Some("/problems/over-quota")),
            "{refused:?}"
        );
        assert!(refused.json()["detail"].as_str().unwrap().contains(what), "{refused:?}");
    };
    let make = |name: &str, more: Value| spec(name, &["stay"], more);
    let sized = |name: &str, mib: u64| {
        let container = json!({"image": "tree", "command": ["stay"], "disk_size": mib << 20});
        make(name, json!({"container": container}))
    };
    over("POST /v1/microvms", Some(sized("large", 65)), "bytes of disk");
    let one = host.run(token, &make("one", json!({"cpus": 2})));
    let two = host.done(token, "POST /v1/microvms", Some(&make("two", json!({}))));
    over("POST /v1/microvms/two/start", None, "CPUs");
    over("POST /v1/microvms", Some(sized("third", 33)), "disk");
    host.done(token, "POST /v1/microvms", Some(&sized("third", 32)));
    over("POST /v1/microvms", Some(make("fourth", json!({}))), "microVMs");
    // Who has none left gets one back with the answer to a removal.
    for _ in 0..20 {
        host.done(token, "DELETE /v1/microvms/third", None);
        host.done(token, "POST /v1/microvms", Some(&sized("third", 32)));
    }
    host.done(token, &format!("POST /v1/microvms/{one}/stop?grace=1"), None);
    host.done(token, "POST /v1/microvms/two/start", None);
    host.done(token, "DELETE /v1/microvms/third", None);
    over(
        "POST /v1/microvms",
        Some(make(
            "ports",
            json!({"networking": {"publish": [
        {"port": 1}, {"port": 2}, {"port": 3}]}}),
        )),
        "published ports",
    );
    host.done(token, "POST /v1/networks", Some(&json!({"name": "first"})));
    over("POST /v1/networks", Some(json!({"name": "second"})), "networks");
    // Nobody else is kept from anything, and what is there is counted.
    host.done(&host.mallory, "POST /v1/microvms", Some(&sized("large", 65)));
    let seen = host.done(token, "GET /v1/tenants/acme", None);
    let images = host.done(token, "GET /v1/images", None)[0]["size"].as_u64().unwrap();
    let disk = (32 << 20) + images;
    let used = json!({"microvms": 2, "cpus": 1, "memory": 96 << 20, "disk": disk, "networks": 1, "volumes": 0,
        "ports": 0});
    assert_eq!(seen["used"], used, "{two}");
    assert!(daemon.ok(&["tenant", "ls"]).contains("2 / 3"));
    // A quota that is lowered takes nothing away.
    daemon.ok(&["tenant", "update", "acme", "--cpus", "0", "--memory", "none", "--disk", "32m"]);
    over("POST /v1/images/import?name=more", None, "bytes of disk");
    assert_eq!(host.done(token, "GET /v1/microvms/two", None)["state"], "running");
    host.done(token, "POST /v1/microvms/two/stop?grace=1", None);
    over("POST /v1/microvms/two/start", None, "CPUs");
    let refused = daemon.hull(&["tenant", "rm", "acme"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("2 microVMs, 1 networks and 0 volumes"),
        "{refused:?}"
    );
}

#[test]
fn volumes_are_their_tenants_disk() {
    let host = Host::new(&[]);
    let (daemon, token, mib) = (&host.daemon, host.acme.as_str(), 1_u64 << 20);
    daemon.ok(&["tenant", "update", "acme", "--disk", "65m", "--volumes", "2"]);
    let over = |line: &str, body: Value, what: &str| {
        let refused = host.ask(token, line, Some(&body));
        let answer = refused.json();
        assert_eq!((refused.status, &answer["type"]), (409, &json!("/problems/over-quota")), "{refused:?}");
        assert!(answer["detail"].as_str().unwrap().contains(what), "{refused:?}");
    };
    let sized = |name: &str, size: u64, mounts: Value| {
        let container = json!({"image": "tree", "command": ["stay"], "disk_size": size, "mounts": mounts});
        spec(name, &["stay"], json!({"container": container}))
    };
    let volume = |name: &str| json!({"type": "volume", "source": name, "target": format!("/{name}"), "size": 16 * mib});
    over("POST /v1/volumes", json!({"name": "data", "size": 65 * mib}), "bytes of disk");
    host.done(token, "POST /v1/volumes", Some(&json!({"name": "data", "size": 16 * mib})));
    over("PATCH /v1/volumes/data", json!({"size": 65 * mib}), "bytes of disk");
    host.done(token, "PATCH /v1/volumes/data", Some(&json!({"size": 32 * mib})));
    // A microVM's disk and a volume take of each other.
    over("POST /v1/microvms", sized("one", 33 * mib, json!([])), "bytes of disk");
    over("POST /v1/microvms", sized("one", 32 * mib, json!([volume("new")])), "bytes of disk");
    assert_eq!(host.ask(token, "GET /v1/volumes/new", None).status, 404);
    host.done(token, "POST /v1/microvms", Some(&sized("one", 32 * mib, json!([volume("data")]))));
    over("PATCH /v1/volumes/data", json!({"size": 34 * mib}), "bytes of disk");
    over("POST /v1/volumes", json!({"name": "more", "size": 16 * mib}), "bytes of disk");
    let seen = host.done(token, "GET /v1/tenants/acme", None);
    let images = host.done(token, "GET /v1/images", None)[0]["size"].as_u64().unwrap();
    assert_eq!((&seen["used"]["volumes"], &seen["used"]["disk"]), (&json!(1), &json!(64 * mib + images)));
    let left = host.done(token, "GET /v1/system/df", None);
    assert_eq!(left["free"], json!(mib - images), "{left}");
    daemon.ok(&["tenant", "update", "acme", "--disk", "none"]);
    let many = sized("two", 32 * mib, json!([volume("second"), volume("third")]));
    over("POST /v1/microvms", many, "volumes");
    assert_eq!(host.done(token, "GET /v1/volumes", None).as_array().unwrap().len(), 1);
    // Nobody else is kept from anything; a tenant stays as long as it has one.
    host.done(&host.mallory, "POST /v1/volumes", Some(&json!({"name": "data", "size": 80 * mib})));
    daemon.ok(&["--tenant", "acme", "rm", "one"]);
    let refused = daemon.hull(&["tenant", "rm", "acme"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("0 microVMs, 0 networks and 1 volumes"),
        "{refused:?}"
    );
    daemon.ok(&["--tenant", "acme", "volume", "rm", "data"]);
    daemon.ok(&["tenant", "rm", "acme"]);
}

#[test]
fn of_many_at_once_as_many_are_made_as_may_be() {
    let host = Host::new(&[]);
    host.daemon.ok(&["tenant", "update", "acme", "--microvms", "4", "--cpus", "2", "--volumes", "3"]);
    let passed = |line: &(dyn Fn(usize) -> (String, Option<Value>) + Sync)| {
        std::thread::scope(|scope| {
            let ask = |number| {
                let (line, body) = line(number);
                host.ask(&host.acme, &line, body.as_ref()).status
            };
            let all: Vec<_> = (0..12).map(|number| scope.spawn(move || ask(number))).collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|status| *status < 300).count()
        })
    };
    let name = |number| format!("many{number}");
    let made =
        passed(&|number| ("POST /v1/microvms".into(), Some(spec(&name(number), &["stay"], json!({})))));
    assert_eq!(made, 4);
    let started = passed(&|number| (format!("POST /v1/microvms/{}/start", name(number)), None));
    assert_eq!(started, 2);
    let volume = |number| json!({"name": name(number), "size": 16 << 20});
    assert_eq!(passed(&|number| ("POST /v1/volumes".into(), Some(volume(number)))), 3);
}

#[test]
fn who_asks_too_often_waits_alone() {
    let host = Host::new(&[]);
    host.daemon.ok(&["tenant", "update", "mallory", "--requests", "1"]);
    let answers: Vec<Answer> = (0..40).map(|_| host.ask(&host.mallory, "GET /v1/microvms", None)).collect();
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && answers[0].status == 200, "{answers:?}");
    assert!(refused.iter().all(|answer| answer.headers["retry-after"].parse::<u64>().unwrap() >= 1));
    host.done(&host.acme, "GET /v1/microvms", None);
    host.daemon.ok(&["tenant", "update", "mallory", "--requests", "none"]);
    host.done(&host.mallory, "GET /v1/microvms", None);
}

/// A stream that somebody with this token has open, read up to its answer's head.
fn stream(daemon: &Daemon, token: &str, line: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: hull-stream\r\n";
    let bearer = format!("Authorization: Bearer {token}\r\n");
    write!(stream, "{line} HTTP/1.1\r\nHost: hull\r\n{bearer}{upgrade}Content-Length: 0\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(["HTTP/1.1 101 ", "HTTP/1.1 200 "].iter().any(|good| head.starts_with(good)), "{line}: {head}");
    stream
}

#[test]
fn a_stream_ends_with_the_right_to_it() {
    let host = Host::new(&[]);
    let id = host.run(&host.acme, &spec("mine", &["tick", "200"], json!({})));
    let lines = [
        format!("POST /v1/microvms/{id}/attach"),
        format!("GET /v1/microvms/{id}/logs?follow=true"),
        "GET /v1/events".to_owned(),
    ];
    let open = |token: &str| lines.clone().map(|line| stream(&host.daemon, token, &line));
    let (short, back) = (["--expires", "3s"], token(&host.daemon, "acme", &[]));
    let (mut ended, mut stays) = (Vec::from(open(&token(&host.daemon, "acme", &short))), open(&host.acme));
    ended.extend(open(&back));
    host.daemon.ok(&["--tenant", "acme", "token", "rm", &back[5..21]]);
    for mut stream in ended {
        // Reads to the end, which must come.
        let read = std::io::copy(&mut stream, &mut std::io::sink());
        let timeout = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timeout, "a stream goes on\n{}", host.daemon.log());
    }
    // Others go on, longer than that took.
    std::thread::sleep(Duration::from_secs(2));
    for stream in &mut stays[..2] {
        stream.set_nonblocking(true).unwrap();
        let read = std::io::copy(stream, &mut std::io::sink());
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
    }
}
