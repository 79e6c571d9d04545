//! The API against its document, `resources/openapi.json`: by a program that asks whatever it allows and forbids, and by a
//! client that is generated from it. Its metrics against OpenMetrics.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/daemon.rs"]
mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use namespace::Namespace;
use serde_json::json;
use support::Daemon;

/// Where a daemon of these tests listens, in a network namespace of its own.
const PORT: &str = "2376";
/// The most requests for each operation and phase; some three thousand in all. `cargo xtask api-test` asks more.
const EXAMPLES: &str = "4";
/// What the requests are made from.
const SEED: &str = "1";

/// A daemon over TCP, whose networks are the namespace's.
fn host() -> (Daemon, Namespace) {
    let namespace = Namespace::new();
    let flags = ["--listen", &format!("127.0.0.1:{PORT}"), "--plain-http"];
    // In memory: elsewhere it takes no secrets.
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    (Daemon::start_with(place, &["nsenter", &namespace.flag(), "--"], &flags), namespace)
}

/// A file beside these tests.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A program of the Python environment that the fixtures are.
fn python(program: &str) -> String {
    let fixtures = env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
    Path::new(&fixtures).join("python/bin").join(program).to_str().unwrap().to_owned()
}

/// Runs a command with the daemon's directories, which must succeed.
fn ok(command: &mut Command, daemon: &Daemon) {
    command.env("HULL_DATA_DIR", daemon.data()).env("HULL_RUN_DIR", daemon.dir.path().join("run"));
    let output = command.output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}{}", said(&output.stdout), said(&output.stderr));
    let failed: Vec<String> = (daemon.log().lines())
        .filter(|line| line.contains("a request failed") || line.contains("panicked"))
        .map(str::to_owned)
        .collect();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, failed.join("\n"));
}

#[test]
fn what_is_documented_is_what_is_answered() {
    let (daemon, namespace) = host();
    let from = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let (examples, seed) = (from("HULL_API_EXAMPLES", EXAMPLES), from("HULL_API_SEED", SEED));
    let run = beside("tests/api/run.py");
    let hull = env!("CARGO_BIN_EXE_hull");
    let words = [run.to_str().unwrap(), hull, PORT, &python("python"), &examples, &seed];
    ok(namespace.command("python3", &words).current_dir(daemon.dir.path()), &daemon);
    assert!(daemon.request("GET /v1/system", &[], None).is_ok_and(|answer| answer.status == 200));
}

#[test]
fn a_generated_client_runs_a_microvm() {
    let (daemon, _namespace) = host();
    let place = daemon.dir.path().join("generated");
    let mut generate = Command::new(python("python"));
    generate
        .args(["-m", "openapi_python_client", "generate", "--meta", "none", "--path"])
        .arg(beside("resources/openapi.json"));
    generate.args(["--config".as_ref(), beside("tests/api/client.yaml").as_os_str()]);
    // It formats what it has written by a program that is there, too.
    let programs = Path::new(&python("")).to_owned();
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
    generate.env("PATH", path.unwrap()).arg("--output-path").arg(&place);
    ok(&mut generate, &daemon);
    let mut client = Command::new(python("python"));
    client.arg(beside("tests/api/client.py")).arg(daemon.socket()).env("PYTHONPATH", daemon.dir.path());
    ok(&mut client, &daemon);
    assert!(daemon.vmms().is_empty(), "the client has left a microVM");
}

#[test]
fn metrics_are_read_by_a_strict_collector() {
    let (daemon, namespace) = host();
    daemon.ok(&["tenant", "create", "acme", "--memory", "1g", "--cpus", "4", "--requests", "1"]);
    let token = daemon.ok(&["--tenant", "acme", "token", "create", "hasty"]);
    // One with a card, on the network that is there by itself, and one without.
    daemon.run("carded", &["stay"], json!({"networking": {}}));
    daemon.run("alone", &["stay"], json!({}));
    let (collector, socket) = (beside("tests/api/metrics.py"), daemon.socket());
    let words = [collector.to_str().unwrap(), socket.to_str().unwrap(), PORT, token.trim()];
    ok(&mut namespace.command(&python("python"), &words), &daemon);
}
