//! What the process writes, on this program's standard output and error, in the order it came.

use std::io::{self, Write};

use anyhow::{Context, Result};
use bytes::Bytes;
use hull_protocol::stream::Kind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Frames that wait for a slow reader: then the daemon waits, too, and with it the process.
const AHEAD: usize = 16;

/// A thread that writes.
pub(super) struct Output {
    frames: mpsc::Sender<(Kind, Bytes)>,
    written: JoinHandle<io::Result<()>>,
}

impl Output {
    /// The receiver hears when standard output or error has been closed by its reader.
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (frames, queue) = mpsc::channel(AHEAD);
        let (closed, hears) = oneshot::channel();
        (Self { frames, written: tokio::task::spawn_blocking(move || write_all(queue, closed)) }, hears)
    }

    /// Writes a frame, or waits for its turn.
    pub(super) async fn write(&self, kind: Kind, payload: Bytes) -> Result<()> {
        let sent = self.frames.send((kind, payload)).await;
        sent.context("the output cannot be written any more")
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) -> Result<()> {
        drop(self.frames);
        self.written.await?.context("the output cannot be written")
    }
}

fn write_all(mut queue: mpsc::Receiver<(Kind, Bytes)>, closed: oneshot::Sender<()>) -> io::Result<()> {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let mut closed = Some(closed);
    let mut failed = Ok(());
    while let Some((kind, payload)) = queue.blocking_recv() {
        // A reader that has left must not hold up the process: what it writes from then on is thrown away.
        if closed.is_none() {
            continue;
        }
        let target: &mut dyn Write = if kind == Kind::Stderr { &mut stderr } else { &mut stdout };
        if let Err(error) = target.write_all(&payload).and_then(|()| target.flush()) {
            let _session_has_ended = closed.take().map(|closed| closed.send(()));
            let gone = error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(EIO);
            failed = if gone { Ok(()) } else { Err(error) };
        }
    }
    failed
}

/// What a terminal says that has been hung up.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
