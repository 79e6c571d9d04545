//! The body of an answer as bytes, for a thread that blocks or a task.
//!
//! Owner: who reads. Invariant: at most [`AHEAD`] pieces wait in memory; a body that breaks off is an
//! error, not an end.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::{Receiver, channel};

const AHEAD: usize = 8;

/// A body that is read.
pub(crate) struct Download {
    pieces: Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Download {
    pub(super) fn new(mut body: Incoming) -> Self {
        let (sender, pieces) = channel(AHEAD);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame {
                    Ok(frame) => frame.into_data().map(Ok),
                    Err(error) => Ok(Err(io::Error::other(error))),
                };
                if let Ok(piece) = piece
                    && sender.send(piece).await.is_err()
                {
                    return;
                }
            }
        });
        Self { pieces, current: Bytes::new() }
    }

    /// The next piece, for a task; none at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.pieces.recv().await.transpose()
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
