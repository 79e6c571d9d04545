//! `/v1/microvms`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hull_protocol::agent::WindowSize;
use hull_protocol::api::{ExitStatus, Microvm, State as Life};
use hull_protocol::life::MicrovmPatch;
use hull_protocol::spec::MicrovmSpec;
use schemars::JsonSchema;
use serde::Deserialize;

use super::operation::{Answer, Operation, delete, done, get, json, patch, post};
use super::problem::ApiError;
use super::{Api, Remove, access, body, idempotency, page, query};
use crate::fleet::FleetError;
use crate::microvm::chain;
use crate::plan;
use crate::state::StateError;
use crate::tenants::principal::Principal;

/// How a step in its life fails.
const STEP: [&str; 2] = ["conflict", "vmm-failed"];
/// How a start fails.
const START: [&str; 8] = [
    "no-such-network",
    "conflict",
    "over-capacity",
    "over-quota",
    "secret-missing",
    "vmm-failed",
    "no-networks",
    "no-space",
];

/// What is asked of the collection, and of one record.
pub(super) fn operations() -> Vec<Operation> {
    const ONE: &str = "/v1/microvms/{id}";
    vec![
        get("/v1/microvms", list, "listMicrovms", "List microVMs")
            .notes("In the order in which they were made.")
            .query::<List>()
            .answers(json::<Vec<Microvm>>(200, "A page of microVMs.").with(&["Link"])),
        post("/v1/microvms", create, "createMicrovm", "Create a microVM")
            .notes("It is not started. The image must be in the store; its digest is pinned.")
            .headers(&["Idempotency-Key"])
            .body::<MicrovmSpec>()
            .answers(json::<Microvm>(201, "The new microVM.").with(&["ETag", "Idempotency-Replayed", "Location"]))
            .fails(&[
                "no-such-image",
                "no-such-network",
                "conflict",
                "name-taken",
                "over-capacity",
                "over-quota",
                "key-reused",
                "no-networks",
                "no-space",
            ]),
        get(ONE, inspect, "inspectMicrovm", "Show a microVM")
            .answers(record("The microVM."))
            .fails(&["conflict"]),
        patch(ONE, update, "updateMicrovm", "Change a microVM")
            .notes("Its name, labels, restart policy and limits on the host, also while it runs. What is missing stays.")
            .headers(&["If-Match"])
            .body::<MicrovmPatch>()
            .answers(record("The microVM as it is now."))
            .fails(&["conflict", "name-taken", "precondition-failed"]),
        delete(ONE, remove, "removeMicrovm", "Remove a microVM")
            .notes("With its disk and logs.")
            .query::<Remove>()
            .answers(done("It is gone."))
            .fails(&["conflict", "vmm-failed"]),
    ]
}

/// What is done to one.
pub(super) fn steps() -> Vec<Operation> {
    let now = || json::<Microvm>(200, "The microVM as it is now.");
    vec![
        post("/v1/microvms/{id}/start", start, "startMicrovm", "Start a microVM")
            .notes("Answered when its process runs, or could not be started.")
            .answers(now())
            .fails(&START),
        post("/v1/microvms/{id}/stop", stop, "stopMicrovm", "Stop a microVM")
            .notes("Its process gets the image's stop signal, after the grace SIGKILL; then its power button is pressed. \
                Answered when it has stopped.")
            .query::<Stop>()
            .answers(now())
            .fails(&STEP),
        post("/v1/microvms/{id}/restart", restart, "restartMicrovm", "Stop a microVM, and start it again")
            .query::<Stop>()
            .answers(now())
            .fails(&START),
        post("/v1/microvms/{id}/pause", pause, "pauseMicrovm", "Stop a microVM in place")
            .answers(now())
            .fails(&STEP),
        post("/v1/microvms/{id}/unpause", unpause, "unpauseMicrovm", "Let a paused microVM go on")
            .answers(now())
            .fails(&STEP),
        post("/v1/microvms/{id}/kill", kill, "killMicrovm", "Send its process a signal")
            .query::<Kill>()
            .answers(done("The signal is sent."))
            .fails(&STEP),
        post("/v1/microvms/{id}/resize", resize, "resizeMicrovm", "Set the size of its terminal")
            .body::<WindowSize>()
            .answers(done("The size is set."))
            .fails(&STEP),
        get("/v1/microvms/{id}/wait", wait, "waitForMicrovm", "Wait until its process has ended")
            .notes("At once, where it does not run.")
            .answers(json::<ExitStatus>(200, "How it ended."))
            .fails(&["conflict"]),
    ]
}

fn record(says: &'static str) -> Answer {
    json::<Microvm>(200, says).with(&["ETag"])
}

