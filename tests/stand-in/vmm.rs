//! A stand-in for `hull-vmm`: it takes a plan, speaks the control protocol and the agent's, and runs no guest.
//!
//! What its process does is in the container's command: `stay`, `sleep MS`, `exit STATUS`, `say LINES`, `tick MS`,
//! `console LINES`, `crash`, `bug`, `flood SECONDS`, `secrets` (says what it was given of them); `stubborn` hears no signal but
//! SIGKILL, `wedged` not that one either but the power button, `dead` nothing.
#![allow(unsafe_code, reason = "a descriptor known only by its number becomes an owned one")]
#![allow(clippy::unwrap_used, reason = "it stands in a test, which sees it end")]

mod files;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use hull_protocol::agent::{
    self, AgentError, AgentErrorKind, Command, Event, Message, ProcessExit, ProcessSpec, ProcessState, Ready,
    Secret, StreamHello, StreamKind,
};
use hull_protocol::control::{self, PACKET_MAX, Reply, VmmStatus};
use hull_protocol::exit::ExitReason;
use hull_protocol::frame;
use hull_protocol::plan::{BootPlan, PLAN_SLOT, Slot};
use hull_protocol::transfer::TRANSFER_PORT;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

/// How long a process waits for its streams to be connected.
const STREAMS_WAIT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);
/// What a process that floods prints, again and again: a line and its end.
const FLOOD: &str =
    concat!("a log that nobody needs, as fast as it is taken; ", "a log that nobody needs", "\n");
/// The container's own process; others end as soon as they have started.
const MAIN: &str = "main";

#[derive(Default)]
struct State {
    paused: bool,
    ended: Option<ExitReason>,
    process: Option<Process>,
    /// The newest connection of the host.
    host: Option<UnixStream>,
    secrets: Vec<Secret>,
    pressed: bool,
    console: Option<File>,
}

struct Process {
    spec: ProcessSpec,
    signal: Option<i32>,
    exit: Option<ProcessExit>,
    stdout: Option<UnixStream>,
    stderr: Option<UnixStream>,
}

#[derive(Clone, Default)]
struct Machine(Arc<(Mutex<State>, Condvar)>);

impl Machine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.0.1.notify_all();
        changed
    }

    /// Waits while it is paused.
    fn running(&self) -> MutexGuard<'_, State> {
        self.0.1.wait_while(self.lock(), |state| state.paused).unwrap()
    }

    fn end(&self, reason: ExitReason) {
        self.change(|state| state.ended.get_or_insert(reason).to_owned());
    }
}

fn main() {
    if std::env::args().nth(1).is_some() {
        // Somebody asks what its jail goes without.
        return;
    }
    let mut text = String::new();
    File::from(take(PLAN_SLOT)).read_to_string(&mut text).unwrap();
    let plan: BootPlan = serde_json::from_str(&text).unwrap();
    for group in &plan.cgroups {
        File::from(take(*group)).write_all(b"0").unwrap();
    }
    let machine = Machine::default();
    machine.change(|state| state.console = plan.console.output.map(|slot| take(slot).into()));
    write_console(&machine, "the kernel of a stand-in\r\n\u{1b}[2Jand its colours\n");
    if let Some(trace) = plan.trace {
        let _full_disk = writeln!(std::io::stderr(), "hull-vmm[{trace}]: stands in for {}", plan.id);
    }
    let vsock = UnixListener::from(take(plan.vsock.as_ref().unwrap().listener));
    let guest = machine.clone();
    thread::spawn(move || {
        for connection in vsock.incoming().flatten() {
            let machine = guest.clone();
            thread::spawn(move || serve(&machine, connection));
        }
    });
    let listener = take(plan.control.unwrap());
    let spoken = machine.clone();
    thread::spawn(move || obey(&spoken, &listener, &plan));
    let ended = machine.0.1.wait_while(machine.lock(), |state| state.ended.is_none()).unwrap();
    let reason = ended.ended.unwrap();
    drop(ended);
    // The end is told by whoever has the peer; then it is over.
    thread::sleep(Duration::from_millis(20));
    std::process::exit(reason.status());
}

fn take(slot: Slot) -> OwnedFd {
    // SAFETY: the plan's descriptors were there at exec, each is taken once, and nothing else here opens by number.
    unsafe { OwnedFd::from_raw_fd(slot.0) }
}

