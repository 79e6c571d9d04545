//! One connection: requests are read within bounds, one after the other.
//!
//! RFC 9112. A task of its own. Invariants: what is held of a request's head is at most [`HEAD_MAX`] bytes and 100 lines, and a head that
//! is not whole after [`HEAD_WAIT`] is given up; so is a body of which less than [`BODY_PACE`] bytes come in [`BODY_WAIT`], but from
//! those who administer the host.

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
use super::whose::{Over, Whose};

/// The most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// How long a head may take, and a connection may be without a request.
const HEAD_WAIT: Duration = Duration::from_secs(20);
/// How long a body is waited for until as many bytes of it have come, or its end.
const BODY_WAIT: Duration = Duration::from_secs(60);
const BODY_PACE: usize = 64 << 10;

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
    let hurried = !door.is_own(&peer);
    let (whose, over) = door.connections.enter(peer);
    let connection = Connection { io, heard: heard.clone(), over, _whose: whose.clone(), _place: place };
    let service = service_fn(|request: Request<Incoming>| {
        let (door, whose, heard) = (door.clone(), whose.clone(), heard.clone());
        async move {
            let response = door.answer(&whose, request.map(|body| Paced::new(body, hurried))).await;
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
        return tracing::debug!("a connection from {} broke off: {error}", whose.peer);
    };
    door.note_stranger(&whose.peer, status, &error.to_string());
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
    over: Over,
    _whose: Arc<Whose>,
    _place: Place,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(over) = self.over.poll(cx) {
            return Poll::Ready(Err(over));
        }
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
        if let Poll::Ready(over) = self.over.poll(cx) {
            return Poll::Ready(Err(over));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A body that has to come at some pace.
struct Paced<B = Incoming> {
    body: B,
    /// None where it may take its time.
    patience: Option<Patience>,
}

impl<B> Paced<B> {
    fn new(body: B, hurried: bool) -> Self {
        Self { body, patience: hurried.then(Patience::new) }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(patience) = &mut self.patience {
            match &frame {
                Poll::Ready(Some(Ok(frame))) => patience.got(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Pending if patience.is_over(cx) => {
                    return Poll::Ready(Some(Err("the request's body comes too slowly".into())));
                }
                _ => {}
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

/// How long a body is still waited for. The time that is taken to use what has come does not count.
struct Patience {
    left: Duration,
    missing: usize,
    /// Since when nothing comes, and when that has been too long.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn new() -> Self {
        Self { left: BODY_WAIT, missing: BODY_PACE, waiting: None }
    }

    fn got(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0 {
            *self = Self::new();
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let left = self.left;
        let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        end.as_mut().poll(cx).is_ready()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::future::poll_fn;

    use super::*;

    /// A body of these pieces, after which nothing comes.
    struct Pieces(Vec<usize>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop() {
                Some(size) => Poll::Ready(Some(Ok(Frame::data(vec![0; size].into())))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_ends() {
        let mut body = Paced::new(Pieces(vec![1, BODY_PACE - 1, 1]), true);
        let patience = |body: &Paced<Pieces>| {
            let patience = body.patience.as_ref().unwrap();
            (patience.left, patience.missing)
        };
        body.patience.as_mut().unwrap().left = Duration::ZERO;
        for (missing, left) in
            [(BODY_PACE - 1, Duration::ZERO), (BODY_PACE, BODY_WAIT), (BODY_PACE - 1, BODY_WAIT)]
        {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            assert!(frame.unwrap().is_ok());
            assert_eq!(patience(&body), (left, missing));
        }
        body.patience.as_mut().unwrap().left = Duration::ZERO;
        let slow = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(slow.unwrap().unwrap_err().to_string().contains("too slowly"));
    }

    #[tokio::test]
    async fn who_administers_the_host_may_take_its_time() {
        let mut body = Paced::new(Pieces(Vec::new()), false);
        let next = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
        assert!(next && body.patience.is_none());
    }
}
