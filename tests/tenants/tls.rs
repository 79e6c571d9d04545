//! The API over TCP: TLS, clients' certificates, and what may be spoken without.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::support::Daemon;
use super::token;

/// Runs `openssl` in a directory.
fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {output:?}");
}

/// A root, a daemon's certificate for 127.0.0.1 and a client's.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path();
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch";
    for root in ["ca", "other"] {
        openssl(
            place,
            &format!("{new} -x509 -days 2 -subj /CN={root} -keyout {root}-key.pem -out {root}.pem"),
        );
    }
    std::fs::write(place.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for (name, root) in [("server", "ca"), ("cert", "ca"), ("stranger", "other")] {
        openssl(place, &format!("{new} -subj /CN={name} -keyout {name}-key.pem -out {name}.csr"));
        let sign =
            format!("x509 -req -in {name}.csr -CA {root}.pem -CAkey {root}-key.pem -CAcreateserial -days 2");
        openssl(place, &format!("{sign} -extfile names -out {name}.pem"));
    }
    std::fs::rename(place.join("cert-key.pem"), place.join("key.pem")).unwrap();
    dir
}

/// Whose certificate somebody shows at this address.
fn shown_at(address: &str) -> String {
    let script = "openssl s_client -connect $0 </dev/null 2>/dev/null | openssl x509 -noout -subject";
    let place = address.strip_prefix("https://").unwrap();
    let output = Command::new("sh").args(["-c", script, place]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn certificates_are_renewed_while_the_daemon_runs() {
    let files = certificates();
    let file = |name: &str| files.path().join(name);
    let flags = [file("server.pem"), file("server-key.pem")].map(|path| path.display().to_string());
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--tls-cert", &flags[0], "--tls-key", &flags[1]]);
    let at = address(&daemon);
    assert!(shown_at(&at).contains("server"), "{}", shown_at(&at));
    // Only half of the new ones is there.
    std::fs::copy(file("cert.pem"), file("server.pem")).unwrap();
    assert!(shown_at(&at).contains("server"), "{}", shown_at(&at));
    assert!(daemon.log().contains("the old certificates for TLS stay in use"), "{}", daemon.log());
    std::fs::rename(file("key.pem"), file("server-key.pem")).unwrap();
    assert!(shown_at(&at).contains("cert"), "{}", shown_at(&at));
    std::fs::remove_file(file("server.pem")).unwrap();
    assert!(shown_at(&at).contains("cert"), "{}", shown_at(&at));
}

/// Where the daemon says that it serves over TCP.
fn address(daemon: &Daemon) -> String {
    let log = daemon.log();
    let found = log.lines().filter_map(|line| Some(line.split_once("serving on http")?.1)).next_back();
    format!("http{}", found.unwrap_or_else(|| panic!("it does not serve over TCP: {log}")))
}

/// `hull ARGS` over TCP, with only these files.
fn hull(daemon: &Daemon, address: &str, files: &[(&str, PathBuf)], args: &[&str]) -> Output {
    let mut words = vec!["-H".to_owned(), address.to_owned()];
    for (flag, path) in files {
        words.extend([(*flag).to_owned(), path.display().to_string()]);
    }
    words.extend(args.iter().map(|word| (*word).to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    daemon.hull(&words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn over_tcp_both_ends_show_who_they_are() {
    let files = certificates();
    let file = |name: &str| files.path().join(name);
    let path = |name: &str| file(name).display().to_string();
    let daemon = Daemon::start(&[
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        &path("server.pem"),
        "--tls-key",
        &path("server-key.pem"),
        "--client-ca",
        &path("ca.pem"),
    ]);
    let at = address(&daemon);
    assert!(at.starts_with("https://127.0.0.1:"), "{at}");
    daemon.ok(&["tenant", "create", "acme"]);
    std::fs::write(file("token"), token(&daemon, "acme", &["--scope", "operate", "remote"])).unwrap();
    let all = [
        ("--ca", file("ca.pem")),
        ("--cert", file("cert.pem")),
        ("--key", file("key.pem")),
        ("--token-file", file("token")),
    ];
    let tree = daemon.dir.path().join("tree");
    for words in
        [&["ps"][..], &["import", tree.to_str().unwrap(), "mine"], &["images", "-q"], &["system", "info"]]
    {
        let output = hull(&daemon, &at, &all, words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", daemon.log());
    }
    // Docker's way: a directory of certificates, in the environment.
    let environment = daemon
        .hull(&["images"])
        .envs([("HULL_HOST", at.clone()), ("HULL_CERT_PATH", files.path().display().to_string())])
        .env("HULL_TOKEN_FILE", file("token"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&environment.stdout).contains("mine"), "{environment:?}");
    assert!(!daemon.ok(&["images"]).contains("mine"), "the image is another tenant's too");
    // Without a token nobody, without the right certificates not even that.
    let nobody = hull(&daemon, &at, &all[..3], &["ps"]);
    assert!(!nobody.status.success() && said(&nobody).contains("a token is needed"), "{nobody:?}");
    let bare = hull(&daemon, &at, &[("--ca", file("ca.pem")), ("--token-file", file("token"))], &["ps"]);
    let stranger = [all[0].clone(), ("--cert", file("stranger.pem")), ("--key", file("stranger-key.pem"))];
    let stranger = hull(&daemon, &at, &stranger, &["ps"]);
    let fooled = hull(&daemon, &at, &[("--ca", file("other.pem")), ("--token-file", file("token"))], &["ps"]);
    let plain = hull(&daemon, &at.replace("https", "http"), &all[3..], &["ps"]);
    for failed in [&bare, &stranger, &fooled, &plain] {
        assert!(!failed.status.success() && failed.stdout.is_empty(), "{failed:?}");
    }
    assert!(said(&fooled).contains("TLS"), "{fooled:?}");
    let audit = daemon.ok(&["audit", "--who", "nobody"]);
    assert!(audit.matches("TLS").count() >= 3 && audit.contains("GET /v1/system"), "{audit}");
}

#[test]
fn what_is_not_encrypted_stays_on_the_host() {
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--plain-http"]);
    let at = address(&daemon);
    let nobody = hull(&daemon, &at, &[], &["ps"]);
    assert!(said(&nobody).contains("a token is needed"), "{nobody:?}");
    let file = daemon.dir.path().join("token");
    std::fs::write(&file, token(&daemon, "default", &["--scope", "read"])).unwrap();
    assert!(hull(&daemon, &at, &[("--token-file", file.clone())], &["ps"]).status.success());
    let reader = hull(&daemon, &at, &[("--token-file", file)], &["network", "create", "x"]);
    assert!(said(&reader).contains("may only look"), "{reader:?}");
    for (flags, why) in [
        (&["--listen", "0.0.0.0:0", "--plain-http"][..], "only loopback"),
        (&["--listen", "127.0.0.1:0"], "--tls-cert"),
        (&["--plain-http"], "--listen"),
        (
            &["--listen", "127.0.0.1:0", "--tls-cert", "/dev/null", "--tls-key", "/dev/null"],
            "holds no certificate",
        ),
    ] {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut command = daemon.hull(&[&["serve"], flags].concat());
        command
            .env("HULL_DATA_DIR", elsewhere.path().join("data"))
            .env("HULL_RUN_DIR", elsewhere.path().join("run"));
        let output = command.output().unwrap();
        let log = said(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && log.contains(why), "{flags:?}: {log}");
    }
}

#[test]
fn what_the_api_is_anybody_may_read() {
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--plain-http"]);
    let place = address(&daemon);
    let place = place.strip_prefix("http://").unwrap();
    let ask = |line: &str| {
        let mut stream = TcpStream::connect(place).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for (path, holds) in [
        ("/docs", "<title>Hull API</title>"),
        ("/docs/page.css", "prefers-color-scheme"),
        ("/docs/page.js", "/v1/openapi.json"),
        ("/v1/openapi.json", "\"openapi\": \"3.1.0\""),
    ] {
        let answer = ask(&format!("GET {path}"));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(holds), "{path}: {answer:.500}");
        let policy = answer.contains("content-security-policy: default-src 'none'");
        assert!(policy || !path.starts_with("/docs"), "{path}: {answer:.500}");
        assert!(ask(&format!("POST {path}")).starts_with("HTTP/1.1 405 "), "{path}");
    }
    let closed = [
        "/docs/",
        "/docs/../v1/system",
        "/docs/page.html",
        "//docs",
        "/docs%2fpage.js",
        "/v1/openapi.json/",
        "/v1",
    ];
    for path in closed {
        assert!(ask(&format!("GET {path}")).starts_with("HTTP/1.1 401 "), "{path}");
    }
}
