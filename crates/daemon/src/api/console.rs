//! What a microVM's guest has written on its serial console.
//!
//! Invariants: a reader stops no guest; what is held for one is a few pieces of a file that is bounded.

use std::io;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::operation::{Operation, bytes, get};
use super::problem::ApiError;
use super::{Api, query, streamed};
use crate::microvm::Microvm;
use crate::microvm::console::Reader;
use crate::trace;

/// Bytes of any kind: they are the guest's.
const BYTES: &str = "application/octet-stream";
/// How often a file that is followed is looked at: the VMM, which writes it, tells nobody.
const LOOK: Duration = Duration::from_millis(200);

/// What is asked of consoles.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/microvms/{id}/console", console, "readConsole", "Read what its guest wrote on the console")
            .notes("The serial console of its last run: the kernel's messages, mostly. The first 1 MiB is kept. The bytes are \
                the guest's own choice: who shows them on a terminal escapes control characters.")
            .query::<Query>()
            .answers(bytes(BYTES, "The bytes, as they were written."))
            .fails(&["conflict"]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Wait for more until it ends.
    #[serde(default)]
    follow: bool,
    /// The last so many lines; all that are kept when missing.
    tail: Option<usize>,
}

/// What the guest wrote on its console.
async fn console(State(api): State<Api>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let Query { follow, tail } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    let mut reader = microvm.console();
    if let Some(lines) = tail {
        reader.skip_to_last(lines).map_err(|error| ApiError::internal(&error))?;
    }
    let (pieces, receiver) = mpsc::channel(4);
    trace::spawn(async move {
        if let Err(error) = send_all(&microvm, reader, follow, &pieces).await {
            tracing::warn!("a console cannot be read: {error}");
        }
    });
    Ok(([(header::CONTENT_TYPE, BYTES)], streamed(receiver)).into_response())
}

/// Sends all there is, and all that comes while it is followed, until the reader leaves.
async fn send_all(
    microvm: &Microvm,
    mut reader: Reader,
    follow: bool,
    pieces: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    loop {
        // Looked at before the file: what is written before the end is not missed.
        let at_rest = microvm.record().state.is_at_rest();
        let another_run = reader.is_over();
        while let Some(piece) = reader.next_piece()? {
            if pieces.send(piece).await.is_err() {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        if another_run {
            reader.renew();
            continue;
        }
        if at_rest || microvm.is_gone() {
            return Ok(());
        }
        tokio::select! {
            () = pieces.closed() => return Ok(()),
            _ended = microvm.wait() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
