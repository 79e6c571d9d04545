//! `/docs` and `/v1/openapi.json`: what the API is, for people and for programs.
//!
//! The same for everybody and no secret, so that a browser, which has no token, can read it too. The page asks nobody but
//! the daemon, and may run and load nothing else.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing;
use serde_json::{Map, Value};

use super::measure::name_route;
use super::operation::{Operation, get, json};
use super::problem::ApiError;
use super::{document, nowhere, operations as all_operations, wrong_method};

/// Where the document is.
const DOCUMENT: &str = "/v1/openapi.json";
/// What may be on the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
form-action 'none'; frame-ancestors 'none'";

/// The document, as it is committed, too.
static TEXT: LazyLock<String> = LazyLock::new(text);

/// What is asked of the description.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(DOCUMENT, openapi, "openapi", "Describe the API")
            .notes("As OpenAPI 3.1. `/docs` shows it to people.")
            .answers(json::<Map<String, Value>>(200, "This document.")),
    ]
}

/// Whether a path is for everybody, known or not.
pub fn is_open(path: &str) -> bool {
    matches!(path, DOCUMENT | "/docs" | "/docs/page.css" | "/docs/page.js")
}

/// The routes for everybody.
pub fn router() -> Router {
    let page = || {
        routing::get(|| {
            shown("text/html; charset=utf-8", include_str!("../../../../resources/docs/page.html"))
        })
    };
    let style = || {
        routing::get(|| shown("text/css; charset=utf-8", include_str!("../../../../resources/docs/page.css")))
    };
    let script = || {
        routing::get(|| {
            shown("text/javascript; charset=utf-8", include_str!("../../../../resources/docs/page.js"))
        })
    };
    Router::new()
        .route(DOCUMENT, routing::get(openapi))
        .route("/docs", page())
        .route("/docs/page.css", style())
        .route("/docs/page.js", script())
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(name_route))
}

async fn openapi() -> Result<impl IntoResponse, ApiError> {
    Ok(([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()))
}

async fn shown(media: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

fn text() -> String {
    let document = document::of(&all_operations());
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HULL_RENEW` in the environment writes it anew.
    #[test]
    fn the_committed_document_is_of_these_handlers() {
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../../resources/openapi.json");
        if std::env::var_os("HULL_RENEW").is_some() {
            std::fs::write(place, TEXT.as_str()).expect("the document can be written");
        }
        let committed = std::fs::read_to_string(place).unwrap_or_default();
        let differs = TEXT.lines().zip(committed.lines()).position(|(made, found)| made != found);
        assert!(
            *TEXT == committed,
            "resources/openapi.json is not what the handlers say (line {:?}): renew it with `cargo xtask openapi`",
            differs.map(|line| line + 1)
        );
    }
}
