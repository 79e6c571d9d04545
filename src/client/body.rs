//! Bodies of requests: nothing, JSON, or a stream that a thread writes while it is sent.
//!
//! Owner: one request. Invariant: at most [`AHEAD`] chunks of [`CHUNK`] bytes wait in memory; a failure to
//! produce the body ends the request and is what the user is told.

use std::io::{self, BufWriter, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

const CHUNK: usize = 256 << 10;
const AHEAD: usize = 4;
/// The media type of bytes.
const OCTETS: &str = "application/octet-stream";

/// What is sent with a request.
pub(crate) struct Body {
    content: Content,
    kind: Option<&'static str>,
    failure: Failure,
}

enum Content {
    Whole(Option<Bytes>),
    Stream(Receiver<io::Result<Bytes>>),
}

/// Why a streamed body could not be produced.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<anyhow::Error>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<anyhow::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: anyhow::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self { content: Content::Whole(None), kind: None, failure: Failure::default() }
    }

    pub(crate) fn json(value: &impl Serialize) -> Result<Self> {
        let content = Content::Whole(Some(serde_json::to_vec(value)?.into()));
        Ok(Self { content, kind: Some("application/json"), failure: Failure::default() })
    }

    /// These bytes.
    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        let content = Content::Whole(Some(bytes.into()));
        Self { content, kind: Some(OCTETS), failure: Failure::default() }
    }

    /// What `produce` writes, in a thread of its own.
    pub(crate) fn stream(produce: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static) -> Self {
        let (sender, receiver) = channel(AHEAD);
        let failure = Failure::default();
        let told = failure.clone();
        // Ends with the body: its next write fails once nobody receives.
        std::thread::spawn(move || {
            let mut output = BufWriter::with_capacity(CHUNK, ChunkSender(sender.clone()));
            let produced = produce(&mut output).and_then(|()| Ok(output.flush()?));
            if let Err(error) = produced {
                // Where nobody receives any more, that is the effect of a failure, not its cause.
                if !sender.is_closed() {
                    told.set(error);
                }
                let _nobody_receives = sender.blocking_send(Err(io::ErrorKind::Other.into()));
            }
        });
        Self { content: Content::Stream(receiver), kind: Some(OCTETS), failure }
    }

    pub(super) fn content_type(&self) -> Option<&'static str> {
        self.kind
    }

    pub(super) fn failure(&self) -> Failure {
        self.failure.clone()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(receiver) => {
                receiver.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

struct ChunkSender(Sender<io::Result<Bytes>>);

impl Write for ChunkSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
