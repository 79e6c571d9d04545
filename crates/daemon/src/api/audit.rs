//! `/v1/audit`: who did what, for those who administer the host.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hull_protocol::api::AuditEntry;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::whole;
use super::kernels::blocking;
use super::operation::{Operation, get, json};
use super::problem::ApiError;
use super::{Api, query};
use crate::audit::Wanted;

/// What is asked of the audit log.
pub(super) fn operations() -> Vec<Operation> {
    vec![get("/v1/audit", audit, "readAudit", "Read who did what").query::<Query>().answers(json::<
        Vec<AuditEntry>,
    >(
        200,
        "Entries, the oldest first.",
    ))]
}

/// How many entries there are in an answer when the request does not say, and at most.
const LIMIT: (usize, usize) = (100, 10_000);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// How many at most: 100 when missing, 10,000 at most.
    limit: Option<usize>,
    /// The first ones after this number; without it, the last ones.
    after: Option<u64>,
    /// Those of this tenant.
    tenant: Option<String>,
    /// Those by this one: `uid:` and a number, or `token:` and an id.
    who: Option<String>,
}

pub(super) async fn audit(State(api): State<Api>, uri: Uri) -> Result<Json<Vec<AuditEntry>>, ApiError> {
    let Query { limit, after, tenant, who } = query(&uri)?;
    let host = whole(&api)?.host().clone();
    let wanted = Wanted { limit: limit.unwrap_or(LIMIT.0).min(LIMIT.1), after, tenant, who };
    let read = move || host.audit.read(&wanted).map_err(|error| ApiError::internal(&error));
    Ok(Json(blocking(read).await?))
}
