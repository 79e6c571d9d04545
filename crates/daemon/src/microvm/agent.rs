//! The host's side of the agent's protocol, on the unix socket of a microVM's vsock device.
//!
//! The VMM holds a connection until the guest listens, so connecting is the one wait for readiness. What the agent
//! says is hostile: messages are bounded, unknown ones end the connection.

use std::collections::HashMap;
use std::io;
use std::path::Path;
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

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<(), AgentError>>>>>;

/// A control connection.
pub(super) struct Agent {
    sink: OwnedWriteHalf,
    waiting: Waiting,
    next: u64,
    /// What happens by itself; closed when the agent is gone.
    pub(super) events: mpsc::Receiver<Event>,
    /// Who it is.
    pub(super) ready: Ready,
}

fn lost() -> AgentError {
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
        Ok(Self { sink, waiting, next: 1, events, ready })
    }

    /// Sends a request; the answer comes through the receiver.
    pub(super) async fn ask(&mut self, command: Command) -> oneshot::Receiver<Result<(), AgentError>> {
        let (answer, answered) = oneshot::channel();
        let seq = self.next;
        self.next = self.next.wrapping_add(1);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, answer);
        if write_message(&mut self.sink, &Request { seq, command }).await.is_err() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
        }
        answered
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(&mut self, command: Command) -> Result<(), AgentError> {
        self.ask(command).await.await.unwrap_or_else(|_| Err(lost()))
    }
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
async fn dial(vsock: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(vsock).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the line belongs to the guest's program.
    while answer.len() < 32 && answer.last() != Some(&b'\n') {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(protocol("the guest refused the connection")) }
}

async fn read_message<T: DeserializeOwned>(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
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

async fn write_message(sink: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = frame::prefix(body.len()).map_err(io::Error::other)?.to_vec();
    bytes.extend(body);
    sink.write_all(&bytes).await
}
