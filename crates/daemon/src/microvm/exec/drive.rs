//! One further process, driven from its start to its end by a task of its own.
//!
//! Invariant: its output is read to the end whether anybody wants it or not, so that it never stands still because a
//! client has left; while a client is there and does not read, it does.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hull_protocol::agent::{AgentError, AgentErrorKind, Command, ProcessExit, ProcessSpec, StreamKind};
use hull_protocol::api::ExitStatus;
use hull_protocol::stream::{Kind, PAYLOAD_MAX};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Execs, KILLED, Session};
use crate::microvm::agent::{connect_stream, lost};
use crate::microvm::output::{Input, Sent};
use crate::microvm::run::carry_in;

/// How long a start may take: the agent gives the streams a minute.
const START_WAIT: Duration = Duration::from_secs(90);
/// How long the last output of a process may take whose microVM has ended.
const FAREWELL_WAIT: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How many chunks wait for a client, and for the process.
const QUEUE: usize = 8;
/// How much is kept of what a captured process prints, in bytes: as Docker's.
const CAPTURE_MAX: usize = 4096;

/// The client's end of a process's streams.
pub struct Front {
    output: mpsc::Sender<Sent>,
    input: mpsc::Receiver<Input>,
}

/// Both ends of a client's way to a process.
pub fn front() -> (Front, mpsc::Receiver<Sent>, mpsc::Sender<Input>) {
    let (output, sent) = mpsc::channel(QUEUE);
    let (typed, input) = mpsc::channel(QUEUE);
    (Front { output, input }, sent, typed)
}

/// A process that is to be started, or runs.
pub(super) struct Task {
    pub(super) execs: Arc<Execs>,
    pub(super) session: Session,
    pub(super) process: ProcessSpec,
    pub(super) ended: oneshot::Receiver<ProcessExit>,
}

/// Its connections.
struct Streams {
    outward: Vec<(Kind, UnixStream)>,
    stdin: Option<UnixStream>,
    /// The one connection goes both ways.
    terminal: bool,
}

impl Task {
    /// Starts it and stays with it until its end.
    pub(super) async fn run(mut self, front: Option<Front>, told: oneshot::Sender<Result<(), AgentError>>) {
        let streams = match launch(&self.session, &self.process).await {
            Ok(streams) => streams,
            Err(error) => {
                let status = refusal_status(error.kind);
                self.execs.conclude(&self.process.id, status, Some(error.message.clone()));
                if let Some(front) = front {
                    let exit = exit_status(status, Some(error.message.clone()), false);
                    let _client_has_left = front.output.send(Sent::Exit(exit)).await;
                }
                let _nobody_asks = told.send(Err(error));
                return;
            }
        };
        let _nobody_asks = told.send(Ok(()));
        let (output, input) = match front {
            Some(Front { output, input }) => (Some(output), Some(input)),
            None => (None, None),
        };
        let pumps = pump(streams, output.clone(), input);
        let exit = self.follow(pumps).await;
        if let Some(output) = output {
            let _client_has_left = output.send(Sent::Exit(exit)).await;
        }
    }

    /// Stays with one that an earlier daemon started, and throws its output away.
    pub(super) async fn take_over(mut self) {
        let pumps = match connect(&self.session.vsock, &self.process, false).await {
            Ok(streams) => pump(streams, None, None),
            Err(error) => {
                tracing::debug!("the streams of {} are not read: {error}", self.process.id);
                JoinSet::new()
            }
        };
        self.follow(pumps).await;
    }

    /// Waits for its end and for the last of its output, and notes it.
    async fn follow(&mut self, mut pumps: JoinSet<()>) -> ExitStatus {
        let output_is_out = async { while pumps.join_next().await.is_some() {} };
        let (status, error, oom_killed) = match (&mut self.ended).await {
            Ok(exit) => {
                output_is_out.await;
                (exit.status, None, exit.oom_killed)
            }
            Err(_) => {
                let _the_guest_is_gone = tokio::time::timeout(FAREWELL_WAIT, output_is_out).await;
                (KILLED, Some("the microVM ended".to_owned()), false)
            }
        };
        self.execs.conclude(&self.process.id, status, error.clone());
        exit_status(status, error, oom_killed)
    }

