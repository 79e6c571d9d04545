//! `/v1/tokens`: those of the tenant whose admin asks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use hull_protocol::api::{NewToken, Token, TokenSpec};

use super::access::{Made, made};
use super::operation::{Operation, delete, done, get, json, post};
use super::problem::ApiError;
use super::{Api, body, page, query};

/// What is asked of tokens.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/tokens", list, "listTokens", "List tokens")
            .query::<page::Wanted>()
            .answers(json::<Vec<Token>>(200, "A page of tokens, without their secrets.").with(&["Link"])),
        post("/v1/tokens", create, "createToken", "Create a token")
            .body::<TokenSpec>()
            .answers(
                json::<NewToken>(201, "The new token; its secret is shown this once.").with(&["Location"]),
            )
            .fails(&["conflict"]),
        delete("/v1/tokens/{id}", remove, "removeToken", "Remove a token")
            .answers(done("It is good for nothing any more.")),
    ]
}

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
