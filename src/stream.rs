//! Frames of a microVM's streams, as they come from the daemon and go to it.
//!
//! The framing is [`hull_protocol::stream`]. Owner: one session. Invariant: a frame is read whole or not at all,
//! and never exceeds [`PAYLOAD_MAX`], whatever the peer claims.

use std::io;
use std::pin::Pin;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyStream;
use hull_protocol::stream::{HEADER_LEN, Kind, PAYLOAD_MAX, header, parse};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

/// How much is read at once.
const READ: usize = HEADER_LEN + PAYLOAD_MAX;

/// A connection that has become a stream both ways.
pub(crate) struct Attached {
    pub(crate) frames: Frames,
    pub(crate) input: FrameWriter,
}

impl Attached {
    pub(crate) fn new(connection: TokioIo<Upgraded>) -> Self {
        let (read, write) = split(connection);
        let frames = Frames { source: Source::Connection(read), pending: BytesMut::new() };
        Self { frames, input: FrameWriter(write) }
    }
}

/// Frames to the daemon.
pub(crate) struct FrameWriter(WriteHalf<TokioIo<Upgraded>>);

impl FrameWriter {
    /// Sends `payload`, in as many frames as it needs; an empty one is a frame, too.
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut rest = payload;
        loop {
            let (now, later) = rest.split_at(rest.len().min(PAYLOAD_MAX));
            self.0.write_all(&header(kind, now.len())?).await?;
            self.0.write_all(now).await?;
            rest = later;
            if rest.is_empty() {
                return Ok(self.0.flush().await?);
            }
        }
    }
}

/// Frames from the daemon.
pub(crate) struct Frames {
    source: Source,
    pending: BytesMut,
}

enum Source {
    Connection(ReadHalf<TokioIo<Upgraded>>),
    Body(Pin<Box<dyn Stream<Item = Result<Bytes>>>>),
}

impl Frames {
    /// Frames that are the body of an answer.
    pub(crate) fn of_body(body: Incoming) -> Self {
        let chunks = BodyStream::new(body).filter_map(async |frame| match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error.into())),
        });
        Self { source: Source::Body(Box::pin(chunks)), pending: BytesMut::new() }
    }

    /// The next frame; none at the end. Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Option<(Kind, Bytes)>> {
        loop {
            if let Some(frame) = take(&mut self.pending)? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                if self.pending.is_empty() {
                    return Ok(None);
                }
                bail!("the daemon's stream ended in the middle of a frame");
            }
        }
    }

    async fn fill(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::Connection(connection) => {
                self.pending.reserve(READ);
                match connection.read_buf(&mut self.pending).await {
                    Ok(length) => Ok(length > 0),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
                    Err(error) => Err(error).context("reading the daemon's stream"),
                }
            }
            Source::Body(chunks) => match chunks.next().await {
                Some(chunk) => {
                    self.pending.extend_from_slice(&chunk.context("reading the daemon's stream")?);
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }
}

/// Takes the first frame off `pending` if it is whole.
fn take(pending: &mut BytesMut) -> Result<Option<(Kind, Bytes)>> {
    let Some(start) = pending.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let (kind, length) = parse(*start)?;
    if pending.len() < HEADER_LEN + length {
        return Ok(None);
    }
    pending.advance(HEADER_LEN);
    Ok(Some((kind, pending.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        let mut wire = Vec::new();
        for (kind, payload) in [(Kind::Stdout, "hello"), (Kind::Stderr, ""), (Kind::Exit, "{}")] {
            wire.extend(header(kind, payload.len()).unwrap());
            wire.extend(payload.as_bytes());
        }
        let (mut pending, mut seen) = (BytesMut::new(), Vec::new());
        for byte in wire {
            pending.extend_from_slice(&[byte]);
            seen.extend(take(&mut pending).unwrap());
        }
        let payloads: Vec<_> = seen.iter().map(|(kind, payload)| (*kind, &payload[..])).collect();
        assert_eq!(payloads, [(Kind::Stdout, &b"hello"[..]), (Kind::Stderr, b""), (Kind::Exit, b"{}")]);
        assert!(pending.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(take(&mut BytesMut::from(&b"HTTP/1.1 400"[..])).is_err());
        assert!(take(&mut BytesMut::from(&[1, 0, 0, 0, 255, 255, 255, 255][..])).is_err());
    }
}
