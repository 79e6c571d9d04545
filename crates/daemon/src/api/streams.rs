//! Streams of a microVM: attached ones, both ways, and its log.

use std::collections::VecDeque;
use std::io;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hull_protocol::agent::WindowSize;
use hull_protocol::api::State as Life;
use hull_protocol::stream::{self, HEADER_LEN, Kind, PAYLOAD_MAX};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::problem::ApiError;
use super::{Api, query};
use crate::microvm::Microvm;
use crate::microvm::log::Record;
use crate::microvm::output::{Input, Sent};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
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
    tokio::spawn(async move {
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
            (Kind::Detach, []) => return Ok(()),
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Logs {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
}

/// What the container printed, as frames.
pub(super) async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Logs { follow, tail } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    let (frames, body) = mpsc::channel::<Result<Bytes, io::Error>>(4);
    tokio::spawn(async move {
        let _reader_has_left = send_logs(&microvm, follow, tail, &frames).await;
    });
    let body =
        futures_util::stream::unfold(body, async |mut body| body.recv().await.map(|frame| (frame, body)));
    let headers = [(header::CONTENT_TYPE, "application/vnd.hull.stream")];
    Ok((headers, Body::from_stream(Box::pin(body))).into_response())
}

type Frames = mpsc::Sender<Result<Bytes, io::Error>>;

async fn send_logs(microvm: &Microvm, follow: bool, tail: Option<usize>, frames: &Frames) -> Option<()> {
    let log = &microvm.output().log;
    let mut changes = log.changes();
    let mut reader = log.reader();
    if let Some(lines) = tail {
        for record in last_lines(std::iter::from_fn(|| reader.next_record()), lines) {
            send_record(frames, &record).await?;
        }
    }
    loop {
        // Looked at before the log: what is written before the end is not missed.
        let over = matches!(microvm.record().state, Life::Created | Life::Stopped | Life::Failed);
        while let Some(record) = reader.next_record() {
            send_record(frames, &record).await?;
        }
        if !follow || over {
            return Some(());
        }
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            _ended = microvm.wait() => {}
            () = frames.closed() => return None,
        }
    }
}

async fn send_record(frames: &Frames, record: &Record) -> Option<()> {
    let mut frame = stream::header(record.kind, record.payload.len()).ok()?.to_vec();
    frame.extend(&record.payload);
    frames.send(Ok(frame.into())).await.ok()
}

/// The last `lines` lines of a log, whose size is bounded.
fn last_lines(records: impl Iterator<Item = Record>, lines: usize) -> VecDeque<Record> {
    let mut kept: VecDeque<Record> = records.collect();
    // The end of the last line is not the start of one more.
    let mut newlines = 0_usize;
    for at in (0..kept.len()).rev() {
        let Some(record) = kept.get_mut(at) else { break };
        for byte in (0..record.payload.len()).rev() {
            if record.payload.get(byte) == Some(&b'\n') {
                newlines = newlines.saturating_add(1);
                if newlines > lines {
                    record.payload.drain(..=byte);
                    kept.drain(..at);
                    return kept;
                }
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_across_records() {
        let records = || {
            ["one\ntwo\nth", "ree\n", "four\n"]
                .map(|text| Record { kind: Kind::Stdout, payload: text.into() })
                .into_iter()
        };
        let text = |lines| {
            last_lines(records(), lines).into_iter().flat_map(|record| record.payload).collect::<Vec<_>>()
        };
        assert_eq!(text(1), b"four\n");
        assert_eq!(text(2), b"three\nfour\n");
        assert_eq!(text(0), b"");
        assert_eq!(text(9), b"one\ntwo\nthree\nfour\n");
    }
}
