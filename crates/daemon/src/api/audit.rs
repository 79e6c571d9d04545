//! `/v1/audit`: who did what, for those who administer the host.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hull_protocol::api::AuditEntry;
use serde::Deserialize;

use super::access::whole;
use super::kernels::blocking;
use super::problem::ApiError;
use super::{Api, query};
use crate::audit::Wanted;

/// How many entries there are in an answer when the request does not say, and at most.
const LIMIT: (usize, usize) = (100, 10_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    limit: Option<usize>,
    /// The first ones after this number; without it, the last ones.
    after: Option<u64>,
    tenant: Option<String>,
    who: Option<String>,
}

pub(super) async fn audit(State(api): State<Api>, uri: Uri) -> Result<Json<Vec<AuditEntry>>, ApiError> {
    let Query { limit, after, tenant, who } = query(&uri)?;
    let host = whole(&api)?.host().clone();
    let wanted = Wanted { limit: limit.unwrap_or(LIMIT.0).min(LIMIT.1), after, tenant, who };
    let read = move || host.audit.read(&wanted).map_err(|error| ApiError::internal(&error));
    Ok(Json(blocking(read).await?))
}
