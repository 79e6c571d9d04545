//! The REST API, version 1: thin handlers over the fleet and the stores.
//!
//! Owner: the daemon's HTTP server; every handler runs on the runtime. Invariants: what a request sends is bounded
//! and checked before it is used; every failure is a [`problem`]; a client that goes away takes nothing with it.

mod access;
mod audit;
mod console;
mod docs;
mod document;
mod events;
mod exec;
mod files;
mod idempotency;
mod images;
mod kernels;
mod logs;
mod measure;
mod microvms;
mod networks;
mod operation;
mod page;
pub mod problem;
mod secrets;
mod streams;
mod strict;
mod system;
mod tenants;
mod tokens;
mod volumes;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

pub use self::docs::{is_open, router as open_router};
pub use self::measure::route_of;
use self::operation::Operation;
use self::problem::ApiError;
use crate::view::View;

/// The largest JSON body, in bytes.
const BODY_MAX: usize = 2 << 20;

/// What every handler gets: one tenant's part, and nothing that leads to more.
#[derive(Clone)]
pub struct Api {
    /// The microVMs, and all else.
    pub fleet: View,
    /// Whether the daemon leaves when nobody needs it.
    pub on_demand: bool,
}

/// Everything that can be asked.
fn operations() -> Vec<Operation> {
    let all = [
        microvms::operations(),
        microvms::steps(),
        streams::operations(),
        logs::operations(),
        console::operations(),
        files::operations(),
        secrets::operations(),
        measure::operations(),
        exec::operations(),
        images::operations(),
        kernels::operations(),
        networks::operations(),
        volumes::operations(),
        events::operations(),
        system::operations(),
        tenants::operations(),
        tokens::operations(),
        audit::operations(),
        docs::operations(),
    ];
    all.into_iter().flatten().collect()
}

/// The routes, for one tenant. Requests come with the [`crate::tenants::principal::Principal`] who asks.
pub fn router(api: Api) -> Router {
    let routes = operations().into_iter().map(Operation::into_route);
    routes
        .fold(Router::new(), |router, (path, route)| router.route(path, route))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::map_response(problem::told))
        .layer(middleware::from_fn(access::guard))
        .layer(middleware::from_fn(measure::name_route))
        .with_state(api)
}

async fn nowhere(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}: the API is under /v1/", uri.path()))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> ApiError {
    ApiError::new(
        405,
        "method-not-allowed",
        "Method not allowed",
        format!("{method} does not work on {}", uri.path()),
    )
}

/// A body of what comes through a channel, until it is closed.
fn streamed(pieces: mpsc::Receiver<Bytes>) -> Body {
    let pieces = futures_util::stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    Body::from_stream(Box::pin(pieces))
}

/// The query of a removal.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Remove {
    /// Even if it runs, or if microVMs that do not run need it.
    #[serde(default)]
    force: bool,
}

/// A JSON body, or why it is none: the field and the place are named.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    strict::from_slice(bytes).map_err(|error| ApiError::invalid(format!("the request's body: {error}")))
}

/// The part after `?`; unknown names are refused.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|error| ApiError::invalid(format!("the request's query: {}", error.body_text())))
}
