//! Further processes, files and health checks of containers that run, from end to end.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/hull.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Hull, Said, furnished, lost};

/// How long something that has been set off may take, on an emulated host.
const PATIENCE: Duration = Duration::from_secs(120);

/// The container that most tests reach into.
fn container() -> &'static Hull {
    static STARTED: OnceLock<()> = OnceLock::new();
    let hull = furnished();
    STARTED.get_or_init(|| {
        let script = "trap 'exit 0' TERM; echo up; while :; do sleep 1; done";
        hull.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "-e",
            "A=1",
            "--workdir",
            "/tmp",
            "busybox",
            "sh",
            "-c",
            script,
        ]);
    });
    // The emulated host may have lost it since.
    if hull.ok(&["inspect", "web"]).contains(r#""state": "failed""#) && lost::forgive("the shared container")
    {
        hull.ok(&["start", "web"]);
    }
    hull
}

fn exec(args: &[&str]) -> Said {
    container().hull(&[&["exec"], args].concat())
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come to pass");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_command_runs_beside_the_containers_own() {
    let said = exec(&["web", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (7, "out\n", "err\n"));
    let script = "pwd; echo $A $B; id -un; tr '\\0' ' ' </proc/1/cmdline";
    let said = exec(&["-e", "B=2", "-u", "web", "web", "sh", "-c", script]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(&lines[..3], ["/tmp", "1 2", "web"], "{said:?}");
    assert!(lines[3].starts_with("sh -c trap"), "{said:?}");
    assert_eq!(exec(&["-w", "/etc", "web", "pwd"]).stdout, "/etc\n");
    let missing = exec(&["web", "no-such-program"]);
    assert!(missing.status == 127 && missing.stderr.contains("not found"), "{missing:?}");
    let directory = exec(&["web", "/etc"]);
    assert!(directory.status == 126 && directory.stderr.contains("is a directory"), "{directory:?}");
    let user = exec(&["-u", "nobody-here", "web", "true"]);
    assert!(user.status == 126 && user.stderr.contains("nobody-here"), "{user:?}");
    let nowhere = exec(&["no-such-microvm", "true"]);
    assert!(nowhere.status == 125 && nowhere.stderr.contains("no-such-microvm"), "{nowhere:?}");
}

#[test]
fn bytes_go_in_and_come_back_and_a_client_that_does_not_read_stalls_nobody() {
    let hull = container();
    let mut stalled = hull.command(&["exec", "web", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    stalled.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let mut state = 1_u64;
    let bytes: Vec<u8> = (0..8 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let output = hull.fed(&["exec", "-i", "web", "cat"], &bytes);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == bytes, "{} of {} bytes came back", output.stdout.len(), bytes.len());
    assert!(stalled.try_wait().unwrap().is_none());
    // Told to end it ends the process, as a local one would.
    drop(stalled.stdout.take());
    until("the end of a process whose reader has left", || stalled.try_wait().unwrap().is_some());
}

#[test]
fn twenty_run_at_once() {
    let hull = container();
    let all: Vec<_> = (0..20)
        .map(|n| {
            let script = format!("sleep 1; echo {n}; exit {n}");
            let mut command = hull.command(&["exec", "web", "sh", "-c", &script]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in all.into_iter().enumerate() {
        let said = Said::from(child.wait_with_output().unwrap());
        assert_eq!(
            (said.status, said.stdout),
            (i32::try_from(n).unwrap(), format!("{n}\n")),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn a_terminal_is_as_a_local_one() {
    let hull = container();
    let hull_program = env!("CARGO_BIN_EXE_hull");
    let in_terminal = |script: &str| {
        let mut command = hull.wrapped("script", &["--quiet", "--return", "--command", script, "/dev/null"]);
        Said::from(command.output().unwrap())
    };
    let inside = "tty | cut -c 1-9; stty size; test -t 0 && test -t 1 && echo terminal; exit 9";
    let said = in_terminal(&format!("stty rows 33 cols 77; {hull_program} exec -it web sh -c '{inside}'"));
    let shown = said.stdout.replace("^@", "");
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(
        (said.status, lines.as_slice()),
        (9, ["/dev/pts/", "33 77", "terminal"].as_slice()),
        "{said:?}"
    );
    // The detach keys leave it running; a terminal that is closed hangs it up.
    let typed = "printf 'touch /tmp/typed\\n'; sleep 8; printf '\\001d'; sleep 2";
    let shell = "sh -c 'echo $$ >/tmp/pid; exec sh'";
    // Of the two shells on the way there, neither is to say its own number.
    let kept = shell.replace('$', "\\$");
    let exec_typed = format!("{hull_program} exec -it --detach-keys ctrl-a,d web {kept}");
    let left = in_terminal(&format!("({typed}) | script -qec \"{exec_typed}\" /dev/null"));
    assert_eq!(left.status, 0, "{left:?}");
    let alive = "kill -0 $(cat /tmp/pid) && test -e /tmp/typed && echo alive";
    assert_eq!(exec(&["web", "sh", "-c", alive]).stdout, "alive\n", "{left:?}");
    exec(&["web", "rm", "/tmp/pid"]);
    let mut closed =
        hull.wrapped("script", &["-qec", &format!("{hull_program} exec -it web {shell}"), "/dev/null"]);
    let mut closed = closed.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    until("the shell", || exec(&["web", "cat", "/tmp/pid"]).status == 0);
    closed.kill().unwrap();
    closed.wait().unwrap();
    until("the hang-up", || exec(&["web", "sh", "-c", "kill -0 $(cat /tmp/pid)"]).status != 0);
}

#[test]
fn one_in_the_background_is_known_until_it_is_forgotten() {
    let hull = container();
    let id = hull.ok(&["exec", "-d", "web", "sh", "-c", "sleep 3; exit 6"]);
    let id = id.trim();
    let record = |id: &str| -> serde_json::Value {
        let answer = hull.request(&format!("GET /v1/exec/{id}"), "");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    assert_eq!(record(id)["state"], "running");
    until("its end", || record(id)["state"] == "exited");
    assert_eq!(record(id)["status"], 6);
    let missing = hull.hull(&["exec", "-d", "web", "no-such-program"]);
    assert!(missing.status != 0 && missing.stderr.contains("not found"), "{missing:?}");
    for (request, status, words) in [
        ("GET /v1/exec/none", "404", ""),
        (&format!("POST /v1/exec/{id}/start?detach=true"), "409", ""),
        (&format!("POST /v1/exec/{id}/kill"), "409", ""),
        ("POST /v1/microvms/web/exec", "400", r#"{"command":[]}"#),
        ("POST /v1/microvms/web/exec", "400", r#"{"command":["x"],"privileged":true}"#),
    ] {
        let answer = hull.request(request, words);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {words}: {answer}");
    }
}

#[test]
fn files_go_in_and_out_as_docker_has_it() {
    let hull = container();
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(dir.path().join("tree/deep")).unwrap();
    let big: Vec<u8> = (0..3_u32 << 20).map(|n| (n % 251) as u8).collect();
    fs::write(here("tree/big"), &big).unwrap();
    fs::write(here("tree/deep/file"), "content\n").unwrap();
    std::os::unix::fs::symlink("deep/file", here("tree/link")).unwrap();
    // One that is not there becomes the source, one that is gets it.
    hull.ok(&["cp", &here("tree"), "web:/srv"]);
    hull.ok(&["cp", &here("tree"), "web:/srv"]);
    let said = exec(&[
        "web",
        "sh",
        "-c",
        "cd /srv; find . | sort | tr '\\n' ' '; readlink link; stat -c %u:%g big; cat deep/file",
    ]);
    let tree =
        ". ./big ./deep ./deep/file ./link ./tree ./tree/big ./tree/deep ./tree/deep/file ./tree/link ";
    assert_eq!(said.stdout, format!("{tree}deep/file\n0:0\ncontent\n"));
    hull.ok(&["cp", "web:/srv/tree/.", &here("back")]);
    assert_eq!(fs::read(here("back/big")).unwrap(), big);
    assert_eq!(fs::read_to_string(here("back/link")).unwrap(), "content\n");
    hull.ok(&["cp", "web:/srv/deep/file", &here("one")]);
    assert_eq!(fs::read_to_string(here("one")).unwrap(), "content\n");
    // Streams.
    let archive = hull.fed(&["cp", "web:/srv/tree", "-"], b"").stdout;
    let fed = hull.fed(&["cp", "-", "web:/root"], &archive);
    assert!(fed.status.success(), "{}", String::from_utf8_lossy(&fed.stderr));
    assert_eq!(exec(&["web", "cmp", "/root/tree/big", "/srv/big"]).status, 0);
    for (args, words) in [
        (["web:/missing", &here("x")], "no file or directory '/missing'"),
        ([&here("missing"), "web:/x"], "No such file"),
        (["web:/etc", &here("one")], "is a file"),
        ([&here("one"), "web:/no/such/place"], "no file or directory '/no/such/'"),
        ([&here("one"), "web:/etc/passwd/x"], "not a directory"),
        (["web:/etc", "web:/x"], "both are in microVMs"),
        (["one", "two"], "neither is in a microVM"),
        ([&here("one"), "nothing:/x"], "nothing"),
    ] {
        let said = hull.hull(&[&["cp"], args.as_slice()].concat());
        assert!(said.status != 0 && said.stderr.contains(words), "{args:?}: {said:?}");
    }
    let junk = hull.fed(&["cp", "-", "web:/root"], &[9; 100_000]);
    assert!(String::from_utf8_lossy(&junk.stderr).contains("not a good tar archive"), "{junk:?}");
}

#[test]
fn processes_are_listed() {
    let hull = container();
    let mut sleeper = hull.command(&["exec", "-u", "web", "web", "sleep", "4242"]).spawn().unwrap();
    until("the process", || hull.ok(&["top", "web"]).contains("sleep 4242"));
    let table = hull.ok(&["top", "web"]);
    let line = table.lines().find(|line| line.contains("sleep 4242")).unwrap();
    assert_eq!(line.split_whitespace().nth(2), Some("web"), "{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("1 "), "{table}");
    // A signal to the client is one to the process, which a shell would report so.
    assert!(
        Command::new("pkill").args(["-TERM", "-P", &sleeper.id().to_string()]).status().unwrap().success()
    );
    assert_eq!(sleeper.wait().unwrap().code(), Some(143));
}

#[test]
fn health_is_checked_shown_and_remembered() {
    let hull = furnished();
    let start = ["run", "-d", "--name", "patient", "--health-cmd", "test -e /ok || { echo sick; exit 3; }"];
    let timing = ["--health-interval", "1s", "--health-retries", "2", "--health-timeout", "60s"];
    let command = ["busybox", "sh", "-c", "while :; do sleep 1; done"];
    hull.ok(&[&start[..], &timing, &command].concat());
    until("a bad verdict", || hull.ok(&["ps"]).contains("(unhealthy)"));
    let inspected: serde_json::Value = serde_json::from_str(&hull.ok(&["inspect", "patient"])).unwrap();
    let last = inspected[0]["health"]["log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["status"], &last["output"]), (&3.into(), &"sick\n".into()));
    hull.ok(&["exec", "patient", "touch", "/ok"]);
    until("a good verdict", || hull.ok(&["ps"]).contains("(healthy)"));
    hull.ok(&["stop", "--time", "1", "patient"]);
    // One that does not run is reached by nobody.
    for args in [vec!["exec", "patient", "true"], vec!["cp", "patient:/etc", "-"], vec!["top", "patient"]] {
        let said = hull.hull(&args);
        assert!(said.status != 0 && said.stderr.contains("does not run"), "{args:?}: {said:?}");
    }
    hull.ok(&["rm", "patient"]);
}

#[test]
fn a_killed_daemon_leaves_further_processes_running() {
    let hull = Hull::empty();
    hull.furnish();
    hull.ok(&["run", "-d", "--name", "steady", "busybox", "sh", "-c", "while :; do sleep 1; done"]);
    // More output than pipes hold: it must not stand still because nobody reads it any more.
    let script = "sleep 15; seq 1 300000; echo done >/tmp/done; exit 5";
    let id = hull.ok(&["exec", "-d", "steady", "sh", "-c", script]);
    let mut watching = hull.command(&["exec", "-i", "steady", "cat"]);
    let mut watching = watching.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    watching.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    watching.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(Command::new("kill").args(["-9", &hull.daemon_pid()]).status().unwrap().success());
    // The client of one hears that its stream is over.
    assert_eq!(watching.wait().unwrap().code(), Some(125));
    let record = || -> serde_json::Value {
        let answer = hull.request(&format!("GET /v1/exec/{}", id.trim()), "");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    until("the next daemon to know it", || record()["state"].is_string());
    assert!(record()["spec"].is_null());
    until("its end", || record()["state"] == "exited");
    assert_eq!(record()["status"], 5);
    assert_eq!(hull.ok(&["exec", "steady", "cat", "/tmp/done"]), "done\n");
    hull.ok(&["rm", "-f", "steady"]);
}
