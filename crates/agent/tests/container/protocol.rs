//! The protocol itself: order, repetition, and a host that does not speak it.

use std::io::Write;
use std::thread;
use std::time::Duration;

use hull_protocol::agent::{
    AgentErrorKind, Command, Message, ProcessExit, ProcessSpec, ProcessState, StreamHello, StreamKind,
    VERSION,
};

use crate::host::{Agent, read_all, shell, write_message};

#[test]
fn it_says_who_it_is() {
    let ready = Agent::new("ready").connect().ready.unwrap();
    assert_eq!(ready.version, VERSION);
    assert_eq!(ready.kernel, rustix::system::uname().release().to_str().unwrap());
    assert_eq!(ready.processes, []);
}

#[test]
fn nothing_starts_before_the_set_up_and_that_is_done_once() {
    let agent = Agent::new("order");
    let mut control = agent.connect();
    let error = control.ask(Command::Start(Box::new(shell("true")))).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Invalid);
    assert_eq!(control.signal(15, false).unwrap_err().kind, AgentErrorKind::Invalid);
    control.ask(Command::Setup(Box::new(agent.setup()))).unwrap();
    let again = control.ask(Command::Setup(Box::new(agent.setup()))).unwrap_err();
    assert_eq!(again.kind, AgentErrorKind::Invalid);
}

#[test]
fn a_second_start_is_refused() {
    let agent = Agent::new("second");
    let mut control = agent.ready();
    let started = agent.start(&mut control, shell("sleep 0.2; echo first")).unwrap();
    let error = control.ask(Command::Start(Box::new(shell("echo second")))).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Invalid);
    assert_eq!(started.finish(&mut control).stdout, "first\n");
    let error = control.ask(Command::Start(Box::new(shell("echo second")))).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Invalid);
}

#[test]
fn a_host_that_comes_back_sees_what_happened() {
    let agent = Agent::new("back");
    let mut control = agent.ready();
    let spec = ProcessSpec { stdin: true, ..shell("echo runs; read x; exit 9") };
    let mut started = agent.start(&mut control, spec).unwrap();
    assert_eq!(started.line(), "runs");
    drop(control);
    let mut control = agent.connect();
    let state = |exit| vec![ProcessState { id: "main".into(), exit, terminal: false }];
    assert_eq!(control.ready.take().unwrap().processes, state(None));
    control.signal(9, false).unwrap();
    assert_eq!(control.exited().status, 137);
    drop(control);
    let exit = ProcessExit { status: 137, oom_killed: false };
    assert_eq!(agent.connect().ready.unwrap().processes, state(Some(exit)));
}

#[test]
fn the_newest_control_connection_is_the_one() {
    let agent = Agent::new("newest");
    let mut older = agent.ready();
    let started = agent.start(&mut older, shell("sleep 0.3; exit 4")).unwrap();
    let mut newer = agent.connect();
    assert_eq!(older.message(), None);
    assert_eq!(started.finish(&mut newer).status, 4);
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let agent = Agent::new("garbage");
    let mut control = agent.ready();
    let started = agent.start(&mut control, shell("sleep 0.3; exit 6")).unwrap();
    let unknown = br#"{"seq":1,"command":{"set-time":1},"more":true}"#;
    let mut framed = u32::try_from(unknown.len()).unwrap().to_le_bytes().to_vec();
    framed.extend(unknown);
    for bytes in
        [b"\x04\0\0\0nope".to_vec(), b"\xff\xff\xff\xffxxxx".to_vec(), b"\x01\0\x10\0".to_vec(), framed]
    {
        let mut bad = agent.connect();
        bad.stream.write_all(&bytes).unwrap();
        assert_eq!(bad.message(), None);
    }
    let mut control = agent.connect();
    assert_eq!(started.finish(&mut control).status, 6);
}

#[test]
fn bad_greetings_of_streams_are_turned_away() {
    let agent = Agent::new("greetings");
    let too_long = StreamHello { process: "x".repeat(70_000), stream: StreamKind::Stdout };
    let mut stream = agent.raw_stream();
    write_message(&mut stream, &too_long);
    assert!(matches!(std::io::Read::read(&mut stream, &mut [0]), Ok(0) | Err(_)));
    for bytes in [&b"\x02\0\0\0{}"[..], b"\xff\xff\xff\xff", b"\x10\0"] {
        let mut stream = agent.raw_stream();
        stream.write_all(bytes).unwrap();
        crate::host::end(&stream);
        assert_eq!(read_all(&mut stream), b"");
    }
    // Those that say nothing, and those nobody asked for, do not keep others away.
    let silent: Vec<_> = (0..60).map(|_| agent.raw_stream()).collect();
    let unasked: Vec<_> = (0..40).map(|n| agent.stream(&n.to_string(), StreamKind::Stdout)).collect();
    thread::sleep(Duration::from_millis(100));
    drop(silent);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(agent.run(shell("echo fine")).stdout, "fine\n");
    drop(unasked);
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let agent = Agent::new("pipelined");
    let mut control = agent.connect();
    let setup = control.send(Command::Setup(Box::new(agent.setup())));
    let start = control.send(Command::Start(Box::new(shell("exit 2"))));
    let _streams = [StreamKind::Stdout, StreamKind::Stderr].map(|kind| agent.stream("main", kind));
    assert!(matches!(control.message(), Some(Message::Reply { seq, result: Ok(()) }) if seq == setup));
    control.answer(start).unwrap();
    assert_eq!(control.exited().status, 2);
}
