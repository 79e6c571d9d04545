//! The agent's side of the protocol: control connections and their requests, stream connections and their
//! greeting.
//!
//! Invariant: the newest control connection is the one that is told of events; a request is answered exactly
//! once; no message and no greeting is larger than [`hull_protocol::frame::MESSAGE_MAX`].

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hull_protocol::agent::{
    AgentError, AgentErrorKind, Command, Event, Message, ProcessSpec, Ready, Request, Secret, Setup,
    StreamHello, VERSION,
};
use hull_protocol::frame;
use vsock::{VMADDR_CID_HOST, VsockListener};

use crate::kmsg::log;
use crate::messages::{read_message, write_message};
use crate::process::{Place, Process};
use crate::processes::{Admitted, Processes};
use crate::setup::{failed, set_clock};
use crate::streams::Streams;
use crate::{secrets, transfer, volumes};

/// How long a new stream connection may take to say what it is for.
const HELLO_WAIT: Duration = Duration::from_secs(20);
/// How long a message may wait for a host that does not read.
const SEND_WAIT: Duration = Duration::from_secs(20);
/// How long the host may take to connect the streams it named in a start, as [`Guest::stream_wait`] in a guest.
pub const STREAM_WAIT: Duration = Duration::from_secs(60);
/// How long a killed process may take to end and its exit to reach the host, before a shutdown goes on.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// The largest greeting of a stream connection, in bytes.
const HELLO_MAX: usize = 64 << 10;
/// How often in a row no connection can be accepted before the agent gives up, and the pause in between.
const ACCEPT_TRIES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The most connections that are greeted at one time.
const GREETED_MAX: usize = 256;

/// Where connections come from.
pub enum Listener {
    /// The host, in a guest.
    Vsock(VsockListener),
    /// Anyone with the socket's path.
    Unix(UnixListener),
}

impl Listener {
    /// The next connection of the host's; one of the guest's own processes is turned away.
    fn accept(&self) -> io::Result<UnixStream> {
        match self {
            Self::Vsock(listener) => loop {
                let (connection, peer) = listener.accept()?;
                if peer.cid() == VMADDR_CID_HOST {
                    // A stream socket reads, writes and shuts down the same way, whatever its family.
                    return Ok(connection.as_fd().try_clone_to_owned()?.into());
                }
            },
            Self::Unix(listener) => Ok(listener.accept()?.0),
        }
    }

