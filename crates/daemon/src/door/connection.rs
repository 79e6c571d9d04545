//! One connection: requests are read within bounds, one after the other.
//!
//! RFC 9112. A task of its own. Invariants: what is held of a request's head is at most [`HEAD_MAX`] bytes and 100 lines, and a head that
//! is not whole after [`HEAD_WAIT`] is given up; over TCP a body that stands still for [`BODY_WAIT`] is, too.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::Door;
use super::peers::{Peer, Place};

/// The most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// How long a head may take, and a connection may be without a request.
const HEAD_WAIT: Duration = Duration::from_secs(20);
/// How long a body may stand still.
const BODY_WAIT: Duration = Duration::from_secs(60);

/// Answers what comes over a connection until it is over, or the daemon leaves.
pub(super) async fn serve<Io>(
    door: Arc<Door>,
    peer: Peer,
    io: Io,
    place: Place,
    mut leaving: watch::Receiver<bool>,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Arc::new(AtomicBool::new(false));
    let connection = Connection { io, heard: heard.clone(), _place: place };
    let service = service_fn(|request: Request<Incoming>| {
        let (door, peer, heard) = (door.clone(), peer.clone(), heard.clone());
        async move {
            let slow = matches!(peer, Peer::Address(_));
            let response = door.answer(&peer, request.map(|body| Paced::new(body, slow))).await;
            heard.store(false, Ordering::Release);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
    builder.max_header_size(HEAD_MAX);
    let mut served = pin!(builder.serve_connection(TokioIo::new(connection), service).with_upgrades());
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = left(&mut leaving) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    let Err(error) = ended else { return };
    // One that has said nothing since its last request has only been silent.
    let slow = error.is_timeout() && heard.load(Ordering::Acquire);
    let status = if error.is_parse_too_large() {
        431
    } else if error.is_parse() {
        400
    } else if slow {
        408
    } else {
        return tracing::debug!("a connection from {peer} broke off: {error}");
    };
    door.note_stranger(&peer, status, &error.to_string());
}

/// Returns when the daemon begins to leave.
pub(super) async fn left(leaving: &mut watch::Receiver<bool>) {
    let _it_leaves = leaving.wait_for(|leaving| *leaving).await;
}

/// The bytes of a connection, which keeps its place as long as anybody has it.
struct Connection<Io> {
    io: Io,
    /// Whether something came that was not answered yet.
    heard: Arc<AtomicBool>,
    _place: Place,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.store(true, Ordering::Release);
        }
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Connection<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A body that may not stand still for long.
struct Paced {
    body: Incoming,
    /// When it has stood still too long; none where it may take its time.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(body: Incoming, limited: bool) -> Self {
        Self { limit: limited.then(|| Box::pin(sleep(BODY_WAIT))), body }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(limit) = &mut self.limit {
            if frame.is_ready() {
                limit.as_mut().reset(Instant::now() + BODY_WAIT);
            } else if limit.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err("the request's body stands still".into())));
            }
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
