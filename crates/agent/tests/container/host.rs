//! The host's side of the protocol, as a test speaks it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hull_agent::server::{Guest, Listener, Server};
use hull_protocol::agent::{
    AgentError, Command, DEFAULT_CAPABILITIES, Event, Message, Mount, ProcessExit, ProcessSpec, Ready,
    Request, Setup, StreamHello, StreamKind,
};
use hull_protocol::frame;
use hull_protocol::transfer::{Answer, Query};
use rustix::mount::{UnmountFlags, unmount};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::image;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent with a root for its container.
pub struct Agent {
    directory: TempDir,
    pub name: String,
    read_only: bool,
    mounts: Vec<Mount>,
}

/// What a test wants otherwise.
pub struct Options {
    pub read_only: bool,
    pub mounts: Vec<Mount>,
    pub cgroups: PathBuf,
    pub stream_wait: Duration,
    pub shut_down: fn(),
}

impl Default for Options {
    fn default() -> Self {
        let shut_down = || panic!("this test does not shut the guest down");
        // The machine that tests run on may have no control groups of version 2: most do without.
        let (cgroups, stream_wait) = ("/nonexistent".into(), image::WAIT);
        Self { read_only: false, mounts: Vec::new(), cgroups, stream_wait, shut_down }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What is mounted there would keep its directory.
        while unmount(self.root(), UnmountFlags::DETACH).is_ok() {}
    }
}

impl Agent {
    pub fn new(name: &str) -> Self {
        Self::with_image(name, |_| {})
    }

    pub fn with_image(name: &str, change: impl FnOnce(&Path)) -> Self {
        Self::with(name, Options::default(), change)
    }

    pub fn with(name: &str, options: Options, change: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        image::build(name, &root, change);
        let server = Server::new(Guest {
            setup: image::setup,
            shut_down: options.shut_down,
            stage: env!("CARGO_BIN_EXE_hull-agent").into(),
            cgroups: options.cgroups,
            stream_wait: options.stream_wait,
        });
        let listen = |name| Listener::Unix(UnixListener::bind(directory.path().join(name)).unwrap());
        let (control, streams, transfers) = (listen("control"), listen("streams"), listen("transfers"));
        thread::spawn(move || Arc::new(server).serve(control, streams, transfers));
        Self { directory, name: name.to_owned(), read_only: options.read_only, mounts: options.mounts }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A control connection, greeted, nothing asked yet.
    pub fn connect(&self) -> Control {
        let stream = UnixStream::connect(self.directory.path().join("control")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut control =
            Control { stream, seq: 0, events: VecDeque::new(), replies: HashMap::new(), ready: None };
        match control.message() {
            Some(Message::Ready(ready)) => control.ready = Some(ready),
            other => panic!("the first message is {other:?}"),
        }
        control
    }

    /// A control connection of an agent that is set up.
    pub fn ready(&self) -> Control {
        let mut control = self.connect();
        control.ask(Command::Setup(Box::new(self.setup()))).unwrap();
        control
    }

    pub fn setup(&self) -> Setup {
        Setup {
            time_unix_ns: 0,
            hostname: self.name.clone(),
            read_only: self.read_only,
            data_disk: false,
            hosts: Vec::new(),
            resolv_conf: Vec::new(),
            interfaces: Vec::new(),
            volumes: Vec::new(),
            mounts: self.mounts.clone(),
            processes_max: None,
        }
    }

    pub fn raw_stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("streams")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection for a question, and its first answer.
    pub fn query(&self, query: &Query) -> (UnixStream, Result<Answer, AgentError>) {
        let mut connection = UnixStream::connect(self.directory.path().join("transfers")).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        write_message(&mut connection, query);
        let answer = read_message(&mut connection);
        (connection, answer)
    }

    pub fn stream(&self, process: &str, stream: StreamKind) -> UnixStream {
        let mut connection = self.raw_stream();
        write_message(&mut connection, &StreamHello { process: process.into(), stream });
        connection
    }

    /// Starts a process with its output streams, and its input if it has one.
    pub fn start(&self, control: &mut Control, spec: ProcessSpec) -> Result<Started, AgentError> {
        let stdin = spec.stdin.then(|| self.stream(&spec.id, StreamKind::Stdin));
        let stdout = self.stream(&spec.id, StreamKind::Stdout);
        let stderr = self.stream(&spec.id, StreamKind::Stderr);
        let id = spec.id.clone();
        control.ask(Command::Start(Box::new(spec)))?;
        Ok(Started { id, stdin, stdout, stderr })
    }

    /// Runs a process to its end.
    pub fn run(&self, spec: ProcessSpec) -> Outcome {
        let mut control = self.ready();
        let started = self.start(&mut control, spec).unwrap();
        started.finish(&mut control)
    }

    /// Why a process does not start.
    pub fn refusal(&self, spec: ProcessSpec) -> AgentError {
        let mut control = self.ready();
        self.start(&mut control, spec).err().expect("the process starts")
    }
}

/// A process that runs.
pub struct Started {
    id: String,
    pub stdin: Option<UnixStream>,
    pub stdout: UnixStream,
    pub stderr: UnixStream,
}

/// What a process leaves behind.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: i32,
    pub oom_killed: bool,
}

impl Started {
    /// Waits for what a process says; one line.
    pub fn line(&mut self) -> String {
        line(&mut self.stdout)
    }

