//! Bytes in and out.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use hull_protocol::agent::{AgentErrorKind, Command, StreamKind};

use crate::host::{Agent, Options, end, line, process, read_all, shell};

#[test]
fn output_and_diagnostics_come_apart() {
    let outcome = Agent::new("apart").run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str(), outcome.status), ("out\n", "err\n", 7));
    assert!(!outcome.oom_killed);
}

#[test]
fn without_input_it_is_empty() {
    let outcome = Agent::new("empty").run(shell("cat; readlink /proc/self/fd/0"));
    assert_eq!(outcome.stdout, "/dev/null\n");
}

#[test]
fn fifty_megabytes_go_in_and_come_back() {
    let agent = Agent::new("megabytes");
    let mut control = agent.ready();
    let mut spec = process(&["cat"]);
    spec.stdin = true;
    agent.start(&mut control, spec).unwrap().echoes(50 << 20);
    assert_eq!(control.exited().status, 0);
}

#[test]
fn a_host_that_does_not_read_loses_nothing() {
    let agent = Agent::new("slow");
    let mut control = agent.ready();
    let mut started = agent.start(&mut control, shell("seq 1 200000; echo end >&2")).unwrap();
    thread::sleep(Duration::from_millis(300));
    let output = String::from_utf8(read_all(&mut started.stdout)).unwrap();
    assert!(output.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=200_000));
    assert_eq!(control.exited().status, 0);
}

#[test]
fn streams_may_come_before_and_after_the_start() {
    let agent = Agent::new("early");
    let mut control = agent.connect();
    // Before Setup even.
    let mut stdout = agent.stream("main", StreamKind::Stdout);
    control.ask(Command::Setup(Box::new(agent.setup()))).unwrap();
    let seq = control.send(Command::Start(Box::new(shell("echo here"))));
    thread::sleep(Duration::from_millis(100));
    let mut stderr = agent.stream("main", StreamKind::Stderr);
    control.answer(seq).unwrap();
    assert_eq!(read_all(&mut stdout), b"here\n");
    assert_eq!(read_all(&mut stderr), b"");
    assert_eq!(control.exited().status, 0);
}

#[test]
fn a_stream_that_never_comes_fails_the_start_and_it_may_be_tried_again() {
    let options = Options { stream_wait: Duration::from_millis(200), ..Options::default() };
    let agent = Agent::with("never", options, |_| {});
    let mut control = agent.ready();
    let mut stdout = agent.stream("main", StreamKind::Stdout);
    let error = control.ask(Command::Start(Box::new(shell("echo no")))).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Failed);
    assert!(error.message.contains("Stderr"), "{error}");
    // What had come is closed, with nothing in it.
    assert_eq!(read_all(&mut stdout), b"");
    let outcome = agent.start(&mut control, shell("echo yes")).unwrap().finish(&mut control);
    assert_eq!(outcome.stdout, "yes\n");
}

#[test]
fn output_goes_on_over_a_new_connection() {
    let agent = Agent::new("reconnect");
    let mut control = agent.ready();
    let mut spec = shell("echo one; read x; seq 1 50000; echo $x; read y; echo $y");
    spec.stdin = true;
    let mut started = agent.start(&mut control, spec).unwrap();
    assert_eq!(started.line(), "one");
    // The host goes away, and comes back.
    started.stdout.shutdown(Shutdown::Both).unwrap();
    started.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    let mut stdout = agent.stream("main", StreamKind::Stdout);
    for number in 1..=50_000 {
        assert_eq!(line(&mut stdout), number.to_string());
    }
    assert_eq!(line(&mut stdout), "two");
    // A new connection takes the place of one that is still there.
    let mut stdin = agent.stream("main", StreamKind::Stdin);
    stdin.write_all(b"three\n").unwrap();
    assert_eq!(read_all(&mut stdout), b"three\n");
    assert_eq!(control.exited().status, 0);
}

#[test]
fn a_process_that_closes_its_input_is_no_failure() {
    let agent = Agent::new("deaf");
    let mut control = agent.ready();
    let mut spec = shell("exec <&-; echo closed; sleep 0.3");
    spec.stdin = true;
    let mut started = agent.start(&mut control, spec).unwrap();
    assert_eq!(started.line(), "closed");
    let mut stdin = started.stdin.take().unwrap();
    // Sooner or later the host is told.
    while stdin.write_all(&[b'x'; 1000]).is_ok() {}
    assert_eq!(started.finish(&mut control).status, 0);
}

#[test]
fn other_users_may_open_their_streams_again() {
    let mut spec = shell("echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin");
    spec.user = "web".into();
    spec.stdin = true;
    let agent = Agent::new("reopen");
    let mut control = agent.ready();
    let started = agent.start(&mut control, spec).unwrap();
    let mut stdin = started.stdin.as_ref().unwrap();
    stdin.write_all(b"in\n").unwrap();
    end(stdin);
    let outcome = started.finish(&mut control);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\nin\n", "err\n"));
}
