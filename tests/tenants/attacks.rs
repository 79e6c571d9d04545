//! An attacker with a token of its own wants what another tenant has: no attempt succeeds, and all are written down.

mod volumes;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Answer, spec};
use super::{Host, open_directory, token, user};

/// An id that nobody has.
const MISSING: &str = "0123456789abcdef0123456789abcdef";

/// The attacker, who counts.
struct Attacker<'a> {
    host: &'a Host,
    /// What the audit log calls it.
    who: String,
    attempts: usize,
}

impl<'a> Attacker<'a> {
    fn new(host: &'a Host) -> Self {
        let who = format!("token:{}", &host.mallory[5..21]);
        Self { host, who, attempts: 0 }
    }

    /// The last line of the audit log that is by this one.
    fn last(&self, who: &str) -> Value {
        let path = format!("/v1/audit?limit=1&who={who}");
        let (status, entries) = self.host.daemon.ask("GET", &path, None);
        assert_eq!(status, 200, "{entries}");
        entries[0].clone()
    }

    fn written(&self, who: &str, line: &str, status: u16) {
        let entry = self.last(who);
        let (method, path) = line.split_once(' ').unwrap();
        let path = path.split('?').next().unwrap();
        assert_eq!((&entry["action"], &entry["object"]), (&json!(method), &json!(path)), "{line}");
        assert_eq!(entry["status"], status, "{line}: {entry}");
    }

    /// Asks, is refused with this status, and that is in the audit log.
    fn refused(&mut self, status: u16, line: &str, body: Option<Value>) -> Answer {
        self.attempts += 1;
        let answer = self.host.ask(&self.host.mallory, line, body.as_ref());
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        self.written(&self.who, line, status);
        answer
    }

    /// What is another's answers as what is not there, to the last letter.
    fn missing(&mut self, line: &str, theirs: &str, body: Option<Value>) {
        let there = self.refused(404, &line.replace("THEIRS", theirs), body.clone());
        let nowhere = self.host.ask(&self.host.mallory, &line.replace("THEIRS", MISSING), body.as_ref());
        assert_eq!(nowhere.status, 404, "{line}");
        let there_said = said(&there).replace(&format!("'{theirs}'"), &format!("'{MISSING}'"));
        assert_eq!(there_said, said(&nowhere), "{line}");
        assert_eq!(there.headers.keys().collect::<Vec<_>>(), nowhere.headers.keys().collect::<Vec<_>>());
    }

    /// Somebody with these headers is refused, whoever that is to the audit log.
    fn stranger(&mut self, status: u16, line: &str, headers: &[(&str, &str)], who: &str) {
        self.attempts += 1;
        let answer = self.host.daemon.request(line, headers, None).unwrap();
        assert_eq!(answer.status, status, "{line} {headers:?}: {answer:?}");
        self.written(who, line, status);
    }

