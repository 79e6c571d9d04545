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
use super::{Api, access, body, idempotency, page, query};
use crate::fleet::FleetError;
use crate::state::{Key, StateError};
use crate::view::View;
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
    let mut volumes = blocking(move || api.fleet.volumes()).await?;
    volumes.retain(|volume| page::labelled(&volume.labels, label.as_deref()));
    Ok(page::of(volumes, |volume: &Volume| volume.name.clone(), page::Wanted { limit, after }, &uri))
}

/// The answer to the request that has used the key already, if one has.
fn made(fleet: &View, key: &Key) -> Result<Option<Response>, ApiError> {
    idempotency::replay(fleet, key, |id| fleet.volume(id).ok())
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
    let (fleet, used) = (api.fleet.clone(), key.clone());
    let created = blocking::<_, ApiError>(move || match fleet.create_volume(spec, used.as_ref()) {
        Ok(volume) => Ok(Some(volume)),
        // The same request was answered a moment ago.
        Err(FleetError::Volume(VolumeError::State(StateError::KeyUsed { .. }))) => Ok(None),
        Err(error) => Err(error.into()),
    });
    match (created.await?, key) {
        (Some(volume), _) => {
            Ok((StatusCode::CREATED, access::made("volumes", &volume.name), Json(volume)).into_response())
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
    Ok(Json(blocking(move || api.fleet.volume(&name)).await?))
}

/// Makes it larger, while it is in use as well.
pub(super) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<Volume>, ApiError> {
    let VolumePatch { size } = body(&bytes)?;
    let volume = {
        let fleet = api.fleet.clone();
        blocking(move || fleet.volume(&name)).await?
    };
    // Asked before anything is changed: nothing is done by halves where that can be known.
    let users = api.fleet.users_of_volume(&volume);
    users.iter().try_for_each(|microvm| microvm.may_grow())?;
    let fleet = api.fleet.clone();
    let grown = blocking(move || fleet.grow_volume(&volume.name, size)).await?;
    if grown.size != volume.size {
        api.fleet.events().volume(&grown, "resize");
    }
    for microvm in &users {
        microvm.grow(&grown.id, grown.size).await?;
    }
    Ok(Json(grown))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    blocking(move || api.fleet.remove_volume(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes those that no microVM was made with.
pub(super) async fn prune(State(api): State<Api>) -> Result<Json<PrunedVolumes>, ApiError> {
    Ok(Json(blocking(move || api.fleet.prune_volumes()).await?))
}
