//! `Idempotency-Key`: a request to create that is sent twice makes one thing.
//!
//! Invariant: the key and what is made with it are written in one transaction, so that no crash comes between them.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::ApiError;
use crate::state::Key;
use crate::view::View;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that this is the answer to an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in bytes.
const KEY_MAX: usize = 255;

/// The key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap, body: &[u8]) -> Result<Option<Key>, ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let fits = |key: &&str| !key.is_empty() && key.len() <= KEY_MAX;
    let key = value.to_str().ok().filter(fits).ok_or_else(|| {
        ApiError::invalid(format!(
            "Idempotency-Key: give 1 to {KEY_MAX} printable ASCII characters, such as a UUID"
        ))
    })?;
    let digest = Sha256::digest(body);
    let request = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Key { key: key.to_owned(), request }))
}

/// The answer to the request that has used the key for a microVM already, if one has.
pub(super) fn made(fleet: &View, key: &Key) -> Result<Option<Response>, ApiError> {
    replay(fleet, key, |id| fleet.find_made(id).ok().map(|microvm| microvm.record()))
}

/// The answer to the request that has used the key already, if one has; `find` finds what was made then.
pub(super) fn replay<T: Serialize>(
    fleet: &View,
    key: &Key,
    find: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<Response>, ApiError> {
    let Some((id, same)) = fleet.made_with(key)? else { return Ok(None) };
    let reused = |why: &str| ApiError::of("key-reused", why.to_owned());
    if !same {
        return Err(reused(
            "this idempotency key was used for another request: use a new one for each request",
        ));
    }
    let Some(made) = find(&id) else {
        return Err(reused("what was made with this idempotency key has been removed"));
    };
    Ok(Some((StatusCode::CREATED, [(REPLAYED, "true")], Json(made)).into_response()))
}