/// Names and numbers of signals, as [`plan::stop_signal`] reads them.
pub(super) const SIGNAL: &str = r"^((SIG)?(HUP|INT|QUIT|ABRT|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|CONT|STOP|TSTP|WINCH|RTMIN[+]([0-9]|[12][0-9]|30))|[1-9]|[1-5][0-9]|6[0-4])?$";
/// How long a stop waits when the request does not say, in seconds: as Docker's.
const GRACE: u64 = 10;
/// The longest a stop waits, in seconds.
const GRACE_MAX: u64 = 3600;

/// Which microVMs are wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct List {
    /// How many at most; all when missing.
    limit: Option<usize>,
    /// Those after this place, as a `Link` to the next page has it.
    after: Option<String>,
    /// Those in this state.
    state: Option<Life>,
    /// Those with this label: `KEY` or `KEY=value`.
    label: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let List { limit, after, state, label } = query(&uri)?;
    let labelled = |microvm: &Microvm| page::labelled(&microvm.spec.labels, label.as_deref());
    let mut microvms = api.fleet.list();
    microvms.retain(|microvm| state.is_none_or(|state| microvm.state == state) && labelled(microvm));
    let key = |microvm: &Microvm| format!("{}~{}", microvm.created_at, microvm.id);
    Ok(page::of(microvms, key, page::Wanted { limit, after }, &uri))
}

/// A record with the tag of its revision.
fn tagged(record: Microvm) -> ([(HeaderName, String); 1], Json<Microvm>) {
    ([(header::ETAG, format!("\"{}\"", record.revision))], Json(record))
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Principal>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let key = idempotency::key(&headers, &bytes)?;
    if let Some(key) = &key
        && let Some(made) = idempotency::made(&api.fleet, key)?
    {
        return Ok(made);
    }
    match (api.fleet.create(&by, body(&bytes)?, key.as_ref()).await, key) {
        (Ok(microvm), _) => {
            let record = microvm.record();
            let made = access::made("microvms", &record.id);
            Ok((StatusCode::CREATED, made, tagged(record)).into_response())
        }
        // The same request was answered a moment ago.
        (Err(FleetError::State(StateError::KeyUsed { .. })), Some(key)) => {
            let made = idempotency::made(&api.fleet, &key)?;
            made.ok_or_else(|| ApiError::of("key-reused", "the idempotency key was used before".into()))
        }
        (Err(error), _) => Err(error.into()),
    }
}

pub(super) async fn inspect(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let mut record = api.fleet.find(&id)?.record();
    if let Err(error) = api.fleet.count_refused(&mut record.cards).await {
        tracing::warn!("what {id} was refused is not known: {}", chain(&error));
    }
    Ok(tagged(record).into_response())
}

/// Changes what may be changed; with `If-Match`, only at that revision.
pub(super) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let revision = if_match(&headers)?;
    let microvm = api.fleet.find(&id)?;
    microvm.update(body(&bytes)?, revision).await?;
    Ok(tagged(microvm.record()).into_response())
}

/// The revision that a change is meant for; none: whichever it is.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(tag) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let tag = tag.to_str().unwrap_or_default();
    if tag == "*" {
        return Ok(None);
    }
    let revision =
        tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
    revision.map(Some).ok_or_else(|| {
        ApiError::invalid("If-Match: write the ETag of the microVM as it was read, quotes too, or *".into())
    })
}

pub(super) async fn pause(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.pause().await?;
    Ok(Json(microvm.record()))
}

pub(super) async fn unpause(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.unpause().await?;
    Ok(Json(microvm.record()))
}

pub(super) async fn restart(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Microvm>, ApiError> {
    let Stop { grace } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    microvm.restart(Duration::from_secs(grace.unwrap_or(GRACE).min(GRACE_MAX))).await?;
    Ok(Json(microvm.record()))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Remove { force } = query(&uri)?;
    api.fleet.find(&id)?.delete(force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn start(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Microvm>, ApiError> {
    let microvm = api.fleet.find(&id)?;
    microvm.start().await?;
    Ok(Json(microvm.record()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// Seconds until it is killed: 10 when missing, 3600 at most.
    grace: Option<u64>,
}

pub(super) async fn stop(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Microvm>, ApiError> {
    let Stop { grace } = query(&uri)?;
    let microvm = api.fleet.find(&id)?;
    microvm.stop(Duration::from_secs(grace.unwrap_or(GRACE).min(GRACE_MAX))).await?;
    Ok(Json(microvm.record()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Kill {
    /// A name such as `TERM` or `SIGTERM`, or a number; KILL when missing.
    #[schemars(regex(pattern = SIGNAL))]
    signal: Option<String>,
}

pub(super) async fn kill(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Kill { signal } = query(&uri)?;
    let signal = signal.as_deref().unwrap_or("KILL");
    let number = plan::stop_signal(signal).map_err(|error| ApiError::invalid(error.to_string()))?;
    api.fleet.find(&id)?.signal(number).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let size: WindowSize = body(&bytes)?;
    api.fleet.find(&id)?.resize(size).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn wait(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ExitStatus>, ApiError> {
    Ok(Json(api.fleet.find(&id)?.wait().await?))
}
