//! The trace of a request: in the span of every line that it causes, and at hand wherever it is answered or carried out.
//!
//! A task has the trace of the request that it works for, or none. Invariant: what a client sends as its trace is taken
//! only as the number it must be.

use std::future::Future;

use axum::http::HeaderMap;
use hull_protocol::trace::{TRACEPARENT, TraceId};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use crate::fleet::random_bytes;

tokio::task_local! {
    static CURRENT: TraceId;
}

/// The trace that a request's client names, once and well; else a new one.
pub(crate) fn of_request(headers: &HeaderMap) -> TraceId {
    let mut named = headers.get_all(TRACEPARENT).iter();
    let only = named.next().filter(|_| named.next().is_none());
    only.and_then(|header| TraceId::of_traceparent(header.to_str().ok()?)).unwrap_or_else(new)
}

fn new() -> TraceId {
    loop {
        if let Some(trace) = TraceId::of_bytes(random_bytes()) {
            return trace;
        }
    }
}

/// The trace of the request that is worked for, if it is one.
pub(crate) fn current() -> Option<TraceId> {
    CURRENT.try_with(|trace| *trace).ok()
}

/// Works for a request.
pub(crate) fn within<F: Future>(trace: TraceId, work: F) -> impl Future<Output = F::Output> {
    // Of the highest level: whatever is logged, it is in the trace.
    CURRENT.scope(trace, work.instrument(tracing::error_span!("request", %trace)))
}

/// The span of what is done to a microVM, or what it does, because of a request.
pub(crate) fn of_microvm(id: &str, trace: Option<TraceId>) -> Span {
    // Whoever makes it: what a microVM does is in no other span.
    tracing::error_span!(parent: None, "microvm", id, trace = trace.map(tracing::field::display))
}

/// Has a task of its own work on for the same request.
pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let work = work.in_current_span();
    match current() {
        Some(trace) => tokio::spawn(CURRENT.scope(trace, work)),
        None => tokio::spawn(work),
    }
}

/// Has a thread that may block work on for the same request.
pub(crate) fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (span, trace) = (Span::current(), current());
    tokio::task::spawn_blocking(move || {
        span.in_scope(|| match trace {
            Some(trace) => CURRENT.sync_scope(trace, work),
            None => work(),
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_client_names_a_trace_once_and_well_or_gets_one() {
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, value.parse().unwrap());
            }
            of_request(&headers).to_string()
        };
        assert_eq!(of(&[&parent]), ID);
        for bad in [&[][..], &[parent.as_str(), &parent], &["soon"]] {
            let (one, other) = (of(bad), of(bad));
            assert!(one != ID && one != other, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn those_who_work_on_have_the_trace() {
        let trace: TraceId = ID.parse().unwrap();
        assert_eq!(current(), None);
        let all = within(trace, async {
            let (task, thread) = (spawn(async { current() }), spawn_blocking(current));
            [current(), task.await.unwrap(), thread.await.unwrap()]
        });
        assert_eq!(all.await, [Some(trace); 3]);
        assert_eq!(spawn(async { current() }).await.unwrap(), None);
    }
}