/// The control socket: one peer at a time.
fn obey(machine: &Machine, listener: &OwnedFd, plan: &BootPlan) {
    loop {
        let peer = accept_with(listener, SocketFlags::CLOEXEC).unwrap();
        let (teller, state) = (peer.try_clone().unwrap(), machine.clone());
        thread::spawn(move || {
            let ended = state.0.1.wait_while(state.lock(), |state| state.ended.is_none()).unwrap();
            let told = control::Message::Event(control::Event::Exited(ended.ended.unwrap()));
            let _gone = send(&teller, &serde_json::to_vec(&told).unwrap(), SendFlags::NOSIGNAL);
        });
        let mut packet = [0; PACKET_MAX];
        while let Ok((_, length @ 1..)) = recv(&peer, &mut packet, RecvFlags::empty()) {
            let request: control::Request = serde_json::from_slice(&packet[..length]).unwrap();
            machine.change(|state| match request.command {
                control::Command::Pause => state.paused = true,
                control::Command::Resume => state.paused = false,
                control::Command::PowerButton => state.pressed = true,
                _ => {}
            });
            let status = VmmStatus { paused: machine.lock().paused, cpus: plan.cpus, memory: plan.memory };
            let reply = control::Message::Reply(Reply { seq: request.seq, result: Ok(status), net: None });
            let _gone = send(&peer, &serde_json::to_vec(&reply).unwrap(), SendFlags::NOSIGNAL);
            if request.command == control::Command::Kill {
                machine.end(ExitReason::Killed);
            }
        }
    }
}

/// One connection of the host to the guest.
fn serve(machine: &Machine, mut connection: UnixStream) -> Option<()> {
    let mut line = String::new();
    BufReader::with_capacity(1, connection.try_clone().ok()?).read_line(&mut line).ok()?;
    drop(machine.running());
    let port: u32 = line.strip_prefix("CONNECT ")?.trim().parse().ok()?;
    connection.write_all(format!("OK {port}\n").as_bytes()).ok()?;
    if port == TRANSFER_PORT {
        return files::answer(connection);
    }
    if port == agent::STREAM_PORT {
        let hello: StreamHello = read(&mut connection)?;
        // It may overtake the request that starts its process.
        let awaited = hello.process == MAIN;
        let early = |state: &mut State| awaited && state.process.is_none();
        drop(machine.0.1.wait_timeout_while(machine.lock(), STREAMS_WAIT, early).unwrap());
        return machine.change(|state| {
            let process = state.process.as_mut().filter(|process| process.spec.id == hello.process)?;
            match hello.stream {
                StreamKind::Stderr => process.stderr = Some(connection),
                StreamKind::Stdout | StreamKind::Terminal => process.stdout = Some(connection),
                StreamKind::Stdin => {}
            }
            Some(())
        });
    }
    let processes = machine.change(|state| {
        state.host = connection.try_clone().ok();
        let known = state.process.iter();
        known
            .map(|process| ProcessState {
                id: process.spec.id.clone(),
                terminal: process.spec.terminal.is_some(),
                exit: process.exit,
            })
            .collect()
    });
    let ready = Ready { version: agent::VERSION, kernel: "stand-in".into(), processes };
    write(&mut connection, &Message::Ready(ready))?;
    while let Some(request) = read::<agent::Request>(&mut connection) {
        drop(machine.running());
        let result = act(machine, request.command);
        write(&mut connection, &Message::Reply { seq: request.seq, result })?;
    }
    Some(())
}