    /// Runs it with its output captured; kills it at the limit.
    pub(super) async fn capture(mut self, limit: Duration) -> Result<(i32, Vec<u8>), AgentError> {
        let launched = launch(&self.session, &self.process).await;
        let streams = launched.inspect_err(|_| self.execs.forget(&self.process.id))?;
        let (output, mut sent) = mpsc::channel(QUEUE);
        pump(streams, Some(output), None).detach_all();
        let mut kept = Vec::new();
        let over = tokio::time::timeout(limit, async {
            while let Some(piece) = sent.recv().await {
                if let Sent::Output(_, bytes) = piece {
                    let room = CAPTURE_MAX.saturating_sub(kept.len());
                    kept.extend(bytes.iter().take(room));
                }
            }
            (&mut self.ended).await.map_err(|_| lost())
        });
        if let Ok(exit) = over.await {
            self.execs.forget(&self.process.id);
            return Ok((exit?.status, kept));
        }
        let kill = Command::Signal { process: self.process.id.clone(), signal: 9, group: false };
        let killed = async {
            let _its_end_is_the_answer = self.session.caller.request(kill).await;
            let _gone = (&mut self.ended).await;
        };
        let _gives_up = tokio::time::timeout(KILL_WAIT, killed).await;
        self.execs.forget(&self.process.id);
        let message = format!("it took longer than {} ms and was killed", limit.as_millis());
        Err(AgentError { kind: AgentErrorKind::Failed, message })
    }
}

/// Has the agent start a process, and connects its streams.
async fn launch(session: &Session, process: &ProcessSpec) -> Result<Streams, AgentError> {
    let started = session.caller.ask(Command::Start(Box::new(process.clone()))).await;
    let streams = connect(&session.vsock, process, process.stdin).await;
    let answer = tokio::time::timeout(START_WAIT, started).await;
    let silent = || AgentError {
        kind: AgentErrorKind::Failed,
        message: format!("the guest's agent did not start it within {START_WAIT:?}"),
    };
    answer.map_err(|_| silent())?.map_err(|_| lost())??;
    streams.map_err(|error| AgentError {
        kind: AgentErrorKind::Failed,
        message: format!("the streams to the guest could not be connected: {error}"),
    })
}

async fn connect(vsock: &Path, process: &ProcessSpec, stdin: bool) -> io::Result<Streams> {
    let connect = |kind| connect_stream(vsock, &process.id, kind);
    if process.terminal.is_some() {
        let terminal = connect(StreamKind::Terminal).await?;
        return Ok(Streams { outward: vec![(Kind::Stdout, terminal)], stdin: None, terminal: true });
    }
    let stdin = match stdin {
        true => Some(connect(StreamKind::Stdin).await?),
        false => None,
    };
    let (stdout, stderr) = (connect(StreamKind::Stdout).await?, connect(StreamKind::Stderr).await?);
    Ok(Streams { outward: vec![(Kind::Stdout, stdout), (Kind::Stderr, stderr)], stdin, terminal: false })
}

/// Starts to carry; the tasks end with the output.
fn pump(
    streams: Streams,
    output: Option<mpsc::Sender<Sent>>,
    mut input: Option<mpsc::Receiver<Input>>,
) -> JoinSet<()> {
    if let Some(stdin) = streams.stdin {
        let (source, sink) = stdin.into_split();
        let input = input.take();
        tokio::spawn(async move {
            // Without anybody who types, it ends here.
            if let Some(input) = input {
                carry_in(input, sink).await;
            }
            drop(source);
        });
    }
    let mut outward = JoinSet::new();
    for (kind, connection) in streams.outward {
        let (source, sink) = connection.into_split();
        let output = output.clone();
        match input.take() {
            Some(input) if streams.terminal => {
                tokio::spawn(carry_in(input, sink));
                outward.spawn(carry_out(source, kind, output));
            }
            _ => {
                outward.spawn(async move {
                    carry_out(source, kind, output).await;
                    // Half a connection that is dropped is closed.
                    drop(sink);
                });
            }
        }
    }
    outward
}

/// Reads to the end, for the client as long as there is one.
async fn carry_out(mut source: impl AsyncRead + Unpin, kind: Kind, mut output: Option<mpsc::Sender<Sent>>) {
    let mut chunk = vec![0; PAYLOAD_MAX];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        if let Some(client) = &output {
            let bytes = Bytes::copy_from_slice(chunk.get(..length).unwrap_or_default());
            if client.send(Sent::Output(kind, bytes)).await.is_err() {
                output = None;
            }
        }
    }
}

/// Docker's statuses for what could not be started.
fn refusal_status(kind: AgentErrorKind) -> i32 {
    match kind {
        AgentErrorKind::NotFound => 127,
        AgentErrorKind::NotExecutable | AgentErrorKind::Invalid => 126,
        AgentErrorKind::Failed => 125,
    }
}

fn exit_status(status: i32, error: Option<String>, oom_killed: bool) -> ExitStatus {
    ExitStatus { status, error, reason: None, oom_killed }
}
