//! `/v1/kernels`.

use std::collections::BTreeMap;
use std::io::Read;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures_util::TryStreamExt;
use hull_protocol::api::Kernel;
use hull_protocol::life::Subject;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::operation::{Operation, delete, done, get, json, post};
use super::problem::ApiError;
use super::{Api, access, page, query};
use crate::kernel::{ImportOptions, ImportSource};
use crate::trace;

/// What is asked of kernels.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/kernels", list, "listKernels", "List kernel bundles")
            .query::<page::Wanted>()
            .answers(json::<Vec<Kernel>>(200, "A page of bundles.").with(&["Link"])),
        post("/v1/kernels", import, "importKernel", "Make a kernel bundle")
            .query::<Import>()
            .stream_in("application/octet-stream")
            .answers(json::<Kernel>(200, "The bundle."))
            .fails(&["conflict", "import-failed"]),
        delete("/v1/kernels/{name}", remove, "removeKernel", "Remove a kernel bundle")
            .answers(done("It is gone."))
            .fails(&["conflict"]),
    ]
}

/// Runs blocking work on the stores.
pub(super) async fn blocking<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    match trace::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => Err(ApiError::internal(&error)),
    }
}

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let wanted = query(&uri)?;
    let kernels = blocking(move || api.fleet.kernels().list()).await?;
    Ok(page::of(kernels, |kernel: &Kernel| kernel.name.clone(), wanted, &uri))
}

/// Tells those who follow events.
fn tell(api: &Api, action: &str, name: &str) {
    api.fleet.events().tell(Subject::Kernel, action, name, name, BTreeMap::new());
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// A Debian package.
    Deb,
    /// A tar archive of `boot` and `lib/modules`.
    Tar,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Import {
    /// What is sent.
    kind: Source,
    /// The bundle's name; the release when missing.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._+~-]*$"), length(max = 100))]
    name: Option<String>,
    /// MicroVMs that name no kernel get this one.
    #[serde(default)]
    default: bool,
}

pub(super) async fn import(State(api): State<Api>, uri: Uri, body: Body) -> Result<Json<Kernel>, ApiError> {
    let Import { kind, name, default } = query(&uri)?;
    let stream = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let stream: Box<dyn Read + Send> = Box::new(SyncIoBridge::new(stream));
    let source = match kind {
        Source::Deb => ImportSource::Deb(stream),
        Source::Tar => ImportSource::Tar(stream),
    };
    let options = ImportOptions { name, default };
    let host = access::whole(&api)?.host().clone();
    let kernel = blocking(move || host.kernels.import(source, options)).await?;
    tell(&api, "import", &kernel.name);
    Ok(Json(kernel))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let in_use = api.fleet.uses_kernel(&name);
    let (host, removed) = (access::whole(&api)?.host().clone(), name.clone());
    blocking(move || host.kernels.remove(&removed, in_use)).await?;
    tell(&api, "remove", &name);
    Ok(StatusCode::NO_CONTENT)
}
