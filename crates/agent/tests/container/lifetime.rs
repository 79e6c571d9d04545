//! Signals, ends, and what is left of a container afterwards.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hull_protocol::agent::{AgentErrorKind, Command};

use crate::host::{Agent, Options, shell};

#[test]
fn a_death_by_signal_is_128_and_more() {
    let agent = Agent::new("killed");
    let mut control = agent.ready();
    let mut started = agent.start(&mut control, shell("echo ready; while :; do sleep 1; done")).unwrap();
    assert_eq!(started.line(), "ready");
    // As everywhere, the first process of a namespace does not die of what it does not handle.
    control.signal(15, false).unwrap();
    thread::sleep(Duration::from_millis(100));
    control.signal(9, false).unwrap();
    assert_eq!(started.finish(&mut control).status, 137);
    // Too late, and no error.
    control.signal(9, false).unwrap();
}

#[test]
fn a_handler_gets_its_signal() {
    let agent = Agent::new("handler");
    let mut control = agent.ready();
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut started = agent.start(&mut control, shell(script)).unwrap();
    assert_eq!(started.line(), "ready");
    for (bad, process) in [(0, "main"), (65, "main"), (-1, "main"), (15, "other")] {
        let command = Command::Signal { process: process.into(), signal: bad, group: false };
        assert_eq!(control.ask(command).unwrap_err().kind, AgentErrorKind::Invalid);
    }
    control.signal(15, false).unwrap();
    let outcome = started.finish(&mut control);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("term\n", 3));
}

#[test]
fn a_real_time_signal_is_a_signal() {
    let agent = Agent::new("real-time");
    let mut control = agent.ready();
    let script = "trap 'exit 8' 37; echo ready; while :; do sleep 0.05; done";
    let mut started = agent.start(&mut control, shell(script)).unwrap();
    assert_eq!(started.line(), "ready");
    control.signal(37, false).unwrap();
    assert_eq!(started.finish(&mut control).status, 8);
}

#[test]
fn a_group_is_the_whole_container() {
    let agent = Agent::new("group");
    let mut control = agent.ready();
    // The second is in a session, and so in a process group, of its own.
    let script = "trap 'echo first' USR1
        setsid sh -c 'trap \"echo second; exit\" USR1; echo ready; while :; do sleep 0.05; done' & wait; wait";
    let mut started = agent.start(&mut control, shell(script)).unwrap();
    assert_eq!(started.line(), "ready");
    control.signal(10, true).unwrap();
    let outcome = started.finish(&mut control);
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first", "second"]);
}

#[test]
fn what_is_left_running_ends_with_the_first_process() {
    let agent = Agent::new("left");
    let mut control = agent.ready();
    let started = agent.start(&mut control, shell("sleep 1000 & setsid sleep 1001 & echo done")).unwrap();
    let begun = Instant::now();
    let outcome = started.finish(&mut control);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("done\n", 0));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn nothing_of_a_process_stays_behind() {
    let agent = Agent::new("reaped");
    let mut control = agent.ready();
    let mut started =
        agent.start(&mut control, shell("(sleep 0.1 &); sleep 0.3; set -- /proc/[0-9]*; echo $#")).unwrap();
    // The orphan is the first process's to reap, and a shell does so: it alone is left.
    assert_eq!(started.line(), "1");
    started.finish(&mut control);
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(children, "");
}

static SHUT_DOWN: AtomicU32 = AtomicU32::new(0);

fn shut_down() {
    SHUT_DOWN.fetch_add(1, Ordering::SeqCst);
}

fn wait_for_shut_down(count: u32) {
    let begun = Instant::now();
    while SHUT_DOWN.load(Ordering::SeqCst) != count {
        assert!(begun.elapsed() < Duration::from_secs(20), "the guest is not shut down");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One test, as they share the counter.
#[test]
fn a_shutdown_ends_the_process_tells_the_host_and_happens_once() {
    let agent = |name: &str| Agent::with(name, Options { shut_down, ..Options::default() }, |_| {});
    let handler = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    for (count, script, grace_ms, status) in [(1, handler, 20_000, 3), (2, stubborn, 100, 137)] {
        let agent = agent(&format!("shutdown-{count}"));
        let mut control = agent.ready();
        let mut started = agent.start(&mut control, shell(script)).unwrap();
        assert_eq!(started.line(), "ready");
        control.ask(Command::Shutdown { grace_ms }).unwrap();
        control.ask(Command::Shutdown { grace_ms }).unwrap();
        let error = control.ask(Command::Start(Box::new(shell("true")))).unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Invalid);
        assert_eq!(started.finish(&mut control).status, status);
        wait_for_shut_down(count);
    }
    // Before anything was started, and while a start waits for its streams.
    let idle = agent("shutdown-idle");
    idle.connect().ask(Command::Shutdown { grace_ms: 60_000 }).unwrap();
    wait_for_shut_down(3);
    let waiting = agent("shutdown-waiting");
    let mut control = waiting.ready();
    let start = control.send(Command::Start(Box::new(shell("true"))));
    thread::sleep(Duration::from_millis(50));
    control.ask(Command::Shutdown { grace_ms: 60_000 }).unwrap();
    assert_eq!(control.answer(start).unwrap_err().kind, AgentErrorKind::Failed);
    wait_for_shut_down(4);
    // A host that reads nothing does not keep the guest from going.
    let deaf = agent("shutdown-deaf");
    let mut control = deaf.ready();
    let _started = deaf.start(&mut control, shell("seq 1 10000000")).unwrap();
    control.ask(Command::Shutdown { grace_ms: 0 }).unwrap();
    wait_for_shut_down(5);
}
