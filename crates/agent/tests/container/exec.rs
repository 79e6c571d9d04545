//! Processes beside the container's own: they join it, are their own masters, and end with it.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use hull_protocol::agent::{AgentErrorKind, Command, FURTHER_MAX, ProcessSpec, StreamKind, WindowSize};

use crate::host::{Agent, Control, Started, beside, line, process, read_all, shell};

/// A container whose own process waits for a line.
fn container(name: &str) -> (Agent, Control, Started) {
    let agent = Agent::new(name);
    let (control, started) = run(&agent);
    (agent, control, started)
}

fn run(agent: &Agent) -> (Control, Started) {
    let mut control = agent.ready();
    let spec = ProcessSpec { stdin: true, ..shell("echo runs; read x; exit 3") };
    let mut started = agent.start(&mut control, spec).unwrap();
    assert_eq!(started.line(), "runs");
    (control, started)
}

#[test]
fn it_is_in_the_same_container_with_a_life_of_its_own() {
    let (agent, mut control, main) = container("exec-joins");
    let script =
        "for n in mnt pid uts ipc cgroup; do [ $(readlink /proc/$$/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo 1; done
        echo pid $$; tr '\\0' ' ' </proc/1/cmdline; echo; hostname; pwd; id; echo $A; cat /etc/plain; exit 7";
    let mut spec = beside("one", script);
    spec.env = vec!["A=b c".into()];
    spec.user = "web".into();
    spec.workdir = "/home/web".into();
    // Another user may not look at the links of root's process: those are compared as root below.
    let root = ProcessSpec { user: String::new(), ..spec.clone() };
    let outcome = agent.start(&mut control, root).unwrap().finish(&mut control);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(&lines[..5], ["1"; 5], "{outcome:?}");
    assert_ne!(lines[5], "pid 1");
    assert_eq!(lines[6].trim(), "sh -c echo runs; read x; exit 3");
    assert_eq!(&lines[7..9], ["exec-joins", "/home/web"]);
    assert!(lines[9].starts_with("uid=0(root)"), "{outcome:?}");
    assert_eq!((&lines[10..], outcome.status), (&["b c", "no program"][..], 7));
    let other = ProcessSpec { id: "two".into(), args: vec!["id".into()], ..spec };
    let outcome = agent.start(&mut control, other).unwrap().finish(&mut control);
    assert_eq!(outcome.stdout, "uid=33(web) gid=34(web) groups=4(logs),26(tape),34(web)\n");
    main.stdin.as_ref().unwrap().write_all_line();
    assert_eq!(main.finish(&mut control).status, 3);
}

/// Says the line that the container's own process waits for.
trait Line {
    fn write_all_line(&self);
}

impl Line for std::os::unix::net::UnixStream {
    fn write_all_line(&self) {
        { self }.write_all(b"end\n").unwrap();
    }
}

#[test]
fn what_cannot_be_started_is_said_and_takes_nothing_along() {
    let (agent, mut control, main) = container("exec-refused");
    for (args, kind) in [
        (&["no-such-program"][..], AgentErrorKind::NotFound),
        (&["/etc"], AgentErrorKind::NotExecutable),
        (&[], AgentErrorKind::Invalid),
    ] {
        let spec = ProcessSpec { id: "bad".into(), ..process(args) };
        assert_eq!(agent.start(&mut control, spec).err().unwrap().kind, kind, "{args:?}");
    }
    for id in ["", &"x".repeat(65), "main"] {
        let error = control.ask(Command::Start(Box::new(beside(id, "true")))).unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Invalid, "{id}");
    }
    let spec = ProcessSpec { user: "nobody".into(), ..beside("nobody", "true") };
    assert_eq!(agent.start(&mut control, spec).err().unwrap().kind, AgentErrorKind::Invalid);
    // The same id may be tried again.
    let outcome = agent.start(&mut control, beside("bad", "echo good")).unwrap().finish(&mut control);
    assert_eq!(outcome.stdout, "good\n");
    main.stdin.as_ref().unwrap().write_all_line();
    assert_eq!(main.finish(&mut control).status, 3);
    // What has ended is joined no more.
    let error = control.ask(Command::Start(Box::new(beside("late", "true")))).unwrap_err();
    assert!(error.message.contains("has ended"), "{error}");
}

