//! What can be asked of the API: each operation once, with its route, its handler, and all that the document says of it.
//!
//! Every module names its own beside the handlers. The router and the OpenAPI document are both made from these, so that
//! there is no route without a description and no description without a route.

use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};
use hull_protocol::stream::UPGRADE;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::Api;

/// Describes a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The media type of a problem, RFC 9457.
pub(super) const PROBLEM: &str = "application/problem+json";
/// The media type of a JSON value on each line.
pub(super) const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// One thing that can be asked.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Unique; what generated clients call it.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) notes: &'static str,
    /// An object whose properties are the query's parameters.
    pub(super) query: Option<SchemaOf>,
    /// Request headers, by name; the document knows them.
    pub(super) headers: &'static [&'static str],
    pub(super) body: Option<Content>,
    pub(super) answers: Vec<Answer>,
    /// The kinds of problems it can end in, beside those that every request can.
    pub(super) problems: &'static [&'static str],
    route: MethodRouter<Api>,
}

/// What a body is.
pub(super) struct Content {
    pub(super) media: &'static str,
    pub(super) schema: Option<SchemaOf>,
    /// Whether there may be none.
    pub(super) optional: bool,
}

/// One way in which an operation succeeds.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) says: &'static str,
    pub(super) content: Option<Content>,
    /// Response headers, by name; the document knows them.
    pub(super) headers: &'static [&'static str],
}

/// A GET of a path, by this handler.
pub(super) fn get<H, T>(path: &'static str, handler: H, id: &'static str, summary: &'static str) -> Operation
where
    H: Handler<T, Api>,
    T: 'static,
{
    Operation::new(Method::GET, path, routing::get(handler), id, summary)
}

/// A POST of a path, by this handler.
pub(super) fn post<H, T>(path: &'static str, handler: H, id: &'static str, summary: &'static str) -> Operation
where
    H: Handler<T, Api>,
    T: 'static,
{
    Operation::new(Method::POST, path, routing::post(handler), id, summary)
}

/// A PUT of a path, by this handler.
pub(super) fn put<H, T>(path: &'static str, handler: H, id: &'static str, summary: &'static str) -> Operation
where
    H: Handler<T, Api>,
    T: 'static,
{
    Operation::new(Method::PUT, path, routing::put(handler), id, summary)
}

/// A PATCH of a path, by this handler.
pub(super) fn patch<H, T>(
    path: &'static str,
    handler: H,
    id: &'static str,
    summary: &'static str,
) -> Operation
where
    H: Handler<T, Api>,
    T: 'static,
{
    Operation::new(Method::PATCH, path, routing::patch(handler), id, summary)
}

/// A DELETE of a path, by this handler.
pub(super) fn delete<H, T>(
    path: &'static str,
    handler: H,
    id: &'static str,
    summary: &'static str,
) -> Operation
where
    H: Handler<T, Api>,
    T: 'static,
{
    Operation::new(Method::DELETE, path, routing::delete(handler), id, summary)
}

impl Operation {
    fn new(
        method: Method,
        path: &'static str,
        route: MethodRouter<Api>,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        let (notes, headers, problems): (_, &[_], &[_]) = ("", &[], &[]);
        Self {
            method,
            path,
            id,
            summary,
            notes,
            query: None,
            headers,
            body: None,
            answers: Vec::new(),
            problems,
            route,
        }
    }

    /// More about it.
    pub(super) fn notes(mut self, notes: &'static str) -> Self {
        self.notes = notes;
        self
    }

    /// Its query is one of these.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// It heeds these headers.
    pub(super) fn headers(mut self, names: &'static [&'static str]) -> Self {
        self.headers = names;
        self
    }

    /// It takes a JSON body.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Content::json::<T>());
        self
    }

    /// Its body may be left out.
    pub(super) fn or_none(mut self) -> Self {
        self.body = self.body.map(|body| Content { optional: true, ..body });
        self
    }

    /// It takes a body of any length.
    pub(super) fn stream_in(mut self, media: &'static str) -> Self {
        self.body = Some(Content { media, schema: None, optional: false });
        self.route = self.route.layer(DefaultBodyLimit::disable());
        self
    }

    /// It takes a body of so many bytes at most.
    pub(super) fn bytes_in(mut self, media: &'static str, most: usize) -> Self {
        self.body = Some(Content { media, schema: None, optional: false });
        self.route = self.route.layer(DefaultBodyLimit::max(most));
        self
    }

    /// Whether its body has the largest length of all that are JSON.
    pub(super) fn is_bounded(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.media == JSON)
    }

    /// It can succeed so.
    pub(super) fn answers(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    /// It can fail so.
    pub(super) fn fails(mut self, problems: &'static [&'static str]) -> Self {
        self.problems = problems;
        self
    }

    /// Its path, and its handler for it.
    pub(super) fn into_route(self) -> (&'static str, MethodRouter<Api>) {
        (self.path, self.route)
    }

    /// The kind of object it is about: the part after `/v1/`.
    pub(super) fn tag(&self) -> &'static str {
        match self.path.split('/').nth(2) {
            Some(tag) if self.path.starts_with("/v1/") && tag != "stats" => tag,
            _ if self.path == "/v1/stats" => "microvms",
            _ => "system",
        }
    }
}

impl Content {
    fn json<T: JsonSchema>() -> Self {
        Self { media: JSON, schema: Some(|generator| generator.subschema_for::<T>()), optional: false }
    }
}

/// A JSON value.
pub(super) fn json<T: JsonSchema>(status: u16, says: &'static str) -> Answer {
    Answer { status, says, content: Some(Content::json::<T>()), headers: &[] }
}

/// JSON values, one on each line.
pub(super) fn lines<T: JsonSchema>(says: &'static str) -> Answer {
    let content = Content { media: NDJSON, ..Content::json::<T>() };
    Answer { status: 200, says, content: Some(content), headers: &[] }
}

/// Bytes of this media type.
pub(super) fn bytes(media: &'static str, says: &'static str) -> Answer {
    let content = Content { media, schema: None, optional: false };
    Answer { status: 200, says, content: Some(content), headers: &[] }
}

/// Success without a word.
pub(super) fn done(says: &'static str) -> Answer {
    Answer { status: 204, says, content: None, headers: &[] }
}

/// The connection becomes a stream.
pub(super) fn switched(says: &'static str) -> Answer {
    Answer { status: 101, says, content: None, headers: &["Connection", "Upgrade"] }
}

impl Answer {
    /// With these headers.
    pub(super) fn with(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }
}

/// The protocol of streams, as a constant of the document.
pub(super) const STREAM: &str = UPGRADE;
