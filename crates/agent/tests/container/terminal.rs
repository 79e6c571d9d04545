//! A process with a terminal.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use hull_protocol::agent::{Command, ProcessSpec, StreamKind, WindowSize};

use crate::host::{Agent, Control, line, read_all, shell};

const SIZE: WindowSize = WindowSize { rows: 33, cols: 101 };

fn start(agent: &Agent, script: &str) -> (Control, UnixStream) {
    let mut control = agent.ready();
    let terminal = agent.stream("main", StreamKind::Terminal);
    let spec = ProcessSpec { terminal: Some(SIZE), stdin: true, ..shell(script) };
    control.ask(Command::Start(Box::new(spec))).unwrap();
    (control, terminal)
}

fn text(terminal: &mut UnixStream) -> String {
    String::from_utf8(read_all(terminal)).unwrap().replace("\r\n", "\n")
}

#[test]
fn it_is_the_controlling_terminal_and_the_console() {
    let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo own > /dev/tty; echo console > /dev/console;
        ls -1 /dev/pts; echo $TERM; ps -o pid,tty,comm >/tmp/ps; grep -c 136,0 /tmp/ps; exit 3";
    let agent = Agent::new("tty");
    let (mut control, mut terminal) = start(&agent, script);
    let shown = text(&mut terminal);
    // The last is the shell and ps.
    assert_eq!(shown, "/dev/pts/0\n33 101\nall\nown\nconsole\n0\nptmx\nxterm\n2\n");
    assert_eq!(control.exited().status, 3);
}

#[test]
fn it_can_be_resized_and_its_process_is_told() {
    let agent = Agent::new("resize");
    let (mut control, mut terminal) =
        start(&agent, "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut terminal), "ready");
    let size = WindowSize { rows: 50, cols: 200 };
    control.ask(Command::Resize { process: "main".into(), size }).unwrap();
    assert_eq!(line(&mut terminal), "50 200");
    assert_eq!(control.exited().status, 0);
    // Afterwards it is too late, which is no error.
    control.ask(Command::Resize { process: "main".into(), size }).unwrap();
}

#[test]
fn control_c_interrupts_what_runs_in_it() {
    let agent = Agent::new("interrupt");
    let (mut control, mut terminal) =
        start(&agent, "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut terminal), "ready");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(text(&mut terminal), "^Ccaught\n");
    assert_eq!(control.exited().status, 5);
}

#[test]
fn fifty_kilobytes_go_through_it() {
    let agent = Agent::new("tty-bytes");
    let (mut control, mut terminal) =
        start(&agent, "stty raw -echo; echo ready; head -c 51200 | md5sum; seq 1 9000");
    assert_eq!(line(&mut terminal), "ready");
    let bytes: Vec<u8> = (0..51_200_u32).map(|i| (i % 251) as u8).collect();
    let mut writer = terminal.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = thread::spawn(move || writer.write_all(&sent).unwrap());
    let sum = line(&mut terminal);
    writer.join().unwrap();
    std::fs::write(agent.root().join("sent"), &bytes).unwrap();
    let expected = std::process::Command::new("md5sum").arg(agent.root().join("sent")).output();
    let expected = expected.expect("this test needs md5sum, from coreutils").stdout;
    assert_eq!(sum.split(' ').next().unwrap().as_bytes(), &expected[..32]);
    let numbers = text(&mut terminal);
    assert!(numbers.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=9000));
    assert_eq!(control.exited().status, 0);
}

#[test]
fn both_directions_move_to_a_new_connection() {
    let agent = Agent::new("tty-again");
    let (mut control, mut terminal) =
        start(&agent, "stty -echo; echo ready; while read x; do echo got $x; done");
    assert_eq!(line(&mut terminal), "ready");
    terminal.shutdown(std::net::Shutdown::Both).unwrap();
    for round in 0..5 {
        let mut terminal = agent.stream("main", StreamKind::Terminal);
        terminal.write_all(format!("{round}\n").as_bytes()).unwrap();
        assert_eq!(line(&mut terminal), format!("got {round}"));
        if round == 2 {
            // One that stays open is taken over from.
            std::mem::forget(terminal);
        }
    }
    let mut terminal = agent.stream("main", StreamKind::Terminal);
    thread::sleep(Duration::from_millis(50));
    terminal.write_all(b"\x04").unwrap();
    assert_eq!(text(&mut terminal), "");
    assert_eq!(control.exited().status, 0);
}

#[test]
fn a_hang_up_of_the_host_is_no_end_of_file() {
    let agent = Agent::new("tty-half");
    let (mut control, mut terminal) = start(&agent, "echo ready; sleep 0.3; echo still here");
    assert_eq!(line(&mut terminal), "ready");
    crate::host::end(&terminal);
    assert_eq!(text(&mut terminal), "still here\n");
    assert_eq!(control.exited().status, 0);
}