    pub fn finish(mut self, control: &mut Control) -> Outcome {
        drop(self.stdin.take());
        let mut stderr = self.stderr;
        let stderr = thread::spawn(move || read_all(&mut stderr));
        let stdout = read_all(&mut self.stdout);
        let exit = control.end_of(&self.id);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome {
            stdout: text(stdout),
            stderr: text(stderr.join().unwrap()),
            status: exit.status,
            oom_killed: exit.oom_killed,
        }
    }

    /// Gives it so many bytes, all of which must come back.
    pub fn echoes(mut self, length: u64) {
        let mut stdin = self.stdin.take().unwrap();
        let writer = thread::spawn(move || {
            let mut sum = DefaultHasher::new();
            for number in 0..length >> 16 {
                let chunk: Vec<u8> =
                    (0..8192_u64).flat_map(|i| (i * 0x9e37_79b9 + number).to_le_bytes()).collect();
                sum.write(&chunk);
                stdin.write_all(&chunk).unwrap();
            }
            end(&stdin);
            (sum.finish(), stdin)
        });
        let (mut sum, mut total, mut chunk) = (DefaultHasher::new(), 0, [0; 65536]);
        loop {
            match self.stdout.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => {
                    total += length as u64;
                    sum.write(&chunk[..length]);
                }
                // A time limit makes a socket's calls end at any signal, such as the C library's to all threads.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("after {total} bytes: {error}"),
            }
        }
        let (sent, _stdin) = writer.join().unwrap();
        assert_eq!((total, sum.finish()), (length, sent));
    }
}

pub fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn line(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    while bytes.last() != Some(&b'\n') {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        bytes.extend(one);
    }
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

/// The host's end of a control connection.
pub struct Control {
    pub stream: UnixStream,
    seq: u64,
    events: VecDeque<Event>,
    replies: HashMap<u64, Result<(), AgentError>>,
    pub ready: Option<Ready>,
}

impl Control {
    pub fn send(&mut self, command: Command) -> u64 {
        self.seq += 1;
        write_message(&mut self.stream, &Request { seq: self.seq, command });
        self.seq
    }

    pub fn answer(&mut self, wanted: u64) -> Result<(), AgentError> {
        loop {
            if let Some(result) = self.replies.remove(&wanted) {
                return result;
            }
            match self.message() {
                Some(Message::Reply { seq, result }) => drop(self.replies.insert(seq, result)),
                Some(Message::Event(event)) => self.events.push_back(event),
                other => panic!("{other:?} instead of the answer to request {wanted}"),
            }
        }
    }

    pub fn ask(&mut self, command: Command) -> Result<(), AgentError> {
        let seq = self.send(command);
        self.answer(seq)
    }

    pub fn signal(&mut self, signal: i32, group: bool) -> Result<(), AgentError> {
        self.ask(Command::Signal { process: "main".into(), signal, group })
    }

    pub fn exited(&mut self) -> ProcessExit {
        self.end_of("main")
    }

    /// How a process ended, as soon as it has.
    pub fn end_of(&mut self, wanted: &str) -> ProcessExit {
        loop {
            let known = |event: &Event| matches!(event, Event::Exited { process, .. } if process == wanted);
            if let Some(at) = self.events.iter().position(known) {
                let Some(Event::Exited { exit, .. }) = self.events.remove(at) else { unreachable!() };
                return exit;
            }
            match self.message() {
                Some(Message::Event(event)) => self.events.push_back(event),
                other => panic!("{other:?} instead of the end of {wanted}"),
            }
        }
    }

    /// The next message; none when the agent has closed the connection.
    pub fn message(&mut self) -> Option<Message> {
        let mut prefix = [0; 4];
        match self.stream.read(&mut prefix) {
            Ok(0) => return None,
            Ok(length) => self.stream.read_exact(&mut prefix[length..]).unwrap(),
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.message(),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no message: {error}"),
        }
        let mut body = vec![0; frame::length(prefix).unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        Some(serde_json::from_slice(&body).unwrap())
    }
}

pub fn read_message<T: DeserializeOwned>(stream: &mut UnixStream) -> T {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; frame::length(prefix).unwrap()];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

pub fn write_message(stream: &mut UnixStream, message: &impl Serialize) {
    let body = serde_json::to_vec(message).unwrap();
    let mut bytes = frame::prefix(body.len()).unwrap().to_vec();
    bytes.extend(body);
    stream.write_all(&bytes).unwrap();
}

/// Says end of file.
pub fn end(stream: &UnixStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// A process that is root in `/`, with Docker's capabilities and no input.
pub fn process(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        id: "main".into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        workdir: "/".into(),
        user: String::new(),
        terminal: None,
        stdin: false,
        capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
        rlimits: Vec::new(),
        no_new_privileges: false,
    }
}

/// The same, beside the container's own.
pub fn beside(id: &str, script: &str) -> ProcessSpec {
    ProcessSpec { id: id.into(), ..shell(script) }
}

pub fn shell(script: &str) -> ProcessSpec {
    process(&["sh", "-c", script])
}
