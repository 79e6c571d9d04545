//! The console of a guest that is stood in for, in the API and on a terminal.

use std::process::Command;

use serde_json::json;

use super::{daemon, path, state, tell};

/// What a stand-in writes first.
const FIRST: &str = "the kernel of a stand-in\r\n\u{1b}[2Jand its colours\n";

#[test]
fn a_console_is_read_and_followed_to_its_end() {
    let daemon = daemon();
    let id = daemon.create("speaks", &["console", "100"], json!({}));
    assert_eq!(daemon.ok(&["console", "--follow", "speaks"]), "");
    daemon.ok(&["start", "speaks"]);
    let lines: String = (0..100).map(|line| format!("line {line}\n")).collect();
    assert_eq!(daemon.ok(&["console", "-f", "speaks"]), format!("{FIRST}{lines}"));
    assert_eq!(state(&daemon.record(&id)), "stopped");
    assert_eq!(daemon.ok(&["console", "--tail", "2", "speaks"]), "line 98\nline 99\n");
    // A new run has a console of its own; what is followed goes over to it.
    daemon.ok(&["start", "speaks"]);
    assert_eq!(daemon.ok(&["console", "-f", "-n", "102", "speaks"]), format!("{FIRST}{lines}"));
    let line = format!("GET {}", path(&id, "/console"));
    let answer = daemon.request(&line, &[], None).unwrap();
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    assert!(answer.text.contains(FIRST), "{}", answer.text);
    for query in ["tail=-1", "tail=all", "follow=yes", "since=0"] {
        tell(daemon, 400, &format!("{line}?{query}"), None);
    }
    tell(daemon, 404, "GET /v1/microvms/nobody/console", None);
    daemon.ok(&["rm", "speaks"]);
}

#[test]
fn a_console_goes_on_from_run_to_run_while_it_is_followed() {
    let daemon = daemon();
    let more = json!({"restart": "always"});
    let id = daemon.run("twice", &["console", "3"], more);
    let mut follower = daemon.hull(&["console", "-f", "twice"]);
    let follower = follower.stdout(std::process::Stdio::piped()).spawn().unwrap();
    daemon.until(&id, |record| record["restarts"].as_u64() >= Some(2));
    daemon.ok(&["stop", "twice"]);
    let seen = String::from_utf8(follower.wait_with_output().unwrap().stdout).unwrap();
    assert!(seen.matches(FIRST).count() >= 2, "{seen}");
    let run = format!("{FIRST}line 0\nline 1\nline 2\n");
    assert!(seen.starts_with(&run), "{seen}");
    daemon.ok(&["rm", "twice"]);
}

#[test]
fn a_terminal_gets_nothing_that_it_would_obey() {
    let daemon = daemon();
    daemon.run("paints", &["stay"], json!({}));
    let hull = daemon.hull(&["console", "paints"]);
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(hull.get_program()).args(hull.get_args());
    command.envs(hull.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(seen.contains("\\u{1b}[2Jand its colours") && !seen.contains('\u{1b}'), "{seen:?}");
    daemon.ok(&["rm", "-f", "paints"]);
}
