//! `/v1/microvms`.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use hull_protocol::agent::WindowSize;
use hull_protocol::api::{ExitStatus, Microvm};
use serde::Deserialize;

use super::problem::ApiError;
use super::{Api, Remove, body, query};
use crate::microvm::chain;
use crate::plan;

/// How long a stop waits when the request does not say, in seconds: as Docker's.
const GRACE: u64 = 10;
/// The longest a stop waits, in seconds.
const GRACE_MAX: u64 = 3600;

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Microvm>> {
    Json(api.fleet.list())
}

pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Microvm>), ApiError> {
    let microvm = api.fleet.create(body(&bytes)?).await?;
    Ok((StatusCode::CREATED, Json(microvm.record())))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Microvm>, ApiError> {
    let mut record = api.fleet.find(&id)?.record();
    let host = api.fleet.host();
    if let Err(error) = host.networks.count(&mut record.cards).await {
        tracing::warn!("what {id} was refused is not known: {}", chain(&error));
    }
    Ok(Json(record))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Remove { force } = query(&uri)?;
    api.fleet.find(&id)?.delete(force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn start(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.start().await?;
    Ok(Json(microvm.record()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    grace: Option<u64>,
}

pub(super) async fn stop(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Microvm>, ApiError> {
    let Stop { grace } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    microvm.stop(Duration::from_secs(grace.unwrap_or(GRACE).min(GRACE_MAX))).await?;
    Ok(Json(microvm.record()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    signal: Option<String>,
}

pub(super) async fn kill(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Kill { signal } = query(&uri)?;
    let signal = signal.as_deref().unwrap_or("KILL");
    let number = plan::stop_signal(signal).map_err(|error| ApiError::invalid(error.to_string()))?;
    api.fleet.find(&id)?.signal(number).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let size: WindowSize = body(&bytes)?;
    api.fleet.find(&id)?.resize(size).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn wait(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ExitStatus>, ApiError> {
    Ok(Json(api.fleet.find(&id)?.wait().await?))
}