fn act(machine: &Machine, command: Command) -> Result<(), AgentError> {
    let invalid = |text: &str| Err(AgentError { kind: AgentErrorKind::Invalid, message: text.into() });
    match command {
        Command::Secret(secret) => {
            machine.change(|state| state.secrets.push(*secret));
            Ok(())
        }
        Command::Start(spec) if spec.args.first().is_some_and(|word| word == "missing") => Err(AgentError {
            kind: AgentErrorKind::NotFound,
            message: format!("{:?} is not there", spec.args),
        }),
        // The guest's first process has died.
        Command::Start(spec) if spec.args.first().is_some_and(|word| word == "panic") => {
            machine.end(ExitReason::GuestPanic);
            Ok(())
        }
        Command::Start(spec) if spec.id != MAIN => {
            let machine = machine.clone();
            thread::spawn(move || {
                thread::sleep(TICK);
                let host = machine.lock().host.as_ref().and_then(|host| host.try_clone().ok());
                tell_exit(host, spec.id, ProcessExit { status: 0, oom_killed: false });
            });
            Ok(())
        }
        Command::Start(spec) => {
            let process = Process { spec: *spec, signal: None, exit: None, stdout: None, stderr: None };
            machine.change(|state| state.process = Some(process));
            let machine = machine.clone();
            thread::spawn(move || run(&machine));
            Ok(())
        }
        Command::Signal { process, signal, .. } if process == MAIN => {
            machine.change(|state| match &mut state.process {
                Some(process) => {
                    process.signal = Some(signal);
                    Ok(())
                }
                None => invalid("there is no process"),
            })
        }
        Command::Shutdown { .. } => {
            let machine = machine.clone();
            thread::spawn(move || {
                thread::sleep(TICK);
                machine.end(ExitReason::PowerOff);
            });
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The process, from its start to its end.
fn run(machine: &Machine) {
    let connected = |state: &mut State| {
        let process = state.process.as_ref().unwrap();
        process.stdout.is_none() || (process.stderr.is_none() && process.spec.terminal.is_none())
    };
    drop(machine.0.1.wait_timeout_while(machine.lock(), STREAMS_WAIT, connected).unwrap());
    let args = machine.lock().process.as_ref().unwrap().spec.args.clone();
    let status = behave(machine, &args);
    let exit = ProcessExit { status, oom_killed: false };
    let host = machine.change(|state| {
        let process = state.process.as_mut().unwrap();
        (process.stdout, process.stderr, process.exit) = (None, None, Some(exit));
        state.host.as_ref().and_then(|host| host.try_clone().ok())
    });
    tell_exit(host, MAIN.into(), exit);
}

fn tell_exit(host: Option<UnixStream>, process: String, exit: ProcessExit) {
    if let Some(mut host) = host {
        write(&mut host, &Message::Event(Event::Exited { process, exit }));
    }
}

fn behave(machine: &Machine, args: &[String]) -> i32 {
    let word = args.first().map_or("", String::as_str);
    let number: u64 = args.get(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    match word {
        "exit" => return i32::try_from(number).unwrap_or(1),
        "console" => {
            for line in 0..number {
                write_console(machine, &format!("line {line}\n"));
                thread::sleep(TICK);
            }
            return 0;
        }
        "crash" => machine.end(ExitReason::GuestPanic),
        "bug" => {
            eprintln!("hull-vmm met a bug and ends: it stands in for one");
            machine.end(ExitReason::Bug);
        }
        "flood" => {
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(number) {
                say(machine, FLOOD);
            }
            return 0;
        }
        "secrets" => {
            // Not the values: what is said is on the host's disk.
            let secrets = machine.lock().secrets.clone();
            for Secret { number, mode, uid, gid, value } in secrets {
                let sum: u64 = value.reveal().iter().map(|byte| u64::from(*byte)).sum();
                let length = value.reveal().len();
                say(machine, &format!("{number}: {mode:o} {uid}:{gid}, {length} bytes of sum {sum}\n"));
            }
            return 0;
        }
        "say" => {
            (0..number).for_each(|line| say(machine, &format!("line {line}\n")));
            return 0;
        }
        _ => {}
    }
    let heard = |state: &State| (state.process.as_ref().and_then(|process| process.signal), state.pressed);
    let mut passed = Duration::ZERO;
    let mut ticks = 0_u64;
    loop {
        let before = heard(&machine.running());
        let (signal, pressed) = before;
        match (word, signal) {
            ("wedged", _) if pressed => machine.end(ExitReason::PowerOff),
            ("wedged" | "dead", _) => {}
            (_, Some(9)) => return 137,
            ("stubborn", _) => {}
            (_, Some(signal @ (2 | 15))) => return 128 + signal,
            _ => {}
        }
        if word == "sleep" && passed.as_millis() >= u128::from(number) {
            return 0;
        }
        if word == "tick" && passed.as_millis() >= u128::from(number.max(1)) * u128::from(ticks) {
            say(machine, &format!("tick {ticks}\n"));
            ticks += 1;
        }
        // Hundreds of these run at once: they cost nothing while nothing happens.
        let slice = if matches!(word, "sleep" | "tick") { TICK } else { Duration::from_secs(60) };
        drop(machine.0.1.wait_timeout_while(machine.lock(), slice, |state| heard(state) == before).unwrap());
        passed += TICK;
    }
}

/// Prints on the guest's console, which may be on a full disk.
fn write_console(machine: &Machine, text: &str) {
    if let Some(console) = &mut machine.lock().console {
        let _full_disk = console.write_all(text.as_bytes());
    }
}

/// Prints on standard output; what nobody reads is lost.
fn say(machine: &Machine, text: &str) {
    let stdout =
        machine.lock().process.as_ref().and_then(|process| process.stdout.as_ref()?.try_clone().ok());
    if let Some(mut stdout) = stdout {
        let _gone = stdout.write_all(text.as_bytes());
    }
}

fn read<T: serde::de::DeserializeOwned>(connection: &mut UnixStream) -> Option<T> {
    let mut prefix = [0; 4];
    connection.read_exact(&mut prefix).ok()?;
    let mut body = vec![0; frame::length(prefix).ok()?];
    connection.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

fn write(connection: &mut UnixStream, message: &impl serde::Serialize) -> Option<()> {
    let body = serde_json::to_vec(message).ok()?;
    let mut bytes = frame::prefix(body.len()).ok()?.to_vec();
    bytes.extend(body);
    connection.write_all(&bytes).ok()
}
