//! What a principal may do at all. Whose objects it reaches is decided before: by the view that the handlers get.
//!
//! Every request passes [`guard`], whatever handler it is for. Invariant: a route that is not named here needs the scope
//! `operate`, unless it only reads.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hull_protocol::api::{HOST_TENANT, Scope};

use super::Api;
use super::problem::ApiError;
use crate::fleet::Fleet;
use crate::tenants::principal::Principal;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// This scope within the tenant.
    Scope(Scope),
    /// To administer the host.
    Host,
}

/// What a route needs. Pure.
fn needs(method: &Method, route: &str) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let below =
        |place: &str| route.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match route {
        _ if below("/v1/audit") || below("/metrics") => Need::Host,
        _ if (below("/v1/tenants") || below("/v1/kernels")) && !reads => Need::Host,
        // A tap of the host's, for a VM that is no tenant's.
        _ if below("/v1/networks/{name}/cards") => Need::Host,
        _ if below("/v1/tokens") => Need::Scope(Scope::Admin),
        _ if reads => Need::Scope(Scope::Read),
        _ => Need::Scope(Scope::Operate),
    }
}

fn allowed(principal: &Principal, need: Need) -> Result<(), ApiError> {
    let refused = |what: &str| Err(ApiError::of("forbidden", what.to_owned()));
    match need {
        Need::Host if !principal.administers => refused(
            "this is for those who administer the host: its root, or an admin token of the tenant 'default'",
        ),
        Need::Scope(Scope::Operate) if principal.scope < Scope::Operate => {
            refused("this token may only look: take one with the scope operate")
        }
        Need::Scope(Scope::Admin) if principal.scope < Scope::Admin => {
            refused("this is for the tenant's admins: take a token with the scope admin")
        }
        _ => Ok(()),
    }
}

/// Lets a request through to its handler, or refuses it.
pub(super) async fn guard(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let Some(principal) = request.extensions().get::<Principal>() else {
        return ApiError::of("unauthorized", "nobody has said whose request this is".into()).into_response();
    };
    // What is not there may be asked for by everybody.
    let need =
        route.as_ref().map_or(Need::Scope(Scope::Read), |route| needs(request.method(), route.as_str()));
    match allowed(principal, need) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Everything there is, for those who administer the host and do not act for another tenant just now.
pub(super) fn whole(api: &Api) -> Result<&std::sync::Arc<Fleet>, ApiError> {
    api.fleet.whole().ok_or_else(|| {
        ApiError::of(
            "forbidden",
            format!("the host is administered as the tenant '{HOST_TENANT}', not for another"),
        )
    })
}

/// A header that says where what was made is.
pub(super) type Made = [(HeaderName, String); 1];

/// Where what was made is; the audit log has it from there.
pub(super) fn made(collection: &str, name: &str) -> Made {
    [(header::LOCATION, format!("/v1/{collection}/{name}"))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::principal::Who;

    /// Which of these may: read, operate and admin of a tenant, read, operate and admin of the host's.
    fn row(method: Method, route: &str) -> String {
        let scopes = [Scope::Read, Scope::Operate, Scope::Admin];
        let all = ["acme", "default"].into_iter().flat_map(|tenant| scopes.map(|scope| (tenant, scope)));
        let may = |(tenant, scope)| {
            let principal = Principal::new(tenant, scope, Who::User(7));
            allowed(&principal, needs(&method, route)).is_ok()
        };
        all.map(|one| if may(one) { 'y' } else { 'n' }).collect()
    }

    #[test]
    fn every_kind_of_route_is_for_whom_it_should_be() {
        for route in [
            "/v1/microvms",
            "/v1/microvms/{id}/logs",
            "/v1/volumes",
            "/v1/volumes/{name}",
            "/v1/kernels",
            "/v1/tenants/{name}",
            "/v1/events",
        ] {
            assert_eq!(row(Method::GET, route), "yyyyyy", "{route}");
            assert_eq!(row(Method::HEAD, route), "yyyyyy", "{route}");
        }
        for route in [
            "/v1/volumes",
            "/v1/volumes/{name}",
            "/v1/volumes/prune",
            "/v1/microvms",
            "/v1/microvms/{id}/exec",
            "/v1/exec/{id}/start",
            "/v1/system/prune",
            "/v1/new",
        ] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
                assert_eq!(row(method, route), "nyynyy", "{route}");
            }
        }
        assert_eq!(row(Method::POST, "/v1/networks/{name}/cards"), "nnnnny");
        assert_eq!(row(Method::DELETE, "/v1/networks/{name}/cards/{tap}"), "nnnnny");
        assert_eq!(row(Method::GET, "/v1/tokens"), "nnynny");
        assert_eq!(row(Method::DELETE, "/v1/tokens/{id}"), "nnynny");
        for route in ["/v1/audit", "/metrics"] {
            assert_eq!(row(Method::GET, route), "nnnnny", "{route}");
        }
        for route in ["/v1/tenants", "/v1/tenants/{name}", "/v1/kernels", "/v1/kernels/{name}"] {
            assert_eq!(row(Method::POST, route), "nnnnny", "{route}");
            assert_eq!(row(Method::DELETE, route), "nnnnny", "{route}");
        }
    }
}
