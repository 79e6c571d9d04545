//! `/v1/networks`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hull_protocol::api::{Network, PlainCard};

use super::problem::ApiError;
use super::{Api, body};

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<Network>>, ApiError> {
    Ok(Json(api.fleet.host().state.networks()?))
}

pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Network>), ApiError> {
    let (host, spec) = (api.fleet.host(), body(&bytes)?);
    Ok((StatusCode::CREATED, Json(host.networks.create(&host.state, spec).await?)))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Network>, ApiError> {
    let host = api.fleet.host();
    Ok(Json(host.networks.inspect(&host.state, &name).await?))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let host = api.fleet.host();
    host.networks.remove(&host.state, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn lend(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<PlainCard>), ApiError> {
    let (host, spec) = (api.fleet.host(), body(&bytes)?);
    Ok((StatusCode::CREATED, Json(host.networks.lend(&host.state, &name, &spec).await?)))
}

pub(super) async fn give_back(
    State(api): State<Api>,
    Path((name, tap)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let host = api.fleet.host();
    host.networks.give_back(&host.state, &name, &tap).await?;
    Ok(StatusCode::NO_CONTENT)
}
