//! `/v1/exec`: further processes in running microVMs.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hull_protocol::agent::WindowSize;
use hull_protocol::exec::{Exec, ExecSpec};
use hull_protocol::stream::Kind;
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::access::Made;
use super::microvms::SIGNAL;
use super::operation::{Operation, done, get, json, post, switched};
use super::problem::ApiError;
use super::streams::{out_of_place, read_frame, send, switching, wants_upgrade, window_size};
use super::{Api, access, body, query};
use crate::microvm::exec::{ExecError, Execs, front};
use crate::microvm::output::{Input, Sent};
use crate::plan;
use crate::trace;

/// What is asked of further processes.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        post("/v1/microvms/{id}/exec", create, "createExec", "Prepare a further process in a running container")
            .body::<ExecSpec>()
            .answers(json::<Exec>(201, "The process, not started yet.").with(&["Location"]))
            .fails(&["conflict"]),
        get("/v1/exec/{id}", inspect, "inspectExec", "Show a further process")
            .answers(json::<Exec>(200, "The process.")),
        post("/v1/exec/{id}/start", start, "startExec", "Start a further process")
            .notes("With its streams: the request asks for `Upgrade: hull-stream`, and the connection then carries \
                frames as for attach. Or detached.")
            .query::<Start>()
            .answers(json::<Exec>(200, "It was started detached."))
            .answers(switched("It was started, and the connection carries its streams."))
            .fails(&["conflict"]),
        post("/v1/exec/{id}/resize", resize, "resizeExec", "Set the size of its terminal")
            .body::<WindowSize>()
            .answers(done("The size is set."))
            .fails(&["conflict"]),
        post("/v1/exec/{id}/kill", kill, "killExec", "Send it a signal")
            .query::<Kill>()
            .answers(done("The signal is sent."))
            .fails(&["conflict"]),
    ]
}

/// What a terminal's process is told when its client has gone.
const HANG_UP: i32 = 1;

pub(super) async fn create(
    State(api): State<Api>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Made, Json<Exec>), ApiError> {
    let microvm = api.fleet.find(&id)?;
    let spec = body(&bytes)?;
    microvm.may_exec()?;
    let exec = microvm.execs().create(spec)?;
    Ok((StatusCode::CREATED, access::made("exec", &exec.id), Json(exec)))
}

/// The table that an exec is in, and its record.
fn find(api: &Api, id: &str) -> Result<(Arc<Execs>, Exec), ApiError> {
    let execs = api.fleet.find_exec(id)?.execs().clone();
    let record = execs.get(id).ok_or(ExecError::NotFound)?;
    Ok((execs, record))
}

pub(super) async fn inspect(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Exec>, ApiError> {
    Ok(Json(find(&api, &id)?.1))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Without streams: answered with the record once it runs.
    #[serde(default)]
    detach: bool,
}

/// Starts it: detached, or with the connection as its streams, [`hull_protocol::stream`].
pub(super) async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
    mut request: Request,
) -> Result<Response, ApiError> {
    let Start { detach } = query(&uri)?;
    let (execs, record) = find(&api, &id)?;
    api.fleet.find(&record.microvm)?.may_exec()?;
    if detach {
        let started = execs.start(&id, None)?;
        // Who drives it says how it went; without a word the daemon has a bug, which the record shows.
        if let Ok(Err(error)) = started.await {
            return Err(ExecError::Agent(error).into());
        }
        let record = execs.get(&id).ok_or(ExecError::NotFound)?;
        return Ok(Json(record).into_response());
    }
    wants_upgrade(&request)?;
    let (front, output, input) = front();
    let _how_it_went_is_on_the_stream = execs.start(&id, Some(front))?;
    let client = Client { execs, record };
    let upgrade = hyper::upgrade::on(&mut request);
    trace::spawn(async move {
        match upgrade.await {
            Ok(connection) => client.serve(TokioIo::new(connection), output, input).await,
            Err(error) => {
                tracing::debug!("the client of an exec left before it began: {error}");
                client.left().await;
            }
        }
    });
    Ok(switching())
}

/// Who is at the streams of a process.
struct Client {
    execs: Arc<Execs>,
    record: Exec,
}

impl Client {
    async fn serve(
        self,
        connection: impl AsyncRead + AsyncWrite + Send + 'static,
        output: mpsc::Receiver<Sent>,
        input: mpsc::Sender<Input>,
    ) {
        let (source, sink) = tokio::io::split(connection);
        let gone = tokio::select! {
            sent = send(sink, output) => sent.is_err(),
            heard = self.hear(input, source) => match heard {
                Ok(detached) => !detached,
                Err(error) => {
                    tracing::debug!("the client of an exec: {error}");
                    true
                }
            },
        };
        if gone {
            self.left().await;
        }
    }

    /// Hears the client until it leaves; whether it did so on purpose.
    async fn hear(&self, input: mpsc::Sender<Input>, mut source: impl AsyncRead + Unpin) -> io::Result<bool> {
        let (id, stdin) = (&self.record.id, self.record.spec.as_ref().is_some_and(|spec| spec.stdin));
        let mut detached = false;
        while let Some((kind, payload)) = read_frame(&mut source).await? {
            match (kind, payload.as_slice()) {
                // A process that has closed its input reads no more: what is sent is dropped.
                (Kind::Stdin, []) if stdin => drop(input.send(Input::End).await),
                (Kind::Stdin, _) if stdin => drop(input.send(Input::Bytes(payload.into())).await),
                (Kind::Resize, &[a, b, c, d]) => {
                    let _too_late = self.execs.resize(id, window_size([a, b, c, d])).await;
                }
                (Kind::Signal, &[number]) => {
                    let _too_late = self.execs.signal(id, i32::from(number)).await;
                }
                // It goes by itself: were the connection closed first, it would look like an end.
                (Kind::Detach, []) => detached = true,
                _ => return Err(out_of_place(kind, payload.len())),
            }
        }
        Ok(detached)
    }

    /// As when a terminal is closed: what runs in it is hung up. One without a terminal sees its input end.
    async fn left(self) {
        if self.record.spec.as_ref().is_some_and(|spec| spec.terminal.is_some()) {
            let _it_has_ended = self.execs.signal(&self.record.id, HANG_UP).await;
        }
    }
}

pub(super) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let size: WindowSize = body(&bytes)?;
    find(&api, &id)?.0.resize(&id, size).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Kill {
    /// A name such as `TERM` or `SIGTERM`, or a number; KILL when missing.
    #[schemars(regex(pattern = SIGNAL))]
    signal: Option<String>,
}

pub(super) async fn kill(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Kill { signal } = query(&uri)?;
    let number = plan::stop_signal(signal.as_deref().unwrap_or("KILL"))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    find(&api, &id)?.0.signal(&id, number).await?;
    Ok(StatusCode::NO_CONTENT)
}
