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
use serde::Deserialize;

use super::problem::ApiError;
use super::{Api, query};
use crate::microvm::chain;
use crate::microvm::transfer::TransferError;

/// How long the rest of an archive that could not be written is read, to be dropped.
const DROP_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stat {
    path: String,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    path: String,
    #[serde(default)]
    follow: bool,
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
    let archive = transfer.archive().inspect_err(move |error| {
        tracing::warn!("a copy out of microVM {id} broke off: {}", chain(error));
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(Box::pin(archive))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    path: String,
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