    /// Serves connections until none can be accepted any more.
    fn serve(&self, mut work: impl FnMut(UnixStream)) -> io::Error {
        let mut failures = 0;
        loop {
            match self.accept() {
                Ok(connection) => {
                    failures = 0;
                    work(connection);
                }
                Err(error) if failures == ACCEPT_TRIES => return error,
                // One that has gone before it was accepted, or no descriptors left: it passes.
                Err(_) => {
                    failures += 1;
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// What the machine around the agent does for it.
pub struct Guest {
    /// Makes the container's root.
    pub setup: fn(&Setup) -> Result<PathBuf, AgentError>,
    /// Lets go of it and turns the guest off.
    pub shut_down: fn(),
    /// This program, to be started again as the stage.
    pub stage: PathBuf,
    /// The root of the control groups.
    pub cgroups: PathBuf,
    /// How long the host may take to connect the streams it named in a start.
    pub stream_wait: Duration,
}

/// The agent.
pub struct Server {
    guest: Guest,
    streams: Arc<Streams>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The root and what it was made from, after Setup.
    ready: Option<(PathBuf, Setup)>,
    processes: Processes,
    /// The newest control connection.
    host: Option<Arc<Connection>>,
    /// The end has been ordered.
    ending: bool,
}

/// The sending side of a control connection.
struct Connection {
    stream: UnixStream,
    /// Held while a message is sent.
    sending: Mutex<()>,
}

impl Connection {
    fn send(&self, message: &Message) {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if write_message(&mut &self.stream, message).is_err() {
            // Half a message may be out: nothing after it could be understood.
            self.close();
        }
    }

    /// Ends it, also for one that is sending right now.
    fn close(&self) {
        let _gone_already = self.stream.shutdown(Shutdown::Both);
    }
}

fn invalid(message: impl Into<String>) -> AgentError {
    AgentError { kind: AgentErrorKind::Invalid, message: message.into() }
}

impl Server {
    /// An agent that has nothing yet.
    pub fn new(guest: Guest) -> Self {
        Self { guest, streams: Arc::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves all ports; comes back only when it cannot.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub fn serve(
        self: Arc<Self>,
        control: Listener,
        streams: Listener,
        transfers: Listener,
    ) -> io::Result<()> {
        let server = self.clone();
        spawn("streams", move || {
            let error = server.accept_streams(&streams);
            log(&format!("no more streams can be connected: {error}"));
        })?;
        let server = self.clone();
        spawn("transfers", move || {
            let error = server.accept_transfers(&transfers);
            log(&format!("no more files can be copied: {error}"));
        })?;
        Err(control.serve(|connection| {
            let server = self.clone();
            let served = spawn("control", move || {
                if let Err(error) = server.converse(connection) {
                    log(&format!("a control connection ended: {error}"));
                }
            });
            if let Err(error) = served {
                log(&format!("a control connection was turned away: {error}"));
            }
        }))
    }

    fn accept_streams(&self, listener: &Listener) -> io::Error {
        let greeted = Arc::new(());
        listener.serve(|connection| {
            if Arc::strong_count(&greeted) > GREETED_MAX {
                return;
            }
            let (streams, place) = (self.streams.clone(), greeted.clone());
            let greet = move || {
                let _place = place;
                // One that does not say what it is for is of no use to anybody.
                let _turned_away = greet(&streams, connection);
            };
            if let Err(error) = spawn("hello", greet) {
                log(&format!("a stream was turned away: {error}"));
            }
        })
    }

    fn accept_transfers(self: Arc<Self>, listener: &Listener) -> io::Error {
        let served = Arc::new(());
        listener.serve(|connection| {
            if Arc::strong_count(&served) > transfer::AT_ONCE {
                return;
            }
            let (server, place) = (self.clone(), served.clone());
            let container =
                move || server.first().ok_or_else(|| invalid("nothing has been started here yet"));
            let serve = move || {
                let _place = place;
                // A host that breaks off knows it.
                let _broke_off = transfer::serve(connection, container);
            };
            if let Err(error) = spawn("transfer", serve) {
                log(&format!("a transfer was turned away: {error}"));
            }
        })
    }

    fn converse(self: Arc<Self>, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(SEND_WAIT))?;
        let connection = Arc::new(Connection { stream, sending: Mutex::default() });
        {
            let mut state = self.state();
            if let Some(older) = state.host.replace(connection.clone()) {
                older.close();
            }
            // Under the lock: an exit is in this message or in an event after it, or in both.
            connection.send(&Message::Ready(ready(&state)));
        }
        let ended = self.clone().converse_until_end(&connection);
        connection.close();
        let mut state = self.state();
        if state.host.as_ref().is_some_and(|host| Arc::ptr_eq(host, &connection)) {
            state.host = None;
        }
        ended
    }

    fn converse_until_end(self: Arc<Self>, connection: &Arc<Connection>) -> io::Result<()> {
        while let Some(Request { seq, command }) = read_message(&mut &connection.stream, frame::MESSAGE_MAX)?
        {
            self.clone().obey(seq, command, connection)?;
        }
        Ok(())
    }

    fn obey(self: Arc<Self>, seq: u64, command: Command, connection: &Arc<Connection>) -> io::Result<()> {
        let reply = |result| connection.send(&Message::Reply { seq, result });
        match command {
            Command::Setup(setup) => reply(self.set_up(*setup)),
            Command::Secret(secret) => reply(self.keep(&secret)),
            Command::Start(spec) => {
                let connection = connection.clone();
                let (place, admitted) = match self.admit(&spec) {
                    Ok(admitted) => admitted,
                    Err(error) => {
                        reply(Err(error));
                        return Ok(());
                    }
                };
                spawn("process", move || {
                    self.run(&place, admitted, &spec, |result| {
                        connection.send(&Message::Reply { seq, result })
                    });
                })?;
            }
            Command::Signal { process, signal, group } => {
                reply(self.state().processes.get(&process).and_then(|process| process.signal(signal, group)));
            }
            Command::Resize { process, size } => {
                reply(self.state().processes.get(&process).and_then(|process| process.resize(size)));
            }
            Command::SetTime(unix_ns) => {
                reply(set_clock(unix_ns).map_err(|error| failed("setting the clock", error)));
            }
            Command::Grow { serial, size } => {
                let connection = connection.clone();
                // A disk may take a while to have grown.
                spawn("grow", move || {
                    connection.send(&Message::Reply { seq, result: self.grow(&serial, size) });
                })?;
            }
            Command::Shutdown { grace_ms } => {
                if !std::mem::replace(&mut self.state().ending, true) {
                    let server = self.clone();
                    spawn("shutdown", move || server.shut_down(Duration::from_millis(grace_ms)))?;
                }
                reply(Ok(()));
            }
        }
        Ok(())
    }

    fn set_up(&self, setup: Setup) -> Result<(), AgentError> {
        let mut state = self.state();
        if state.ready.is_some() {
            return Err(invalid("the guest is set up already"));
        }
        let root = (self.guest.setup)(&setup)?;
        secrets::prepare(&setup)?;
        state.ready = Some((root, setup));
        Ok(())
    }

    fn keep(&self, secret: &Secret) -> Result<(), AgentError> {
        match &self.state().ready {
            Some((_, setup)) => secrets::keep(setup, secret),
            None => Err(invalid("the guest is not set up yet")),
        }
    }

    fn grow(&self, serial: &str, size: u64) -> Result<(), AgentError> {
        let setup = self.state().ready.as_ref().map(|(_, setup)| setup.clone());
        volumes::grow(&setup.ok_or_else(|| invalid("the guest is not set up yet"))?, serial, size)
    }

    fn admit(&self, spec: &ProcessSpec) -> Result<(Place, Admitted), AgentError> {
        if spec.args.is_empty() {
            return Err(invalid("no command: neither the image nor the request names one"));
        }
        let mut state = self.state();
        if state.ending {
            return Err(invalid("this guest is being shut down"));
        }
        let Some((root, setup)) = &state.ready else { return Err(invalid("the guest is not set up yet")) };
        let place = Place {
            root: root.clone(),
            read_only: setup.read_only,
            hostname: setup.hostname.clone(),
            mounts: setup.mounts.clone(),
            cgroups: self.guest.cgroups.clone(),
            processes_max: setup.processes_max,
            stage: self.guest.stage.clone(),
            streams: self.streams.clone(),
            stream_wait: self.guest.stream_wait,
        };
        let admitted = state.processes.admit(spec)?;
        self.streams.open(&spec.id);
        Ok((place, admitted))
    }

    fn run(
        &self,
        place: &Place,
        admitted: Admitted,
        spec: &ProcessSpec,
        reply: impl FnOnce(Result<(), AgentError>),
    ) {
        let Admitted { process, container } = admitted;
        let running = match process.start(place, spec, container) {
            Ok(running) => running,
            Err(error) => {
                self.streams.forget(&spec.id);
                self.state().processes.remove(&spec.id);
                reply(Err(error));
                return;
            }
        };
        reply(Ok(()));
        let exit = process.wait(place, spec, running);
        let host = self.state().host.clone();
        if let Some(host) = host {
            host.send(&Message::Event(Event::Exited { process: spec.id.clone(), exit }));
        }
        process.tell();
    }

    fn first(&self) -> Option<Arc<Process>> {
        self.state().processes.first()
    }

    fn shut_down(&self, grace: Duration) {
        // With the container's own process end all others.
        if let Some(process) = self.first() {
            let ended = process.signal(rustix::process::Signal::TERM.as_raw(), false).is_ok()
                && process.told_within(grace);
            if !ended && process.signal(rustix::process::Signal::KILL.as_raw(), false).is_ok() {
                let _host_does_not_read = process.told_within(KILL_WAIT);
            }
        }
        self.streams.end();
        (self.guest.shut_down)();
    }
}

fn ready(state: &State) -> Ready {
    Ready {
        version: VERSION,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processes: state.processes.states(),
    }
}

fn greet(streams: &Streams, mut connection: UnixStream) -> io::Result<()> {
    connection.set_read_timeout(Some(HELLO_WAIT))?;
    let hello: Option<StreamHello> = read_message(&mut connection, HELLO_MAX)?;
    connection.set_read_timeout(None)?;
    if let Some(StreamHello { process, stream }) = hello {
        streams.offer(process, stream, connection);
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}
