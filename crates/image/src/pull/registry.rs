//! One repository of a registry: its manifests and blobs, asked for with what the registry wants to see (OCI
//! distribution specification, "Pull").
//!
//! Owned by one pull, shared by its transfers. Invariants: a manifest is within its limit and, asked for by digest,
//! has that digest; a request that is refused for an expired token is repeated once with a new one.

use std::time::Duration;

use hull_protocol::api::PullRequest;
use oci_spec::distribution::Reference;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;

use super::PullError;
use super::http::{self, Http, RequestError};
use super::token::Pass;
use crate::blob::BlobError;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::manifest::{ACCEPTED, ManifestError};

/// What refers to a manifest is listed in one.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A repository, asked with one set of credentials.
#[derive(Debug)]
pub(super) struct Registry {
    http: Http,
    pass: Pass,
    base: Url,
    reference: Reference,
    patience: Duration,
}

impl Registry {
    pub(super) fn new(
        request: &PullRequest,
        reference: Reference,
        limits: &Limits,
    ) -> Result<Self, PullError> {
        let http = Http::new(request, limits)?;
        let base = format!("{}://{}/v2/", http.scheme(), reference.resolve_registry());
        let base = Url::parse(&base).map_err(|_| PullError::Address(reference.whole()))?;
        let pass = Pass::new(request.credentials.clone(), reference.repository());
        Ok(Self { http, pass, base, reference, patience: http::patience(limits) })
    }

    /// A manifest or index of the repository, by tag or digest.
    pub(super) async fn manifest(&self, reference: &Reference, limit: u64) -> Result<Vec<u8>, PullError> {
        let what = format!("the manifest of {}", reference.whole());
        let name = reference.digest().or(reference.tag()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        for accepted in ACCEPTED {
            headers.append(ACCEPT, HeaderValue::from_static(accepted));
        }
        let bytes = self.document(&format!("manifests/{name}"), &headers, what, limit).await?;
        match reference.digest() {
            Some(digest) => verified(Digest::parse(digest).map_err(ManifestError::Digest)?, bytes),
            None => Ok(bytes),
        }
    }

    /// An index of the manifests that refer to one.
    pub(super) async fn referrers(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, PullError> {
        let what = format!("what refers to {digest}");
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(INDEX))]);
        self.document(&format!("referrers/{digest}"), &headers, what, limit).await
    }

    /// A blob that is held in memory.
    pub(super) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, PullError> {
        let what = format!("blob {digest}");
        let bytes = self.document(&format!("blobs/{digest}"), &HeaderMap::new(), what, limit).await?;
        verified(digest.clone(), bytes)
    }

    /// Something that is read as a whole.
    async fn document(
        &self,
        path: &str,
        headers: &HeaderMap,
        what: String,
        limit: u64,
    ) -> Result<Vec<u8>, PullError> {
        let asked = async {
            let response = self.get(path, headers).await?;
            match response.status() {
                StatusCode::OK => http::body(response, limit).await,
                _ => Err(http::refusal(response).await),
            }
        };
        match timeout(self.patience, asked).await {
            Err(_) => Err(PullError::TooSlow(what)),
            Ok(Err(RequestError::TooLong(limit))) => {
                Err(BlobError::TooLarge { what, limit, name: "max_manifest_bytes" }.into())
            }
            Ok(Err(error)) if error.is_absence() => Err(PullError::NotFound(self.reference.whole())),
            Ok(result) => result.map_err(|error| self.error(what, error)),
        }
    }

    /// The beginning of an answer with a blob: all of it, or with [`StatusCode::PARTIAL_CONTENT`] what is behind the
    /// bytes that are there.
    pub(super) async fn blob(&self, digest: &Digest, there: u64) -> Result<Response, PullError> {
        let what = format!("blob {digest}");
        let mut headers = HeaderMap::new();
        if there > 0 {
            let range = HeaderValue::try_from(format!("bytes={there}-"));
            headers.extend(range.map(|range| (RANGE, range)));
        }
        let asked = async {
            let response = self.get(&format!("blobs/{digest}"), &headers).await?;
            match response.status() {
                StatusCode::OK => Ok(response),
                StatusCode::PARTIAL_CONTENT if there > 0 => Ok(response),
                _ => Err(http::refusal(response).await),
            }
        };
        match timeout(self.patience, asked).await {
            Err(_) => Err(PullError::TooSlow(what)),
            Ok(result) => result.map_err(|error| self.error(what, error)),
        }
    }

    /// Asks, and once again if the registry wants something else to be shown to it.
    async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Response, RequestError> {
        let url = format!("{}/{path}", self.reference.repository());
        let url = self.base.join(&url).map_err(|_| RequestError::Redirects)?;
        let shown = self.pass.show(&self.http, &self.base).await?;
        let response = self.http.get(url.clone(), &shown, headers).await?;
        match self.pass.renew(&self.http, &self.base, &response, &shown).await? {
            Some(renewed) => self.http.get(url, &renewed, headers).await,
            None => Ok(response),
        }
    }

    /// What a failure of the registry means to the user.
    pub(super) fn error(&self, what: String, error: RequestError) -> PullError {
        match error {
            error if error.is_timeout() => PullError::TooSlow(what),
            RequestError::IdentityToken => PullError::IdentityToken,
            error if error.is_refusal() => PullError::Unauthorized(self.reference.whole()),
            source => PullError::Registry { what, source },
        }
    }
}

/// The bytes, if they have this digest.
fn verified(expected: Digest, bytes: Vec<u8>) -> Result<Vec<u8>, PullError> {
    let found = Digest::of(&bytes);
    if found == expected { Ok(bytes) } else { Err(BlobError::Digest { expected, found }.into()) }
}
