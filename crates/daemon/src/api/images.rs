//! `/v1/images`.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt;
use hull_image::{Digest, ImageRecord, ImportKind, Store};
use hull_protocol::api::{Image, Progress, PullRequest};
use hull_protocol::life::Subject;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::kernels::blocking;
use super::operation::{NDJSON, Operation, delete, done, get, json, lines, post};
use super::problem::ApiError;
use super::{Api, Remove, body, page, query};
use crate::trace;
use crate::trust::Wanted;

/// What is asked of images.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/images", list, "listImages", "List images")
            .query::<page::Wanted>()
            .answers(json::<Vec<Image>>(200, "A page of images.").with(&["Link"])),
        post("/v1/images/pull", pull, "pullImage", "Pull an image from a registry")
            .notes("Its last line is `done` or `failed`, with the problem. A client that goes away ends its pull.")
            .body::<PullRequest>()
            .answers(lines::<Progress>("Progress, as it is made."))
            .fails(&["no-space"]),
        post("/v1/images/import", import, "importImage", "Import an image from an archive")
            .query::<Import>()
            .stream_in("application/x-tar")
            .answers(lines::<Progress>("One line, `done`."))
            .fails(&["untrusted-image", "import-failed", "over-quota", "no-space"]),
        get("/v1/images/{name}", inspect, "inspectImage", "Show an image")
            .answers(json::<ImageRecord>(200, "The image."))
            .fails(&["no-such-image", "conflict"]),
        delete("/v1/images/{name}", remove, "removeImage", "Remove an image, or one of its names")
            .query::<Remove>()
            .answers(done("It is gone."))
            .fails(&["no-such-image", "conflict"]),
    ]
}

/// How many lines of progress wait for the client; what comes while they do is left out.
const LINES: usize = 64;

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let wanted = query(&uri)?;
    let images = api.fleet.images().list().iter().map(Image::from).collect();
    Ok(page::of(images, |image: &Image| image.digest.clone(), wanted, &uri))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ImageRecord>, ApiError> {
    Ok(Json(api.fleet.images().resolve(&name)?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let Remove { force } = query(&uri)?;
    let (used, needed) = (api.fleet.images_in_use(force), api.fleet.images_of_others());
    blocking(move || {
        let has = |digests: &HashSet<String>, digest: &Digest| digests.contains(&digest.to_string());
        let removed =
            api.fleet.images().release(&name, |digest| has(&used, digest), |digest| has(&needed, digest))?;
        let digest = removed.deleted.map(|digest| digest.to_string()).unwrap_or_default();
        api.fleet.events().tell(Subject::Image, "remove", &digest, &name, BTreeMap::new());
        Ok::<_, hull_image::StoreError>(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn pull(State(api): State<Api>, bytes: Bytes) -> Result<Response, ApiError> {
    let request: PullRequest = body(&bytes)?;
    // What the daemon can reach without TLS, such as a cloud's metadata, is not for everybody to reach.
    if request.plain_http && api.fleet.whole().is_none() {
        let why = "a registry without TLS is for the host's own tenant to speak to";
        return Err(ApiError::of("forbidden", why.into()));
    }
    let images = api.fleet.room_for_images()?;
    let (lines, progress) = mpsc::channel(LINES);
    let pull = trace::spawn(async move {
        let shown = lines.clone();
        // A client that is slow to read misses steps on the way, never the last line.
        let report = move |step| drop(shown.try_send(step));
        let last = match bring(&api, &images, &request, report).await {
            Ok(image) => {
                tell(&api, "pull", &image);
                Progress::Done(Box::new(Image::from(&image)))
            }
            Err(error) => Progress::Failed(error.into_problem()),
        };
        let _left = lines.send(last).await;
    });
    // A client that goes away ends its pull.
    Ok(ndjson(progress, AbortOnDropHandle::new(pull)))
}

/// Pulls an image as the image policy wants it.
async fn bring(
    api: &Api,
    images: &Store,
    request: &PullRequest,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<ImageRecord, ApiError> {
    let pulled = match api.fleet.policy().pull(api.fleet.tenant(), &request.reference)? {
        Wanted::Anything => images.pull(request, progress).await,
        Wanted::SignedBy(keys) => images.pull_signed(request, keys, progress).await,
    };
    Ok(pulled?)
}

/// Tells those who follow events.
fn tell(api: &Api, action: &str, image: &ImageRecord) {
    let name = image.names.first().map_or("", String::as_str);
    let events = api.fleet.events();
    events.tell(Subject::Image, action, &image.digest.to_string(), name, BTreeMap::new());
}

fn ndjson(lines: mpsc::Receiver<Progress>, work: AbortOnDropHandle<()>) -> Response {
    let lines = futures_util::stream::unfold((lines, work), async |(mut lines, work)| {
        let mut line = serde_json::to_vec(&lines.recv().await?).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (lines, work)))
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(Box::pin(lines))).into_response()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Import {
    /// The name that it gets.
    name: String,
    /// What is sent; found out when missing.
    #[serde(rename = "type")]
    kind: Option<ImportKind>,
}

/// Answers once the whole body has been read: the client knows what it has sent.
pub(super) async fn import(State(api): State<Api>, uri: Uri, body: Body) -> Result<Response, ApiError> {
    let Import { name, kind } = query(&uri)?;
    api.fleet.policy().import(api.fleet.tenant(), &name)?;
    let stream = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let image = api.fleet.room_for_images()?.import(stream, &name, kind, |_step| {}).await?;
    tell(&api, "import", &image);
    let mut line = serde_json::to_vec(&Progress::Done(Box::new(Image::from(&image)))).unwrap_or_default();
    line.push(b'\n');
    Ok(([(header::CONTENT_TYPE, NDJSON)], line).into_response())
}
