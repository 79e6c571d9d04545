//! `/v1/volumes`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hull_protocol::api::{PrunedVolumes, Volume, VolumePatch, VolumeSpec};
use serde::Deserialize;

use super::kernels::blocking;
use super::problem::ApiError;
use super::{Api, body, idempotency, page, query};
use crate::fleet::Fleet;
use crate::network::catalog::TENANT;
use crate::state::{Key, StateError};
use crate::volumes::VolumeError;

/// Which volumes are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    limit: Option<usize>,
    after: Option<String>,
    /// `KEY` or `KEY=value`.
    label: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let List { limit, after, label } = query(&uri)?;
    let host = api.fleet.host().clone();
    let mut volumes = blocking(move || host.volumes.list(&host.state)).await?;
    volumes.retain(|volume| page::labelled(&volume.labels, label.as_deref()));
    Ok(page::of(volumes, |volume: &Volume| volume.name.clone(), page::Wanted { limit, after }, &uri))
}

/// The answer to the request that has used the key already, if one has.
fn made(fleet: &Fleet, key: &Key) -> Result<Option<Response>, ApiError> {
    let host = fleet.host();
    idempotency::replay(&host.state, key, |id| host.state.volume(TENANT, id).ok())
}

pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let key = idempotency::key(&headers, &bytes)?;
    if let Some(key) = &key
        && let Some(made) = made(&api.fleet, key)?
    {
        return Ok(made);
    }
    let spec: VolumeSpec = if bytes.is_empty() { VolumeSpec::default() } else { body(&bytes)? };
    let (host, used) = (api.fleet.host().clone(), key.clone());
    let created = blocking::<_, ApiError>(move || {
        match host.volumes.create(&host.state, spec, used.as_ref()) {
            Ok(volume) => Ok(Some(volume)),
            // The same request was answered a moment ago.
            Err(VolumeError::State(StateError::KeyUsed { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    });
    match (created.await?, key) {
        (Some(volume), _) => {
            api.fleet.host().events.volume(&volume, "create");
            Ok((StatusCode::CREATED, Json(volume)).into_response())
        }
        (None, key) => {
            let made = key.map(|key| made(&api.fleet, &key)).transpose()?.flatten();
            made.ok_or_else(|| ApiError::of("key-reused", "the idempotency key was used before".into()))
        }
    }
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Volume>, ApiError> {
    let host = api.fleet.host().clone();
    Ok(Json(blocking(move || host.volumes.inspect(&host.state, &name)).await?))
}

/// Makes it larger, while it is in use as well.
pub(super) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<Volume>, ApiError> {
    let VolumePatch { size } = body(&bytes)?;
    let host = api.fleet.host().clone();
    let volume = {
        let (host, name) = (host.clone(), name.clone());
        blocking(move || host.volumes.inspect(&host.state, &name)).await?
    };
    // Asked before anything is changed: nothing is done by halves where that can be known.
    let users = api.fleet.users_of(&volume.id);
    users.iter().try_for_each(|microvm| microvm.may_grow())?;
    let grown = blocking(move || host.volumes.grow(&host.state, &name, size)).await?;
    for microvm in &users {
        microvm.grow(&grown.id, grown.size).await?;
    }
    if grown.size != volume.size {
        api.fleet.host().events.volume(&grown, "resize");
    }
    Ok(Json(grown))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let host = api.fleet.host().clone();
    let removed = blocking(move || host.volumes.remove(&host.state, &name)).await?;
    api.fleet.host().events.volume(&removed, "remove");
    Ok(StatusCode::NO_CONTENT)
}

/// Removes those that no microVM was made with.
pub(super) async fn prune(State(api): State<Api>) -> Result<Json<PrunedVolumes>, ApiError> {
    Ok(Json(prune_all(&api).await?))
}

/// The same, for a prune of more.
pub(super) async fn prune_all(api: &Api) -> Result<PrunedVolumes, ApiError> {
    let host = api.fleet.host().clone();
    let (pruned, removed) = blocking(move || host.volumes.prune(&host.state)).await?;
    for volume in &removed {
        api.fleet.host().events.volume(volume, "remove");
    }
    Ok(pruned)
}
