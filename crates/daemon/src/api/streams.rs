//! Streams of a microVM: attached ones, both ways, and its log.

use std::io;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hull_protocol::agent::WindowSize;
use hull_protocol::stream::{self, HEADER_LEN, Kind, PAYLOAD_MAX};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::operation::{Operation, post, switched};
use super::problem::ApiError;
use super::{Api, query};
use crate::microvm::Microvm;
use crate::microvm::output::{Input, Sent};
use crate::trace;

/// What is asked of streams.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        post("/v1/microvms/{id}/attach", attach, "attachMicrovm", "Be at the streams of its process")
            .notes("The connection then carries frames both ways: a byte of kind, three of zero, the payload's length as a \
                big-endian 32-bit number, the payload. From the client: 0 standard input (empty: its end), 16 a terminal's \
                size (rows and columns, 16 bits each), 17 a signal (a byte), 19 the client leaves. From the daemon: 1 \
                standard output, 2 standard error, 18 an `ExitStatus`, last.")
            .query::<Attach>()
            .headers(&["Upgrade"])
            .answers(switched("The connection carries its streams."))
            .fails(&["conflict"]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Attach {
    /// Whether its standard input gets what the client sends.
    #[serde(default)]
    stdin: bool,
}

/// Turns the connection into the microVM's streams, [`hull_protocol::stream`].
pub(super) async fn attach(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
    mut request: Request,
) -> Result<Response, ApiError> {
    let Attach { stdin } = query(&uri)?;
    wants_upgrade(&request)?;
    let microvm = api.fleet.find(&id)?;
    microvm.may_attach().await?;
    // From here on nothing the process prints is missed.
    let output = microvm.output().attach();
    let upgrade = hyper::upgrade::on(&mut request);
    trace::spawn(async move {
        match upgrade.await {
            Ok(connection) => serve(microvm, stdin, TokioIo::new(connection), output).await,
            Err(error) => tracing::debug!("an attached client left before it began: {error}"),
        }
    });
    Ok(switching())
}

/// Whether the client asks for a stream.
pub(super) fn wants_upgrade(request: &Request) -> Result<(), ApiError> {
    let wanted = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if wanted == Some(stream::UPGRADE) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "a stream needs the headers 'Connection: Upgrade' and 'Upgrade: {}'",
        stream::UPGRADE
    )))
}

/// The answer after which the connection is a stream.
pub(super) fn switching() -> Response {
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, stream::UPGRADE)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn serve(
    microvm: Microvm,
    stdin: bool,
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
    output: mpsc::Receiver<Sent>,
) {
    let (source, sink) = tokio::io::split(connection);
    tokio::select! {
        _all_is_sent = send(sink, output) => {}
        left = hear(&microvm, stdin, source) => {
            if let Err(error) = left {
                tracing::debug!("an attached client: {error}");
            }
        }
    }
}

/// Sends a client what its process prints, and how it ends.
pub(super) async fn send(
    mut sink: impl AsyncWrite + Unpin,
    mut output: mpsc::Receiver<Sent>,
) -> io::Result<()> {
    while let Some(sent) = output.recv().await {
        match sent {
            Sent::Output(kind, bytes) => write_frame(&mut sink, kind, &bytes).await?,
            Sent::Exit(exit) => {
                write_frame(&mut sink, Kind::Exit, &serde_json::to_vec(&exit)?).await?;
                break;
            }
        }
    }
    sink.shutdown().await
}

async fn write_frame(sink: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    for piece in payload.chunks(PAYLOAD_MAX) {
        sink.write_all(&stream::header(kind, piece.len()).map_err(io::Error::other)?).await?;
        sink.write_all(piece).await?;
    }
    sink.flush().await
}

/// Hears a client until it leaves.
async fn hear(microvm: &Microvm, stdin: bool, mut source: impl AsyncRead + Unpin) -> io::Result<()> {
    let input = microvm.output().input();
    while let Some((kind, payload)) = read_frame(&mut source).await? {
        match (kind, payload.as_slice()) {
            (Kind::Stdin, []) if stdin => drop(input.send(Input::End).await),
            (Kind::Stdin, _) if stdin => drop(input.send(Input::Bytes(payload.into())).await),
            (Kind::Resize, &[a, b, c, d]) => {
                let size = window_size([a, b, c, d]);
                // It may have ended: then there is no terminal to have a size.
                let _too_late = microvm.resize(size).await;
            }
            (Kind::Signal, &[number]) => {
                let _too_late = microvm.signal(i32::from(number)).await;
            }
            // It goes by itself: were the connection closed first, it would look like an end.
            (Kind::Detach, []) => {}
            _ => return Err(out_of_place(kind, payload.len())),
        }
    }
    Ok(())
}

/// The next frame of a client's; none when it has left.
pub(super) async fn read_frame(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEADER_LEN];
    match source.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (kind, length) = stream::parse(head).map_err(io::Error::other)?;
    let mut payload = vec![0; length];
    source.read_exact(&mut payload).await?;
    Ok(Some((kind, payload)))
}

pub(super) fn window_size([a, b, c, d]: [u8; 4]) -> WindowSize {
    WindowSize { rows: u16::from_be_bytes([a, b]), cols: u16::from_be_bytes([c, d]) }
}

pub(super) fn out_of_place(kind: Kind, length: usize) -> io::Error {
    io::Error::other(format!("a {kind:?} frame of {length} bytes has no place here"))
}