#[test]
fn signals_and_sizes_are_for_the_one_that_is_named() {
    let (agent, mut control, main) = container("exec-signals");
    let script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut one = agent.start(&mut control, beside("one", script)).unwrap();
    let mut two = agent.start(&mut control, beside("two", "echo ready; while :; do sleep 1; done")).unwrap();
    assert_eq!((one.line(), two.line()), ("ready".into(), "ready".into()));
    let mut signal = |process: &str, signal| {
        control.ask(Command::Signal { process: process.into(), signal, group: false }).unwrap();
    };
    signal("one", 15);
    // Not the first of its namespace: it dies of what it does not handle.
    signal("two", 15);
    let outcome = one.finish(&mut control);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("caught\n", 5));
    assert_eq!(two.finish(&mut control).status, 143);
    main.stdin.as_ref().unwrap().write_all_line();
    assert_eq!(main.finish(&mut control).status, 3);
}

#[test]
fn it_has_a_terminal_of_its_own() {
    let (agent, mut control, _main) = container("exec-tty");
    let mut terminal = agent.stream("tty", StreamKind::Terminal);
    let size = WindowSize { rows: 33, cols: 101 };
    let script = "tty; stty size; test -t 0 && test -t 2 && echo all; trap 'stty size' WINCH
        trap 'echo caught; exit 4' INT; echo own >/dev/tty; while :; do sleep 0.05; done";
    let spec = ProcessSpec { terminal: Some(size), stdin: true, ..beside("tty", script) };
    control.ask(Command::Start(Box::new(spec))).unwrap();
    let shown: Vec<String> = (0..4).map(|_| line(&mut terminal)).collect();
    assert_eq!(shown, ["/dev/pts/0", "33 101", "all", "own"]);
    let size = WindowSize { rows: 50, cols: 200 };
    control.ask(Command::Resize { process: "tty".into(), size }).unwrap();
    assert_eq!(line(&mut terminal), "50 200");
    terminal.write_all(b"\x03").unwrap();
    let rest = String::from_utf8(read_all(&mut terminal)).unwrap();
    assert_eq!(rest, "^Ccaught\r\n");
    assert_eq!(control.end_of("tty").status, 4);
}

#[test]
fn all_end_with_the_containers_own() {
    let (agent, mut control, main) = container("exec-ends");
    let mut others: Vec<Started> = (0..3)
        .map(|n| agent.start(&mut control, beside(&n.to_string(), "echo up; sleep 1000")).unwrap())
        .collect();
    for other in &mut others {
        assert_eq!(other.line(), "up");
    }
    main.stdin.as_ref().unwrap().write_all_line();
    assert_eq!(main.finish(&mut control).status, 3);
    for other in others {
        assert_eq!(other.finish(&mut control).status, 137);
    }
}

#[test]
fn one_whose_reader_sleeps_stalls_nobody_not_even_the_end() {
    let (agent, mut control, main) = container("exec-stalled");
    let stalled = agent.start(&mut control, beside("stalled", "yes")).unwrap();
    thread::sleep(Duration::from_millis(200));
    let outcome = agent.start(&mut control, beside("next", "seq 1 100000 | tail -n 1")).unwrap();
    assert_eq!(outcome.finish(&mut control).stdout, "100000\n");
    main.stdin.as_ref().unwrap().write_all_line();
    assert_eq!(main.finish(&mut control).status, 3);
    drop(stalled);
}

#[test]
fn a_hundred_megabytes_go_in_and_come_back() {
    let (agent, mut control, _main) = container("exec-megabytes");
    let spec = ProcessSpec { id: "cat".into(), stdin: true, ..process(&["cat"]) };
    agent.start(&mut control, spec).unwrap().echoes(100 << 20);
    assert_eq!(control.end_of("cat").status, 0);
}

