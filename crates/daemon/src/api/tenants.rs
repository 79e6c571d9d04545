//! `/v1/tenants`. Whoever does not administer the host sees its own tenant, and no sign of others.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use bytes::Bytes;
use hull_protocol::api::{Tenant, TenantPatch, TenantSpec};

use super::access::{Made, made, whole};
use super::kernels::blocking;
use super::operation::{Operation, delete, done, get, json, patch, post};
use super::problem::ApiError;
use super::{Api, body, page, query};
use crate::tenants::TenantError;
use crate::tenants::principal::Principal;
use crate::view::View;

/// What is asked of tenants.
pub(super) fn operations() -> Vec<Operation> {
    const ONE: &str = "/v1/tenants/{name}";
    vec![
        get("/v1/tenants", list, "listTenants", "List tenants")
            .notes("All of them for who administers the host, else one's own.")
            .query::<page::Wanted>()
            .answers(json::<Vec<Tenant>>(200, "A page of tenants.").with(&["Link"])),
        post("/v1/tenants", create, "createTenant", "Create a tenant")
            .body::<TenantSpec>()
            .answers(json::<Tenant>(201, "The new tenant.").with(&["Location"]))
            .fails(&["conflict"]),
        get(ONE, inspect, "inspectTenant", "Show a tenant, and what it has")
            .answers(json::<Tenant>(200, "The tenant.")),
        patch(ONE, update, "updateTenant", "Change a tenant's quotas and users")
            .body::<TenantPatch>()
            .answers(json::<Tenant>(200, "The tenant as it is now."))
            .fails(&["conflict"]),
        delete(ONE, remove, "removeTenant", "Remove a tenant that has nothing left")
            .notes("With its tokens, and the names that it gave to images.")
            .answers(done("It is gone."))
            .fails(&["conflict"]),
    ]
}

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
