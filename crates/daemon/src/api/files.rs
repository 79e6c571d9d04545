//! `/v1/microvms/{id}/files` and `/processes`: what is in a running container.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt};
use hull_protocol::exec::ContainerProcess;
use hull_protocol::transfer::{Answer, FileStat, Query};
use schemars::JsonSchema;
use serde::Deserialize;

use super::operation::{Operation, bytes, done, get as read, json, put as write};
use super::problem::ApiError;
use super::{Api, query};
use crate::microvm::chain;
use crate::microvm::transfer::TransferError;

const TAR: &str = "application/x-tar";
/// How a look into a container fails.
const INTO: [&str; 3] = ["no-such-file", "conflict", "copy-failed"];

/// What is asked of files and processes.
pub(super) fn operations() -> Vec<Operation> {
    const FILES: &str = "/v1/microvms/{id}/files";
    vec![
        read(FILES, get, "copyOut", "Copy files out of a running container")
            .query::<Get>()
            .answers(bytes(TAR, "What is there, as a tar stream; one that breaks off was not whole."))
            .fails(&INTO),
        write(FILES, put, "copyIn", "Copy files into a running container")
            .query::<Put>()
            .stream_in(TAR)
            .answers(done("All of it is written."))
            .fails(&INTO),
        read("/v1/microvms/{id}/files/stat", stat, "statFile", "What is at a path of a running container")
            .query::<Stat>()
            .answers(json::<FileStat>(200, "What is there."))
            .fails(&INTO),
        read(
            "/v1/microvms/{id}/processes",
            processes,
            "listProcesses",
            "List the processes of a running container",
        )
        .answers(json::<Vec<ContainerProcess>>(200, "The processes."))
        .fails(&["conflict", "copy-failed"]),
    ]
}

/// How long the rest of an archive that could not be written is read, to be dropped.
const DROP_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stat {
    /// Where in the container.
    path: String,
    /// Where a link at the end of the path leads, instead of the link.
    #[serde(default)]
    follow: bool,
}

pub(super) async fn stat(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<FileStat>, ApiError> {
    let Stat { path, follow } = query(&uri)?;
    match api.fleet.find(&id)?.ask_for(&Query::Stat { path, follow }).await?.answer {
        Answer::Stat(stat) => Ok(Json(stat)),
        _ => Err(TransferError::Protocol.into()),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Get {
    /// Where in the container.
    path: String,
    /// Where a link at the end of the path leads, instead of the link.
    #[serde(default)]
    follow: bool,
    /// Its name in the archive; the last of the path when missing.
    name: Option<String>,
}

/// What is at a path, as a tar stream. One that breaks off was not whole.
pub(super) async fn get(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Get { path, follow, name } = query(&uri)?;
    let transfer = api.fleet.find(&id)?.ask_for(&Query::Pack { path, follow, name }).await?;
    // It goes on after the answer has begun.
    let span = tracing::Span::current();
    let archive = transfer.archive().inspect_err(move |error| {
        span.in_scope(|| tracing::warn!(%id, "a copy out of the microVM broke off: {}", chain(error)));
    });
    Ok(([(header::CONTENT_TYPE, TAR)], Body::from_stream(Box::pin(archive))).into_response())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Put {
    /// A directory in the container, which is there.
    path: String,
    /// With the users and groups that the archive names; else all belongs to root.
    #[serde(default)]
    keep_owner: bool,
}

/// Writes a tar stream into a directory.
pub(super) async fn put(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let Put { path, keep_owner } = query(&uri)?;
    let mut archive = Box::pin(body.into_data_stream().map_err(|error| error.to_string()));
    let written = async {
        let transfer = api.fleet.find(&id)?.ask_for(&Query::Unpack { path, keep_owner }).await?;
        Ok(transfer.send(&mut archive).await?)
    };
    let written: Result<(), ApiError> = written.await;
    if written.is_err() {
        // A client that still sends hears the answer only after that.
        let rest = async { while let Some(Ok(_)) = archive.next().await {} };
        let _heard_or_not = tokio::time::timeout(DROP_WAIT, rest).await;
    }
    written.map(|()| StatusCode::NO_CONTENT)
}

pub(super) async fn processes(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Vec<ContainerProcess>>, ApiError> {
    match api.fleet.find(&id)?.ask_for(&Query::Processes).await?.answer {
        Answer::Processes(all) => Ok(Json(all)),
        _ => Err(TransferError::Protocol.into()),
    }
}
