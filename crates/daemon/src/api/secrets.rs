//! `/v1/microvms/{id}/secrets`: values go in, and never out.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hull_protocol::secret::{SECRET_MAX, SecretValue};

use super::Api;
use super::operation::{Operation, delete, done, put};
use super::problem::ApiError;
use crate::secrets::SecretError;

/// What is asked of secrets.
pub(super) fn operations() -> Vec<Operation> {
    const ONE: &str = "/v1/microvms/{id}/secrets/{secret}";
    vec![
        put(ONE, give, "giveSecret", "Give a secret its value")
            .notes(
                "The body is the value, 512 KiB at most, and 1 MiB with the microVM's other secrets. It is kept in the \
                 host's memory alone, until it is forgotten, the microVM is removed or the host restarts, and nobody is \
                 told it but the container. One that runs finds it at its next start.",
            )
            .bytes_in("application/octet-stream", SECRET_MAX)
            .answers(done("It is kept."))
            .fails(&["conflict", "too-large", "no-space"]),
        delete(ONE, forget, "forgetSecret", "Forget a secret's value")
            .notes("A container that runs keeps it until it ends.")
            .answers(done("There is no value any more.")),
    ]
}

async fn give(
    State(api): State<Api>,
    Path((id, secret)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let value = SecretValue::new(bytes.into()).ok_or(SecretError::TooLong)?;
    api.fleet.find(&id)?.set_secret(&secret, Some(value)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget(
    State(api): State<Api>,
    Path((id, secret)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    api.fleet.find(&id)?.set_secret(&secret, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
