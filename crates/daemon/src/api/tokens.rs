//! `/v1/tokens`: those of the tenant whose admin asks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use hull_protocol::api::{NewToken, Token};

use super::access::{Made, made};
use super::problem::ApiError;
use super::{Api, body, page, query};

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let wanted = query(&uri)?;
    Ok(page::of(api.fleet.tokens(), |token: &Token| token.id.clone(), wanted, &uri))
}

/// The one answer in which the token itself is.
pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Made, Json<NewToken>), ApiError> {
    let new = api.fleet.create_token(body(&bytes)?)?;
    Ok((StatusCode::CREATED, made("tokens", &new.token.id), Json(new)))
}

pub(super) async fn remove(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    api.fleet.remove_token(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
