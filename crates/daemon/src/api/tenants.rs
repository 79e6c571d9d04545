//! `/v1/tenants`. Whoever does not administer the host sees its own tenant, and no sign of others.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use bytes::Bytes;
use hull_protocol::api::{Tenant, TenantPatch, TenantSpec};

use super::access::{Made, made, whole};
use super::kernels::blocking;
use super::problem::ApiError;
use super::{Api, body, page, query};
use crate::tenants::TenantError;
use crate::tenants::principal::Principal;
use crate::view::View;

/// The tenants that somebody sees, with what they have.
fn seen(api: &Api, principal: &Principal) -> Vec<Tenant> {
    match api.fleet.whole().filter(|_| principal.administers) {
        Some(fleet) => {
            let all = fleet.host().tenants.list().into_iter();
            all.filter_map(|tenant| View::new(fleet.clone(), tenant.name.as_str().into()).itself()).collect()
        }
        None => api.fleet.itself().into_iter().collect(),
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let wanted = query(&uri)?;
    Ok(page::of(seen(&api, &principal), |tenant: &Tenant| tenant.name.clone(), wanted, &uri))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<Tenant>, ApiError> {
    let found = seen(&api, &principal).into_iter().find(|tenant| tenant.name == name);
    Ok(Json(found.ok_or(TenantError::NotFound(name))?))
}

pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Made, Json<Tenant>), ApiError> {
    let spec: TenantSpec = body(&bytes)?;
    let host = whole(&api)?.host();
    let tenant = host.tenants.create(&host.state, spec)?;
    crate::door::open_for_users(&host.paths, &host.tenants);
    Ok((StatusCode::CREATED, made("tenants", &tenant.name), Json(tenant)))
}

pub(super) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<Tenant>, ApiError> {
    let patch: TenantPatch = body(&bytes)?;
    let host = whole(&api)?.host();
    let tenant = host.tenants.update(&host.state, &name, patch)?;
    crate::door::open_for_users(&host.paths, &host.tenants);
    Ok(Json(tenant))
}

/// Removes a tenant without microVMs and networks, its tokens, and the names that it gave to images.
pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let fleet = whole(&api)?.clone();
    let host = fleet.host().clone();
    host.tenants.remove(&host.state, &name)?;
    host.events.forget(&name);
    crate::door::open_for_users(&host.paths, &host.tenants);
    blocking(move || {
        let needed = fleet.images_in_use(false, |_| true);
        host.images_of(&name).release_all(|digest| needed.contains(&digest.to_string()))?;
        Ok::<_, hull_image::StoreError>(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