#[test]
fn what_it_leaves_behind_does_not_hold_up_its_end() {
    let (agent, mut control, _main) = container("exec-leaves");
    // The one left behind holds its output, and would read the input that is more than a pipe takes.
    let spec = ProcessSpec { stdin: true, ..beside("parent", "sleep 1000 <&0 & seq 1 20000; exit 6") };
    let mut started = agent.start(&mut control, spec).unwrap();
    let mut stdin = started.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&vec![b'x'; 4 << 20]));
    let begun = Instant::now();
    let outcome = started.finish(&mut control);
    assert_eq!(outcome.status, 6);
    assert!(outcome.stdout.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=20_000));
    assert!(begun.elapsed() < Duration::from_secs(20));
    // And the host is told that nobody reads what it sends.
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn there_are_so_many_at_once_and_no_more_and_their_exits_are_remembered() {
    let (agent, mut control, _main) = container("exec-many");
    let spec = |n: usize| ProcessSpec { stdin: true, ..beside(&format!("p{n}"), "read x; exit $x") };
    let mut all: Vec<Started> =
        (0..FURTHER_MAX).map(|n| agent.start(&mut control, spec(n)).unwrap()).collect();
    let error = control.ask(Command::Start(Box::new(spec(FURTHER_MAX)))).unwrap_err();
    assert!(error.message.contains("limit"), "{error}");
    for (n, started) in all.iter_mut().enumerate() {
        started.stdin.as_mut().unwrap().write_all(format!("{n}\n").as_bytes()).unwrap();
    }
    for (n, started) in all.into_iter().enumerate() {
        assert_eq!(started.finish(&mut control).status, i32::try_from(n).unwrap());
    }
    for n in 0..100 {
        let started = agent.start(&mut control, beside(&format!("q{n}"), "exit 9")).unwrap();
        assert_eq!(started.finish(&mut control).status, 9);
    }
    let known = agent.connect().ready.unwrap().processes;
    assert!(known.len() <= 130, "{} are remembered", known.len());
    let last = known.iter().find(|known| known.id == "q99").unwrap();
    assert_eq!(last.exit.unwrap().status, 9);
    assert!(known.iter().any(|known| known.id == "main" && known.exit.is_none()));
    assert!(!known.iter().any(|known| known.id == "p0"), "the oldest are forgotten");
}

#[test]
fn twenty_start_at_once() {
    let (agent, mut control, _main) = container("exec-twenty");
    let specs: Vec<ProcessSpec> =
        (0..20).map(|n| beside(&format!("p{n}"), &format!("echo {n}; exit {n}"))).collect();
    let asked: Vec<u64> =
        specs.iter().map(|spec| control.send(Command::Start(Box::new(spec.clone())))).collect();
    let mut outputs: Vec<_> = specs
        .iter()
        .map(|spec| (agent.stream(&spec.id, StreamKind::Stdout), agent.stream(&spec.id, StreamKind::Stderr)))
        .collect();
    asked.into_iter().for_each(|seq| control.answer(seq).unwrap());
    for (n, (stdout, _)) in outputs.iter_mut().enumerate() {
        assert_eq!(read_all(stdout), format!("{n}\n").as_bytes());
        assert_eq!(control.end_of(&format!("p{n}")).status, i32::try_from(n).unwrap());
    }
}

#[test]
fn nothing_of_the_agents_is_inherited() {
    let (agent, mut control, _main) = container("exec-clean");
    let mut run = |args: &[&str]| {
        let spec = ProcessSpec { id: args[0].into(), ..process(args) };
        let outcome = agent.start(&mut control, spec).unwrap().finish(&mut control);
        outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    // Descriptor 3 is the directory that ls reads.
    assert_eq!(run(&["ls", "/proc/self/fd"]), "0 1 2 3");
    let (zero, caps) = ("0000000000000000", "00000000a80425fb");
    let expected = format!("SigBlk: {zero} SigIgn: {zero} CapEff: {caps} CapBnd: {caps}");
    assert_eq!(run(&["grep", "-E", "Sig(Blk|Ign)|CapEff|CapBnd", "/proc/self/status"]), expected);
}