    /// What is no request at all.
    fn garbage(&mut self, status: u16, words: &str) {
        self.attempts += 1;
        let answer = self.host.daemon.say(words).unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        let since = Instant::now();
        while self.last("nobody")["status"] != status {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "it is not written down: {}",
                self.last("nobody")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is the victim's, and is as it was.
struct Victim {
    id: String,
    exec: String,
    network: String,
    volume: String,
    record: Value,
}

fn victim(host: &Host) -> Victim {
    let network =
        host.done(&host.acme, "POST /v1/networks", Some(&json!({"name": "inner", "subnet": "10.77.0.0/24"})));
    let networking = json!({"networks": [{"network": "inner"}],
        "publish": [{"port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}]});
    let mut wanted =
        spec("web", &["tick", "100"], json!({"labels": {"secret": "label"}, "networking": networking}));
    wanted["container"]["mounts"] =
        json!([{"type": "volume", "source": "vault", "target": "/data", "size": volumes::SIZE}]);
    let id = host.run(&host.acme, &wanted);
    let exec =
        host.done(&host.acme, &format!("POST /v1/microvms/{id}/exec"), Some(&json!({"command": ["true"]})));
    let record = host.done(&host.acme, "GET /v1/microvms/web", None);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let volume = text(&record["volumes"][0]["id"]);
    Victim { id, exec: text(&exec["id"]), network: text(&network["id"]), volume, record }
}

#[test]
fn an_attacker_gets_nothing_and_is_seen() {
    let host = Host::new(&[]);
    open_directory(host.daemon.dir.path());
    host.daemon.ok(&["tenant", "update", "--uid", "4242", "mallory"]);
    let theirs = victim(&host);
    let mut attacker = Attacker::new(&host);
    objects(&mut attacker, &theirs);
    networks(&mut attacker, &theirs);
    side_doors(&mut attacker, &theirs);
    lists(&mut attacker, &theirs);
    volumes::volumes(&mut attacker, &theirs);
    volumes::files_of_the_host(&mut attacker);
    tokens(&mut attacker, &theirs);
    wire(&mut attacker, &theirs);
    println!("{} attempts", attacker.attempts);
    assert!(attacker.attempts >= 100, "{}", attacker.attempts);
    let mut now = host.done(&host.acme, "GET /v1/microvms/web", None);
    assert_eq!(
        now["cards"][0].as_object_mut().map(|card| card["ip"].clone()),
        Some(theirs.record["cards"][0]["ip"].clone())
    );
    for part in ["id", "name", "state", "revision", "vmm_pid", "started_at", "spec", "tenant"] {
        assert_eq!(now[part], theirs.record[part], "{part}");
    }
}

/// Ids, names, beginnings of ids, and what is below them.
fn objects(attacker: &mut Attacker<'_>, theirs: &Victim) {
    for wanted in [theirs.id.as_str(), "web", &theirs.id[..12], &theirs.id[..1]] {
        attacker.missing("GET /v1/microvms/THEIRS", wanted, None);
    }
    for below in ["start", "stop", "kill", "pause", "restart"] {
        attacker.missing(&format!("POST /v1/microvms/THEIRS/{below}"), &theirs.id, None);
    }
    attacker.missing("DELETE /v1/microvms/THEIRS?force=true", &theirs.id, None);
    attacker.missing("PATCH /v1/microvms/THEIRS", &theirs.id, Some(json!({"name": "mine"})));
    attacker.missing("PUT /v1/microvms/THEIRS/secrets/db", &theirs.id, Some(json!("mine")));
    attacker.missing("DELETE /v1/microvms/THEIRS/secrets/db", &theirs.id, None);
    attacker.missing("POST /v1/microvms/THEIRS/exec", &theirs.id, Some(json!({"command": ["sh"]})));
    for below in [
        "logs",
        "logs?follow=true",
        "stats",
        "stats?stream=true",
        "wait",
        "processes",
        "files?path=/etc/passwd",
    ] {
        attacker.missing(&format!("GET /v1/microvms/THEIRS/{below}"), &theirs.id, None);
    }
    attacker.missing("GET /v1/exec/THEIRS", &theirs.exec, None);
    attacker.missing("POST /v1/exec/THEIRS/start?detach=true", &theirs.exec, None);
    attacker.missing("POST /v1/exec/THEIRS/kill", &theirs.exec, None);
    // Paths that mean something elsewhere.
    for path in [
        format!("/v1/microvms/mine/../{}", theirs.id),
        format!("/v1/microvms/..%2fmicrovms%2f{}", theirs.id),
        format!("//v1/microvms/{}", theirs.id),
        format!("/v1/microvms/{}%00", theirs.id),
        format!("/v1/microvms/{}/", theirs.id.to_uppercase()),
        format!("/v1/%6dicrovms/{}", theirs.id),
    ] {
        attacker.refused(404, &format!("GET {path}"), None);
    }
    // The whole of an image, by what it is.
    let host = attacker.host;
    host.done(&host.mallory, "DELETE /v1/images/tree", None);
    let digest = theirs.record["image_digest"].as_str().unwrap();
    for wanted in ["tree", digest, &digest[7..], "acme|tree"] {
        let wanted = wanted.replace('|', "%7C");
        attacker.refused(404, &format!("GET /v1/images/{wanted}"), None);
        attacker.refused(404, &format!("DELETE /v1/images/{wanted}?force=true"), None);
    }
    let mut wanted = spec("copy", &["stay"], json!({}));
    wanted["container"]["image"] = json!(digest);
    attacker.refused(404, "POST /v1/microvms", Some(wanted));
    let tree = host.daemon.dir.path().join("tree");
    host.daemon.ok(&["--tenant", "mallory", "import", tree.to_str().unwrap(), "tree"]);
}

/// What was answered but for the trace, which no two requests share.
fn said(answer: &Answer) -> String {
    answer.text.replace(&answer.headers["hull-trace-id"], "TRACE")
}

/// Networks, subnets and ports.
fn networks(attacker: &mut Attacker<'_>, theirs: &Victim) {
    let host = attacker.host;
    for wanted in ["inner", theirs.network.as_str()] {
        attacker.missing("GET /v1/networks/THEIRS", wanted, None);
        attacker.missing("DELETE /v1/networks/THEIRS", wanted, None);
        let networking = json!({"networks": [{"network": wanted}]});
        let on = spec("spy", &["stay"], json!({"networking": networking}));
        let there = attacker.refused(404, "POST /v1/microvms", Some(on));
        let networking = json!({"networks": [{"network": MISSING}]});
        let nowhere = host.ask(
            &host.mallory,
            "POST /v1/microvms",
            Some(&spec("spy", &["stay"], json!({"networking": networking}))),
        );
        assert_eq!(said(&there).replace(wanted, MISSING), said(&nowhere));
    }
    for subnet in ["10.77.0.0/24", "10.77.0.128/25", "10.0.0.0/8"] {
        let taken =
            attacker.refused(409, "POST /v1/networks", Some(json!({"name": "mine", "subnet": subnet})));
        for word in ["acme", "inner", &theirs.network[..8]] {
            assert!(!taken.text.contains(word), "{}", taken.text);
        }
    }
    // Of the host's other networks it learns that they are in the way, and nothing more.
    let taken =
        attacker.refused(409, "POST /v1/networks", Some(json!({"name": "mine", "subnet": "10.77.0.0/16"})));
    assert!(!taken.text.contains("10.77.0.0/24"), "{}", taken.text);
    // The name is free for everybody; the port is not, whoever has it.
    host.done(&host.mallory, "POST /v1/networks", Some(&json!({"name": "inner"})));
    let networking = json!({"networks": [{"network": "inner"}],
        "publish": [{"port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}]});
    let made = spec("web", &["stay"], json!({"networking": networking}));
    host.done(&host.mallory, "POST /v1/microvms", Some(&made));
    attacker.attempts += 1;
    let record = host.done(&host.mallory, "POST /v1/microvms/web/start", None);
    let error = record["exit"]["error"].as_str().unwrap();
    assert!(error.contains("8080/tcp of the host is taken") && !error.contains("acme"), "{record}");
    attacker.written(&attacker.who, "POST /v1/microvms/web/start", 200);
}

/// What is for others, and what somebody says of itself.
fn side_doors(attacker: &mut Attacker<'_>, theirs: &Victim) {
    for (line, body) in [
        ("GET /v1/audit", None),
        ("GET /metrics", None),
        ("POST /v1/kernels?kind=tar", None),
        ("DELETE /v1/kernels/stub", None),
        ("POST /v1/tenants", Some(json!({"name": "more"}))),
        ("PATCH /v1/tenants/mallory", Some(json!({"quotas": {"cpus": null}}))),
        ("DELETE /v1/tenants/acme", None),
        ("GET http://hull/v1/audit", None),
    ] {
        attacker.attempts += 1;
        let answer = attacker.host.ask(&attacker.host.mallory, line, body.as_ref());
        assert_eq!(answer.status, 403, "{line}: {answer:?}");
        attacker.written(&attacker.who, &line.replace("http://hull", ""), 403);
    }
    attacker.missing("GET /v1/tenants/THEIRS", "acme", None);
    // Labels and fields that would say whose it is.
    attacker.refused(400, "POST /v1/microvms", Some(spec("forged", &["stay"], json!({"tenant": "acme"}))));
    let labels =
        json!({"labels": {"tenant": "acme", "hull.tenant": "acme", "com.docker.compose.project": "acme"}});
    let host = attacker.host;
    let made = host.done(&host.mallory, "POST /v1/microvms", Some(&spec("forged", &["stay"], labels)));
    assert_eq!(made["tenant"], "mallory");
    attacker.attempts += 1;
    assert!(!host.done(&host.acme, "GET /v1/microvms", None).to_string().contains("forged"));
    host.done(&host.mallory, "DELETE /v1/microvms/forged", None);
    let (who, bearer) = (attacker.who.clone(), format!("Bearer {}", host.mallory));
    let path = format!("GET /v1/microvms/{}", theirs.id);
    attacker.stranger(403, &path, &[("Authorization", &bearer), ("Hull-Tenant", "acme")], &who);
    attacker.stranger(403, &path, &[("Authorization", &bearer), ("hull-tenant", "nobody")], &who);
    attacker.stranger(
        404,
        &path,
        &[
            ("Authorization", &bearer),
            ("X-Forwarded-User", "root"),
            ("X-Remote-User", "acme"),
            ("Cookie", "tenant=acme"),
        ],
        &who,
    );
}

/// Lists, streams, keys and places in lists.
fn lists(attacker: &mut Attacker<'_>, theirs: &Victim) {
    let host = attacker.host;
    for line in [
        "GET /v1/microvms",
        "GET /v1/microvms?label=secret",
        "GET /v1/microvms?limit=100&after=0",
        "GET /v1/networks",
        "GET /v1/volumes",
        "GET /v1/volumes?limit=100&after=a",
        "GET /v1/images",
        "GET /v1/tenants",
        "GET /v1/tokens",
        "GET /v1/stats",
        "GET /v1/events?follow=false",
        "GET /v1/events?follow=false&after=1",
        "GET /v1/events?follow=false&of=web",
        "GET /v1/system",
        "GET /v1/system/df",
    ] {
        attacker.attempts += 1;
        let text = host.ask(&host.mallory, line, None).text;
        for word in
            [theirs.id.as_str(), &theirs.network, &theirs.volume, "vault", "acme", "secret", "10.77.0.0"]
        {
            assert!(!text.contains(word), "{line}: {text}");
        }
    }
    // A place in the victim's list.
    let after = format!("{}~{}", theirs.record["created_at"].as_str().unwrap(), theirs.id);
    attacker.attempts += 1;
    let page = host.done(&host.mallory, &format!("GET /v1/microvms?limit=1&after={after}"), None);
    assert!(page.as_array().unwrap().iter().all(|record| record["tenant"] == "mallory"), "{page}");
    // The victim's key makes something of one's own.
    let body = spec("keyed", &["stay"], json!({}));
    let ask = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "known")];
        host.daemon.request("POST /v1/microvms", &headers, Some(&body)).unwrap()
    };
    let (first, again, own) = (ask(&host.acme), ask(&host.acme), ask(&host.mallory));
    attacker.attempts += 1;
    assert_eq!((first.status, first.json()["id"].clone()), (201, again.json()["id"].clone()));
    assert!(own.status == 201 && own.json()["id"] != first.json()["id"] && own.json()["tenant"] == "mallory");
    assert!(!own.headers.contains_key("idempotency-replayed"), "{own:?}");
    // Whoever clears up clears up its own.
    attacker.attempts += 1;
    let pruned = host.done(&host.mallory, "POST /v1/system/prune", Some(&json!({"all_images": true})));
    assert!(!pruned.to_string().contains(first.json()["id"].as_str().unwrap()), "{pruned}");
    host.done(&host.acme, "GET /v1/microvms/keyed", None);
    host.done(&host.acme, "GET /v1/images/tree", None);
}

/// Tokens that are somebody's no more, or were never.
fn tokens(attacker: &mut Attacker<'_>, theirs: &Victim) {
    let host = attacker.host;
    let path = format!("GET /v1/microvms/{}", theirs.id);
    let daemon = &host.daemon;
    let good = host.acme.clone();
    host.done(&good, &path, None);
    let nobody = "uid:0";
    let other = if good.ends_with('0') { '1' } else { '0' };
    let guesses = [
        good[..good.len() - 1].to_owned(),
        format!("{}{other}", &good[..good.len() - 1]),
        format!("{}{}", &good[..21], "0".repeat(64)),
        format!("{}{}", &good[..21], &host.mallory[21..]),
        format!("{good}0"),
        good.to_uppercase(),
        String::new(),
        "hull_".into(),
        "'; DROP TABLE tokens; --".into(),
    ];
    for guess in guesses {
        attacker.stranger(401, &path, &[("Authorization", &format!("Bearer {guess}"))], nobody);
    }
    attacker.stranger(401, &path, &[("Authorization", "Basic cm9vdDo=")], nobody);
    let (bearer, mine) = (format!("Bearer {good}"), format!("Bearer {}", host.mallory));
    attacker.stranger(401, &path, &[("Authorization", &mine), ("Authorization", &bearer)], nobody);
    // One that ends while it is used, one whose tenant is gone, one that was taken back.
    let short = token(daemon, "acme", &["--expires", "1s"]);
    let since = Instant::now();
    while host.ask(&short, &path, None).status != 401 {
        assert!(since.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    attacker.stranger(401, &path, &[("Authorization", &format!("Bearer {short}"))], nobody);
    daemon.ok(&["tenant", "create", "gone"]);
    let gone = token(daemon, "gone", &["--scope", "admin"]);
    host.done(&gone, "GET /v1/microvms", None);
    daemon.ok(&["tenant", "rm", "gone"]);
    daemon.ok(&["tenant", "create", "gone"]);
    attacker.stranger(401, "GET /v1/microvms", &[("Authorization", &format!("Bearer {gone}"))], nobody);
    let back = token(daemon, "acme", &[]);
    daemon.ok(&["--tenant", "acme", "token", "rm", &back[5..21]]);
    attacker.stranger(401, &path, &[("Authorization", &format!("Bearer {back}"))], nobody);
    // Another's token is not there to be removed; a scope is not to be exceeded.
    attacker.missing("DELETE /v1/tokens/THEIRS", &good[5..21], None);
    for (scope, line) in [
        ("read", "POST /v1/microvms"),
        ("read", "DELETE /v1/microvms/forged"),
        ("read", "POST /v1/volumes"),
        ("read", "POST /v1/volumes/prune"),
        ("read", "GET /v1/tokens"),
        ("operate", "POST /v1/tokens"),
        ("operate", "GET /v1/tokens"),
    ] {
        let weak = token(daemon, "mallory", &["--scope", scope]);
        let who = format!("token:{}", &weak[5..21]);
        attacker.stranger(403, line, &[("Authorization", &format!("Bearer {weak}"))], &who);
    }
    // The host's own operators do not administer it.
    let operator = token(daemon, "default", &["--scope", "operate"]);
    let who = format!("token:{}", &operator[5..21]);
    let bearer = format!("Bearer {operator}");
    attacker.stranger(403, &path, &[("Authorization", &bearer), ("Hull-Tenant", "acme")], &who);
    attacker.stranger(404, &path, &[("Authorization", &bearer)], &who);
}

/// Requests that are none, or that hide another.
fn wire(attacker: &mut Attacker<'_>, theirs: &Victim) {
    let (host, mine) = (attacker.host, attacker.host.mallory.clone());
    // One that never comes to its end, and is given up.
    let mut slow = UnixStream::connect(host.daemon.socket()).unwrap();
    slow.write_all(b"GET /v1/system HTTP/1.1\r\nHost: hu").unwrap();
    let endless = "POST /v1/networks HTTP/1.1\r\nHost: hull\r\nContent-Length: 100\r\n\r\n{";
    let endless = user(4242, &host.daemon.socket(), endless).stdout(Stdio::piped()).spawn().unwrap();
    let head = format!("Host: hull\r\nAuthorization: Bearer {mine}\r\nConnection: close");
    attacker.garbage(
        400,
        &format!(
            "POST /v1/networks HTTP/1.1\r\n{head}\r\nContent-Length: 2\r\nContent-Length: 90\r\n\r\n{{}}"
        ),
    );
    attacker
        .garbage(431, &format!("GET /v1/system HTTP/1.1\r\n{head}\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)));
    attacker
        .garbage(400, &format!("GET /v1/system HTTP/1.1\r\n{head}\r\nX : y\r\nContent-Length : 4\r\n\r\n"));
    // A request within a request's body is a body.
    attacker.attempts += 1;
    let hidden = format!("DELETE /v1/microvms/{}?force=true HTTP/1.1\r\nHost: hull\r\n\r\n", theirs.id);
    let body = format!("0\r\n\r\n{hidden}");
    let smuggled = format!(
        "POST /v1/networks HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{body}",
        body.len()
    );
    let answer = host.daemon.say(&smuggled).unwrap();
    assert!(answer.status == 400 && !answer.text.contains("HTTP/1.1"), "{answer:?}");
    attacker.written(&attacker.who, "POST /v1/networks", 400);
    // A body that is larger than any that means something.
    attacker.attempts += 1;
    let length = 3_usize << 20;
    let large = format!(
        "POST /v1/networks HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{}",
        " ".repeat(length)
    );
    assert_eq!(host.daemon.say(&large).unwrap().status, 413);
    attacker.written(&attacker.who, "POST /v1/networks", 413);
    attacker.attempts += 1;
    slow.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let _what_it_says = slow.read_to_end(&mut Vec::new());
    let since = Instant::now();
    while attacker.last("nobody")["status"] != 408 {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "it is not written down: {}",
            attacker.last("nobody")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    attacker.attempts += 1;
    let given_up = endless.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&given_up.stdout);
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    attacker.written("uid:4242", "POST /v1/networks", 400);
}
