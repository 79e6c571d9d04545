//! `/v1/networks`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hull_protocol::api::{Network, PlainCard};

use super::access::Made;
use super::problem::ApiError;
use super::{Api, access, body};

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<Network>>, ApiError> {
    Ok(Json(api.fleet.networks()?))
}

pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Made, Json<Network>), ApiError> {
    let network = api.fleet.create_network(body(&bytes)?).await?;
    Ok((StatusCode::CREATED, access::made("networks", &network.name), Json(network)))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Network>, ApiError> {
    Ok(Json(api.fleet.network(&name).await?))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.fleet.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn lend(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<PlainCard>), ApiError> {
    access::whole(&api)?;
    Ok((StatusCode::CREATED, Json(api.fleet.lend_card(&name, &body(&bytes)?).await?)))
}

pub(super) async fn give_back(
    State(api): State<Api>,
    Path((name, tap)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    access::whole(&api)?;
    api.fleet.give_back_card(&name, &tap).await?;
    Ok(StatusCode::NO_CONTENT)
}
