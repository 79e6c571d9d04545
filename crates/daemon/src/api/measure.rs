//! `/v1/stats`, the stats of one microVM, and `/metrics`.

use std::future::Future;
use std::time::Duration;

use axum::Json;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hull_protocol::api::{Microvm, Tenant};
use hull_protocol::life::Stats;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::kernels::blocking;
use super::operation::{Operation, bytes, get, json, lines};
use super::problem::ApiError;
use super::{Api, access, query, streamed};
use crate::metrics::{Present, TenantNow};
use crate::trace;

/// The media type of metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is asked of measurements.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/microvms/{id}/stats", one, "measureMicrovm", "Measure what a microVM uses")
            .query::<Wanted>()
            .answers(json::<Stats>(200, "What it uses now."))
            .answers(lines::<Stats>("With `stream`: a line each second, until it ends."))
            .fails(&["conflict"]),
        get("/v1/stats", all, "measureAll", "Measure what every running microVM uses")
            .query::<Wanted>()
            .answers(json::<Vec<Stats>>(200, "What they use now."))
            .answers(lines::<Vec<Stats>>("With `stream`: a line each second.")),
        get("/metrics", metrics, "readMetrics", "Everything that is counted, as Prometheus reads it")
            .answers(bytes(OPEN_METRICS, "Metrics in the OpenMetrics text format.")),
    ]
}

/// How often a stream measures.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Again and again, a line of JSON each time.
    #[serde(default)]
    stream: bool,
}

/// What one microVM uses. A stream ends when it does.
pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Wanted { stream } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    if stream {
        return Ok(each_second(move || {
            let (api, record) = (api.clone(), microvm.record());
            async move { of_records(&api, vec![record]).await.pop() }
        }));
    }
    let measured = of_records(&api, vec![microvm.record()]).await.pop();
    let measured = measured.ok_or_else(|| ApiError::conflict("it does not run: start it first".into()))?;
    Ok(Json(measured).into_response())
}

/// What every running microVM uses.
pub(super) async fn all(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let Wanted { stream } = query(&uri)?;
    if !stream {
        return Ok(Json(of_records(&api, api.fleet.list()).await).into_response());
    }
    Ok(each_second(move || {
        let api = api.clone();
        async move { Some(of_records(&api, api.fleet.list()).await) }
    }))
}

async fn of_records(api: &Api, records: Vec<Microvm>) -> Vec<Stats> {
    let view = api.fleet.clone();
    let measured = blocking::<_, ApiError>(move || Ok(view.measure(&records)));
    measured.await.unwrap_or_default()
}

/// A line of JSON each second, until there is nothing to measure or nobody reads.
fn each_second<T, F>(mut now: impl FnMut() -> F + Send + 'static) -> Response
where
    T: Serialize + Send,
    F: Future<Output = Option<T>> + Send,
{
    let (sender, receiver) = mpsc::channel(1);
    trace::spawn(async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(measured) = now().await else { return };
            let mut line = serde_json::to_vec(&measured).unwrap_or_default();
            line.push(b'\n');
            if sender.send(Bytes::from(line)).await.is_err() {
                return;
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], streamed(receiver)).into_response()
}

/// Everything that is counted, as Prometheus reads it.
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let whole = access::whole(&api)?;
    let (host, microvms) = (whole.host(), whole.list());
    let stats = of_records(&api, microvms.clone()).await;
    let now = |tenant: Tenant| {
        let running = host.tenants.running(&tenant.name);
        TenantNow { running, name: tenant.name, quotas: tenant.quotas }
    };
    let tenants: Vec<TenantNow> = host.tenants.list().into_iter().map(now).collect();
    let capacity = host.capacity.shown();
    let present = Present { microvms: &microvms, tenants: &tenants, capacity: &capacity, stats: &stats };
    let text = host.metrics.text(&present).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Which route has answered, if one did; in every answer of a router.
#[derive(Clone)]
struct Route(Option<MatchedPath>);

/// Has every answer say by which route it came.
pub(super) async fn name_route(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Route(route));
    response
}

/// The route behind an answer, for counting: `none` for what is not there, `refused` for what came to no router.
pub fn route_of(response: &Response) -> &str {
    match response.extensions().get::<Route>() {
        Some(Route(Some(route))) => route.as_str(),
        Some(Route(None)) => "none",
        None => "refused",
    }
}
