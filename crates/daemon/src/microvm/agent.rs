//! The host's side of the agent's protocol, on the unix socket of a microVM's vsock device.
//!
//! The VMM holds a connection until the guest listens, so connecting is the one wait for readiness. What the agent
//! says is hostile: messages are bounded, unknown ones end the connection.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_protocol::agent::{
    AgentError, AgentErrorKind, CONTROL_PORT, Command, Event, Message, Ready, Request, STREAM_PORT,
    StreamHello, StreamKind, VERSION,
};
use hull_protocol::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

/// How many events wait for the actor.
const EVENTS_MAX: usize = 16;
/// How many requests wait to be written.
const REQUESTS_MAX: usize = 32;
/// How many answers are waited for before those nobody wants any more are looked for.
const WAITING_MAX: usize = 256;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<(), AgentError>>>>>;

/// A way to ask the agent that many can have.
#[derive(Clone)]
pub(super) struct Caller {
    outbox: mpsc::Sender<Request>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

/// A control connection.
pub(super) struct Agent {
    caller: Caller,
    /// What happens by itself; closed when the agent is gone.
    pub(super) events: mpsc::Receiver<Event>,
    /// Who it is.
    pub(super) ready: Ready,
}

/// What an answer is that does not come any more.
pub(super) fn lost() -> AgentError {
    AgentError {
        kind: AgentErrorKind::Failed,
        message: "the connection to the guest's agent was lost".into(),
    }
}

fn protocol(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

impl Agent {
    /// Connects, as soon as the guest listens.
    pub(super) async fn connect(vsock: &Path) -> io::Result<Self> {
        let stream = dial(vsock, CONTROL_PORT).await?;
        let (mut source, sink) = stream.into_split();
        let ready = match read_message(&mut source).await? {
            Some(Message::Ready(ready)) => ready,
            _ => return Err(protocol("the guest's agent did not introduce itself")),
        };
        if ready.version != VERSION {
            return Err(protocol("the guest's agent is of another version: import the kernel again"));
        }
        let waiting = Waiting::default();
        let (told, events) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(listen(source, waiting.clone(), told));
        let (outbox, requests) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(write_all(requests, sink, waiting.clone()));
        let caller = Caller { outbox, waiting, next: Arc::new(AtomicU64::new(1)) };
        Ok(Self { caller, events, ready })
    }

    /// For those who ask beside the run.
    pub(super) fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// Sends a request; the answer comes through the receiver.
    pub(super) async fn ask(&mut self, command: Command) -> oneshot::Receiver<Result<(), AgentError>> {
        self.caller.ask(command).await
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(&mut self, command: Command) -> Result<(), AgentError> {
        self.caller.request(command).await
    }
}

impl Caller {
    /// Sends a request; the answer comes through the receiver, which closes when there is none.
    pub(super) async fn ask(&self, command: Command) -> oneshot::Receiver<Result<(), AgentError>> {
        let (answer, answered) = oneshot::channel();
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= WAITING_MAX {
                // An agent that does not answer must not fill the host with those who have given it up.
                waiting.retain(|_, answer| !answer.is_closed());
            }
            waiting.insert(seq, answer);
        }
        if self.outbox.send(Request { seq, command }).await.is_err() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
        }
        answered
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(&self, command: Command) -> Result<(), AgentError> {
        self.ask(command).await.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Writes requests, each whole: who asks may lose interest at any time.
async fn write_all(mut requests: mpsc::Receiver<Request>, mut sink: OwnedWriteHalf, waiting: Waiting) {
    while let Some(request) = requests.recv().await {
        if write_message(&mut sink, &request).await.is_err() {
            break;
        }
    }
    requests.close();
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

async fn listen(mut source: impl AsyncRead + Unpin, waiting: Waiting, told: mpsc::Sender<Event>) {
    loop {
        match read_message(&mut source).await {
            Ok(Some(Message::Reply { seq, result })) => {
                let asked = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
                let _nobody_waits = asked.map(|asked| asked.send(result));
            }
            Ok(Some(Message::Event(event))) => {
                if told.send(event).await.is_err() {
                    return;
                }
            }
            Ok(Some(Message::Ready(_))) | Ok(None) | Err(_) => break,
        }
    }
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Connects one stream of a process.
pub(super) async fn connect_stream(
    vsock: &Path,
    process: &str,
    stream: StreamKind,
) -> io::Result<UnixStream> {
    let mut connection = dial(vsock, STREAM_PORT).await?;
    write_message(&mut connection, &StreamHello { process: process.to_owned(), stream }).await?;
    Ok(connection)
}

/// Connects to a port of the guest.
pub(super) async fn dial(vsock: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(vsock).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the line belongs to the guest's program.
    while answer.len() < 32 && answer.last() != Some(&b'\n') {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(protocol("the guest refused the connection")) }
}

pub(super) async fn read_message<T: DeserializeOwned>(
    source: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match source.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; frame::length(prefix).map_err(io::Error::other)?];
    source.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

pub(super) async fn write_message(
    sink: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = frame::prefix(body.len()).map_err(io::Error::other)?.to_vec();
    bytes.extend(body);
    sink.write_all(&bytes).await
}
