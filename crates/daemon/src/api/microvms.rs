//! `/v1/microvms`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hull_protocol::agent::WindowSize;
use hull_protocol::api::{ExitStatus, Microvm, State as Life};
use serde::Deserialize;

use super::problem::ApiError;
use super::{Api, Remove, access, body, idempotency, page, query};
use crate::fleet::FleetError;
use crate::microvm::chain;
use crate::plan;
use crate::state::StateError;
use crate::tenants::principal::Principal;

/// How long a stop waits when the request does not say, in seconds: as Docker's.
const GRACE: u64 = 10;
/// The longest a stop waits, in seconds.
const GRACE_MAX: u64 = 3600;

/// Which microVMs are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    limit: Option<usize>,
    after: Option<String>,
    /// A state.
    state: Option<Life>,
    /// `KEY` or `KEY=value`.
    label: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let List { limit, after, state, label } = query(&uri)?;
    let labelled = |microvm: &Microvm| page::labelled(&microvm.spec.labels, label.as_deref());
    let mut microvms = api.fleet.list();
    microvms.retain(|microvm| state.is_none_or(|state| microvm.state == state) && labelled(microvm));
    let key = |microvm: &Microvm| format!("{}~{}", microvm.created_at, microvm.id);
    Ok(page::of(microvms, key, page::Wanted { limit, after }, &uri))
}

/// A record with the tag of its revision.
fn tagged(record: Microvm) -> ([(HeaderName, String); 1], Json<Microvm>) {
    ([(header::ETAG, format!("\"{}\"", record.revision))], Json(record))
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Principal>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let key = idempotency::key(&headers, &bytes)?;
    if let Some(key) = &key
        && let Some(made) = idempotency::made(&api.fleet, key)?
    {
        return Ok(made);
    }
    match (api.fleet.create(&by, body(&bytes)?, key.as_ref()).await, key) {
        (Ok(microvm), _) => {
            let record = microvm.record();
            let made = access::made("microvms", &record.id);
            Ok((StatusCode::CREATED, made, tagged(record)).into_response())
        }
        // The same request was answered a moment ago.
        (Err(FleetError::State(StateError::KeyUsed { .. })), Some(key)) => {
            let made = idempotency::made(&api.fleet, &key)?;
            made.ok_or_else(|| ApiError::of("key-reused", "the idempotency key was used before".into()))
        }
        (Err(error), _) => Err(error.into()),
    }
}

pub(super) async fn inspect(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let mut record = api.fleet.find(&id)?.record();
    if let Err(error) = api.fleet.count_refused(&mut record.cards).await {
        tracing::warn!("what {id} was refused is not known: {}", chain(&error));
    }
    Ok(tagged(record).into_response())
}

/// Changes what may be changed; with `If-Match`, only at that revision.
pub(super) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let revision = if_match(&headers)?;
    let microvm = api.fleet.find(&id)?;
    microvm.update(body(&bytes)?, revision).await?;
    Ok(tagged(microvm.record()).into_response())
}

/// The revision that a change is meant for; none: whichever it is.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(tag) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let tag = tag.to_str().unwrap_or_default();
    if tag == "*" {
        return Ok(None);
    }
    let revision =
        tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
    revision.map(Some).ok_or_else(|| {
        ApiError::invalid("If-Match: write the ETag of the microVM as it was read, quotes too, or *".into())
    })
}

pub(super) async fn pause(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.pause().await?;
    Ok(Json(microvm.record()))
}

pub(super) async fn unpause(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.unpause().await?;
    Ok(Json(microvm.record()))
}

pub(super) async fn restart(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Microvm>, ApiError> {
    let Stop { grace } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    microvm.restart(Duration::from_secs(grace.unwrap_or(GRACE).min(GRACE_MAX))).await?;
    Ok(Json(microvm.record()))
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
