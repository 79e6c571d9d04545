//! HTTP with a registry that is not trusted: requests, redirects, and answers read no further than a bound (OCI
//! distribution specification, "Pull" and "Error Codes").
//!
//! Owned by one pull, shared by its transfers. Invariants: nothing but a blob's stream is longer in memory than the
//! bound its reader gave; an Authorization header goes to the host it is for and is lost with the first redirect to
//! another; nothing goes over plain HTTP unless the user asked for it.

use std::fmt;
use std::sync::Once;
use std::time::Duration;

use hull_protocol::api::PullRequest;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::PullError;
use crate::limits::Limits;

/// Redirects that are followed for one request.
const REDIRECTS: usize = 10;

/// Longest answer with an error or a token in it.
pub(super) const MAX_REPLY: u64 = 64 << 10;

/// Longest text of a registry that is shown.
const MAX_TEXT: usize = 400;

/// How a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There was no answer, or it broke off.
    #[error("no whole answer came")]
    Transport(#[source] reqwest::Error),
    /// The answer is an error.
    #[error("it answered {status}{text}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// The first error's code, where the body has one.
        code: Option<String>,
        /// What else it says: empty, or beginning with a colon.
        text: String,
    },
    /// The answer has no end in sight.
    #[error("its answer has more than {0} bytes")]
    TooLong(u64),
    /// It sends its client on and on.
    #[error("it redirects more than {REDIRECTS} times, or to nowhere")]
    Redirects,
    /// It leads to a place where others can listen.
    #[error("it leads to {0}, which is not HTTPS: use plain HTTP only if you trust the network")]
    Insecure(String),
    /// It asks for credentials, and how cannot be understood.
    #[error(
        "it asks for credentials in a way that is not supported: it must be Basic, or Bearer with a realm"
    )]
    Challenge,
    /// It asks for user and password, and there is an identity token.
    #[error("it takes no identity tokens: log in with a user and password")]
    IdentityToken,
    /// The token server failed.
    #[error("its token server {server} gave no token")]
    Token {
        /// Its host.
        server: String,
        /// How.
        #[source]
        source: Box<RequestError>,
    },
    /// The token server answered, with something else.
    #[error("the answer is not JSON with a token that can be sent in a header")]
    NoToken,
}

impl RequestError {
    /// Whether it took longer than the patience there is.
    pub(super) fn is_timeout(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_timeout(),
            Self::Token { source, .. } => source.is_timeout(),
            _ => false,
        }
    }

    /// Whether the credentials are not good enough.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Status { code: Some(code), .. } if code == "UNAUTHORIZED" || code == "DENIED" => true,
            Self::Status { status, .. } => {
                *status == StatusCode::UNAUTHORIZED || *status == StatusCode::FORBIDDEN
            }
            // OAuth 2 says no with 400 (RFC 6749, section 5.2).
            Self::Token { source, .. } => {
                source.is_refusal()
                    || matches!(&**source, Self::Status { status: StatusCode::BAD_REQUEST, .. })
            }
            _ => false,
        }
    }

    /// Whether there is no such repository or manifest.
    pub(super) fn is_absence(&self) -> bool {
        let Self::Status { status, code, .. } = self else { return false };
        match code.as_deref() {
            Some(code) => matches!(code, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND"),
            None => *status == StatusCode::NOT_FOUND,
        }
    }
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        // Without its URL: one that a registry redirects to may be as good as a password.
        Self::Transport(error.without_url())
    }
}

/// Who the client says it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    Anonymous,
    Basic { username: String, password: String },
    Bearer(String),
}

impl Authorization {
    /// Adds it to a request.
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Anonymous => request,
            Self::Basic { username, password } => request.basic_auth(username, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

/// The client of one pull.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    plain: bool,
}

impl Http {
    /// With the certificates and the patience of a pull.
    pub(super) fn new(request: &PullRequest, limits: &Limits) -> Result<Self, PullError> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            if rustls::crypto::ring::default_provider().install_default().is_err() {
                tracing::debug!("a TLS provider is installed already");
            }
        });
        let patience = patience(limits);
        let client = Client::builder()
            .tls_certs_merge(certificates(request.ca_pem.as_deref())?)
            .read_timeout(patience)
            .connect_timeout(patience.min(Duration::from_secs(20)))
            .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .build()
            .map_err(|error| PullError::Client(error.without_url()))?;
        Ok(Self { client, plain: request.plain_http })
    }

    /// The scheme that the registry itself is spoken to with.
    pub(super) fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// Begins a GET and follows redirects. Whatever the status, the answer's body is still to be read.
    pub(super) async fn get(
        &self,
        mut url: Url,
        authorization: &Authorization,
        headers: &HeaderMap,
    ) -> Result<Response, RequestError> {
        let mut authorization = authorization;
        for _ in 0..=REDIRECTS {
            let request = self.client.get(self.allow(url.clone())?).headers(headers.clone());
            let response = authorization.apply(request).send().await?;
            let Some(next) = redirect(&response)? else { return Ok(response) };
            if next.origin() != url.origin() {
                authorization = &Authorization::Anonymous;
            }
            url = next;
        }
        Err(RequestError::Redirects)
    }

    /// Posts a form. A redirect is not followed: what is in the form is for this host.
    pub(super) async fn post(&self, url: Url, form: &[(&str, &str)]) -> Result<Response, RequestError> {
        Ok(self.client.post(self.allow(url)?).form(form).send().await?)
    }

    /// Lets no URL through that others on the way could read or change, unless the user asked for it.
    fn allow(&self, url: Url) -> Result<Url, RequestError> {
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.plain => Ok(url),
            _ => Err(RequestError::Insecure(origin(&url))),
        }
    }
}

/// Longest silence.
pub(super) fn patience(limits: &Limits) -> Duration {
    Duration::from_secs(limits.stall_seconds.max(1))
}

/// A URL without its secrets.
pub(super) fn origin(url: &Url) -> String {
    shown(&url.origin().ascii_serialization())
}

/// Where an answer leads to, if it is a redirect.
fn redirect(response: &Response) -> Result<Option<Url>, RequestError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    response
        .headers()
        .get(LOCATION)
        .and_then(|location| response.url().join(location.to_str().ok()?).ok())
        .map(Some)
        .ok_or(RequestError::Redirects)
}

/// The whole body, if it is not longer than a bound.
pub(super) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>, RequestError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(RequestError::TooLong(limit));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() as u64).saturating_add(chunk.len() as u64) > limit {
            return Err(RequestError::TooLong(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What an answer with an error says. A body that is too long, or no list of errors, adds nothing to its status.
pub(super) async fn refusal(response: Response) -> RequestError {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    let status = response.status();
    let bytes = body(response, MAX_REPLY).await.unwrap_or_default();
    let first =
        serde_json::from_slice::<Envelope>(&bytes).ok().and_then(|told| told.errors.into_iter().next());
    let Some(Entry { code, message }) = first else {
        return RequestError::Status { status, code: None, text: String::new() };
    };
    let text = match message.filter(|message| !message.is_empty()) {
        Some(message) => format!(": {} ({})", shown(&message), shown(&code)),
        None => format!(": {}", shown(&code)),
    };
    RequestError::Status { status, code: Some(code), text }
}

/// A foreign text, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The certificates of a PEM file.
fn certificates(pem: Option<&str>) -> Result<Vec<Certificate>, PullError> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(PullError::Certificates),
    }
}
