//! The REST API, version 1: thin handlers over the fleet and the stores.
//!
//! Owner: the daemon's HTTP server; every handler runs on the runtime. Invariants: what a request sends is bounded
//! and checked before it is used; every failure is a [`problem`]; a client that goes away takes nothing with it.

mod access;
mod audit;
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
mod page;
pub mod problem;
mod streams;
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
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use self::problem::ApiError;
use crate::metrics::Metrics;
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

/// The routes, for one tenant. Requests come with the [`crate::tenants::principal::Principal`] who asks.
pub fn router(api: Api, metrics: Metrics) -> Router {
    let microvm = Router::new()
        .route("/", get(microvms::inspect).patch(microvms::update).delete(microvms::remove))
        .route("/start", post(microvms::start))
        .route("/stop", post(microvms::stop))
        .route("/restart", post(microvms::restart))
        .route("/pause", post(microvms::pause))
        .route("/unpause", post(microvms::unpause))
        .route("/stats", get(measure::one))
        .route("/kill", post(microvms::kill))
        .route("/resize", post(microvms::resize))
        .route("/wait", get(microvms::wait))
        .route("/attach", post(streams::attach))
        .route("/logs", get(logs::logs))
        .route("/exec", post(exec::create))
        .route("/files", get(files::get).put(files::put).layer(DefaultBodyLimit::disable()))
        .route("/files/stat", get(files::stat))
        .route("/processes", get(files::processes));
    let exec = Router::new()
        .route("/", get(exec::inspect))
        .route("/start", post(exec::start))
        .route("/resize", post(exec::resize))
        .route("/kill", post(exec::kill));
    Router::new()
        .route("/v1/microvms", get(microvms::list).post(microvms::create))
        .nest("/v1/microvms/{id}", microvm)
        .nest("/v1/exec/{id}", exec)
        .route("/v1/images", get(images::list))
        .route("/v1/images/pull", post(images::pull))
        .route("/v1/images/import", post(images::import).layer(DefaultBodyLimit::disable()))
        .route("/v1/images/{name}", get(images::inspect).delete(images::remove))
        .route("/v1/kernels", get(kernels::list).post(kernels::import).layer(DefaultBodyLimit::disable()))
        .route("/v1/kernels/{name}", axum::routing::delete(kernels::remove))
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route("/v1/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/v1/networks/{name}/cards", post(networks::lend))
        .route("/v1/networks/{name}/cards/{tap}", axum::routing::delete(networks::give_back))
        .route("/v1/volumes", get(volumes::list).post(volumes::create))
        .route("/v1/volumes/prune", post(volumes::prune))
        .route("/v1/volumes/{name}", get(volumes::inspect).patch(volumes::update).delete(volumes::remove))
        .route("/v1/events", get(events::events))
        .route("/v1/stats", get(measure::all))
        .route("/v1/system", get(system::system))
        .route("/v1/system/df", get(system::disk_usage))
        .route("/v1/system/prune", post(system::prune))
        .route("/v1/tenants", get(tenants::list).post(tenants::create))
        .route("/v1/tenants/{name}", get(tenants::inspect).patch(tenants::update).delete(tenants::remove))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", axum::routing::delete(tokens::remove))
        .route("/v1/audit", get(audit::audit))
        .route("/metrics", get(measure::metrics))
        .route("/problems/{kind}", get(system::problem))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(access::guard))
        .layer(middleware::from_fn_with_state(metrics, measure::count))
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    /// Even if it runs, or if microVMs that do not run need it.
    #[serde(default)]
    force: bool,
}

/// A JSON body, or why it is none: the field and the place are named.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::invalid(format!("the request's body: {error}")))
}

/// The part after `?`; unknown names are refused.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|error| ApiError::invalid(format!("the request's query: {}", error.body_text())))
}
