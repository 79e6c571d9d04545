//! Failures as `application/problem+json`, RFC 9457. Which error is which problem: [`errors`].

mod errors;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hull_protocol::api::Problem;

use super::operation::PROBLEM;
use crate::microvm::chain;
use crate::trace;

/// A kind of problem, with what is the same for every occurrence of it. Kinds are never renamed or given another
/// meaning; `docs/problems.md` and `/problems/{kind}` explain them.
pub struct Known {
    /// The last part of its `type`.
    pub kind: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Its title.
    pub title: &'static str,
    /// What it means and what a client does about it.
    pub meaning: &'static str,
}

const fn known(kind: &'static str, status: u16, title: &'static str, meaning: &'static str) -> Known {
    Known { kind, status, title, meaning }
}

/// Every kind there is.
pub const KNOWN: [Known; 25] = [
    known(
        "invalid",
        400,
        "Invalid request",
        "The request cannot be understood or asks for what cannot be. Change it; the same will fail again.",
    ),
    known(
        "unauthorized",
        401,
        "Who are you?",
        "No token came with the request, or one that is nobody's or has expired. Send a good one.",
    ),
    known(
        "forbidden",
        403,
        "Not for you",
        "What you are, or your token's scope, does not allow this. The detail says what would.",
    ),
    known(
        "untrusted-image",
        403,
        "The image is not trusted",
        "The host's image policy wants another image, or this one signed by a key that it names. The detail says which.",
    ),
    known("not-found", 404, "Not found", "What the path names does not exist, or not for you."),
    known(
        "no-such-image",
        404,
        "No such image",
        "The image is not in the store. Pull or import it, then ask again.",
    ),
    known(
        "no-such-network",
        404,
        "No such network",
        "The network does not exist. Create it, then ask again.",
    ),
    known(
        "no-such-file",
        404,
        "No such file or directory",
        "There is nothing at that path of the container.",
    ),
    known(
        "method-not-allowed",
        405,
        "Method not allowed",
        "The path exists; this method does not work on it.",
    ),
    known(
        "conflict",
        409,
        "Not possible now",
        "The object is in a state in which this cannot be done, or something needs it. The detail says what to do first.",
    ),
    known(
        "name-taken",
        409,
        "The name is taken",
        "Another microVM has the name. Choose another, or remove that one.",
    ),
    known(
        "over-capacity",
        409,
        "The host has no room",
        "The host has promised its memory or processors to others. Stop something, ask for less, or ask another host.",
    ),
    known(
        "over-quota",
        409,
        "The tenant has as much as it may",
        "A quota of the tenant allows no more. Remove or stop something, ask for less, or have the quota raised.",
    ),
    known(
        "key-reused",
        409,
        "The idempotency key was used",
        "The key was used for another request, or what was made with it has been removed. Use a new key for each new request.",
    ),
    known(
        "secret-missing",
        409,
        "A secret has no value",
        "The microVM was made with a secret that was not given its value, or the host has restarted since. Give it, then start again.",
    ),
    known(
        "precondition-failed",
        412,
        "Somebody else has changed it",
        "The object is not at the revision in If-Match. Read it again, and decide anew.",
    ),
    known(
        "too-large",
        413,
        "The body is too large",
        "The request's body is longer than this takes: 2 MiB, where it is JSON; 512 KiB, where it is a secret.",
    ),
    known(
        "copy-failed",
        422,
        "The guest could not do it",
        "The container's system refused to read or write; the detail is its word.",
    ),
    known(
        "pull-failed",
        422,
        "The image could not be pulled",
        "The registry, the reference or the image is at fault; the detail says which.",
    ),
    known(
        "import-failed",
        422,
        "It could not be imported",
        "What was sent is no image or kernel that can be used; the detail says why.",
    ),
    known(
        "too-many-requests",
        429,
        "Too many requests",
        "The tenant asks more often than it may. Wait for as many seconds as Retry-After says.",
    ),
    known(
        "internal",
        500,
        "The host failed",
        "Something on the host did not work. The detail and the daemon's log say what; trying again may help.",
    ),
    known(
        "vmm-failed",
        502,
        "The VMM did not obey",
        "The process that runs this microVM did not do as asked. Try again; if it stays so, kill the microVM.",
    ),
    known(
        "no-networks",
        503,
        "This host cannot have it",
        "The host lacks what networks need, or the daemon may not use it. 'hull doctor' says what is missing.",
    ),
    known(
        "no-space",
        507,
        "The host's disk is full",
        "Nothing new is begun until there is room. What runs goes on.",
    ),
];

/// The most that a library says, in bytes.
const SAID_MAX: usize = 4096;

/// A failed request.
#[derive(Debug)]
pub struct ApiError(Problem);

impl ApiError {
    pub(super) fn new(status: u16, kind: &str, title: &str, detail: String) -> Self {
        let (kind, trace) = (format!("/problems/{kind}"), trace::current());
        Self(Problem { kind, title: title.into(), status, detail, trace })
    }

    /// One of [`KNOWN`].
    pub(crate) fn of(kind: &str, detail: String) -> Self {
        match KNOWN.iter().find(|known| known.kind == kind) {
            Some(known) => Self::new(known.status, known.kind, known.title, detail),
            None => Self::new(500, kind, "The host failed", detail),
        }
    }

    pub(super) fn invalid(detail: String) -> Self {
        Self::new(400, "invalid", "Invalid request", detail)
    }

    pub(super) fn not_found(detail: String) -> Self {
        Self::new(404, "not-found", "Not found", detail)
    }

    pub(super) fn conflict(detail: String) -> Self {
        Self::new(409, "conflict", "Not possible now", detail)
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!("a request failed: {}", chain(error));
        Self::new(500, "internal", "The host failed", chain(error))
    }

    /// The problem itself.
    pub fn into_problem(self) -> Problem {
        self.0
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response()
    }
}

/// What a library refused in its own words, as a problem.
pub(super) async fn told(response: Response) -> Response {
    let kind = match response.status() {
        StatusCode::BAD_REQUEST => "invalid",
        StatusCode::PAYLOAD_TOO_LARGE => "too-large",
        _ => return response,
    };
    if response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM) {
        return response;
    }
    let said = axum::body::to_bytes(response.into_body(), SAID_MAX).await.unwrap_or_default();
    ApiError::of(kind, String::from_utf8_lossy(&said).into_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_documented() {
        let page = include_str!("../../../../docs/problems.md");
        for one in KNOWN {
            let row = format!("| `{}` | {} | {} | {} |", one.kind, one.status, one.title, one.meaning);
            assert!(page.contains(&row), "docs/problems.md has no row {row}");
            assert_eq!(ApiError::of(one.kind, String::new()).0.status, one.status);
        }
    }
}
