//! The OpenAPI document, version 3.1, from the operations and the types they speak.

#[path = "document_words.rs"]
mod words;

use std::collections::BTreeMap;

use hull_protocol::api::{Problem, Resource};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use self::words::{ABOUT, PLACES, TAGS, answer_headers, request_headers};
use super::access;
use super::docs::is_open;
use super::operation::{Answer, Content, NDJSON, Operation, PROBLEM};
use super::problem::{KNOWN, Known};

/// The kinds of problems that every request can end in.
const ALWAYS: [&str; 6] =
    ["invalid", "unauthorized", "forbidden", "not-found", "too-many-requests", "internal"];
/// The header of every answer.
const TRACE: &str = "Hull-Trace-Id";
/// The kind for a body over the limit.
const TOO_LARGE: &str = "too-large";

/// The document of these operations.
pub(super) fn of(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut document = Document { generator: settings.into_generator(), failures: BTreeMap::new() };
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let method = operation.method.as_str().to_ascii_lowercase();
        let described = document.operation(operation);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(method, described);
        }
    }
    document.generator.subschema_for::<Problem>();
    // It is the keys of maps, of which the generator says nothing.
    document.generator.subschema_for::<Resource>();
    let mut whole = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hull",
            "summary": "MicroVMs for container images",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The daemon that serves this document."}],
        "tags": TAGS.map(|(name, about)| json!({"name": name, "description": about})),
        "paths": paths,
        "components": document.components(),
    });
    polish(&mut whole);
    whole
}

struct Document {
    generator: SchemaGenerator,
    /// Answers that are problems, by the name they have in the document.
    failures: BTreeMap<String, Value>,
}

impl Document {
    fn operation(&mut self, operation: &Operation) -> Value {
        let open = is_open(operation.path);
        let mut described = json!({
            "operationId": operation.id,
            "tags": [operation.tag()],
            "summary": operation.summary,
            "parameters": self.parameters(operation, open),
            "responses": self.responses(operation, open),
        });
        let Value::Object(fields) = &mut described else { return described };
        if !operation.notes.is_empty() {
            fields.insert("description".into(), operation.notes.into());
        }
        if let Some(body) = &operation.body {
            let content = self.content(body);
            fields.insert("requestBody".into(), json!({"required": !body.optional, "content": content}));
        }
        let security = match access::scope(&operation.method, operation.path) {
            _ if open => json!([]),
            Some(scope) => json!([{"token": [scope]}, {}]),
            None => json!([{"token": ["host-admin"]}, {}]),
        };
        fields.insert("security".into(), security);
        described
    }

    fn parameters(&mut self, operation: &Operation, open: bool) -> Vec<Value> {
        let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut all: Vec<Value> = in_path
            .map(|name| {
                let place = PLACES.iter().find(|(place, _)| *place == name || *place == operation.tag());
                let place = place.map_or("", |(_, about)| about);
                let schema = json!({"type": "string", "minLength": 1});
                json!({"name": name, "in": "path", "required": true, "description": place, "schema": schema})
            })
            .collect();
        if let Some(query) = operation.query {
            all.extend(in_query(query(&mut self.generator).as_value()));
        }
        let headers = operation.headers.iter().chain((!open).then_some(&"Hull-Tenant"));
        all.extend(headers.map(|name| json!({"$ref": format!("#/components/parameters/{name}")})));
        all
    }

    fn responses(&mut self, operation: &Operation, open: bool) -> Map<String, Value> {
        let mut responses = Map::new();
        for answer in &operation.answers {
            let described = self.answer(answer);
            match responses.get_mut(&answer.status.to_string()) {
                // The same status, in another form.
                Some(Value::Object(other)) => join(other, described),
                _ => drop(responses.insert(answer.status.to_string(), described)),
            }
        }
        let always = ALWAYS.iter().filter(|_| !open);
        let mut kinds: Vec<&str> = always.chain(operation.problems).copied().collect();
        kinds.extend(operation.is_bounded().then_some(TOO_LARGE));
        let mut by_status: BTreeMap<u16, Vec<&Known>> = BTreeMap::new();
        for known in KNOWN.iter().filter(|known| kinds.contains(&known.kind)) {
            by_status.entry(known.status).or_default().push(known);
        }
        for (status, kinds) in by_status {
            let name = kinds.iter().map(|known| known.kind).collect::<Vec<_>>().join(".");
            responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
            self.failures.entry(name).or_insert_with(|| failure(status, &kinds));
        }
        responses
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let mut described = Map::new();
        described.insert("description".into(), answer.says.into());
        described.insert("headers".into(), headers(answer.headers));
        if let Some(content) = &answer.content {
            described.insert("content".into(), self.content(content));
        }
        described.into()
    }

    fn content(&mut self, content: &Content) -> Value {
        let schema = content.schema.map(|schema| schema(&mut self.generator).to_value());
        let described = match schema {
            // What schema one event has, there is no word for.
            None if content.media == "text/event-stream" => json!({}),
            None if content.media.contains("text") => json!({"schema": {"type": "string"}}),
            // What generators of clients know bytes by.
            None => json!({"schema": {"type": "string", "format": "binary"}}),
            // Version 3.1 has no word for the schema of one line; version 3.2 calls it so.
            Some(schema) if content.media == NDJSON => {
                json!({"schema": {"type": "string"}, "x-itemSchema": schema})
            }
            Some(schema) => json!({"schema": schema}),
        };
        json!({content.media: described})
    }

    fn components(&mut self) -> Value {
        let parameters = request_headers().map(|(name, about, required, schema)| {
            let described = json!({
                "name": name, "in": "header", "required": required, "description": about, "schema": schema,
            });
            (name.to_owned(), described)
        });
        let headers = answer_headers()
            .map(|(name, about, schema)| (name.to_owned(), json!({"description": about, "schema": schema})));
        let token = "A token that `hull token create` made, as `Authorization: Bearer TOKEN`; what it must be good for is \
            with each operation. Over the unix socket none is needed: the kernel says who asks.";
        let mut schemas = self.generator.take_definitions(false);
        if let Some(kind) =
            schemas.get_mut("Problem").and_then(|problem| problem.pointer_mut("/properties/type"))
        {
            *kind = json!({
                "description": "What kind of problem it is; never renamed.",
                "type": "string",
                "enum": KNOWN.iter().map(|known| format!("/problems/{}", known.kind)).collect::<Vec<_>>(),
            });
        }
        json!({
            "schemas": schemas,
            "parameters": Map::from_iter(parameters),
            "headers": Map::from_iter(headers),
            "responses": std::mem::take(&mut self.failures),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": token}},
        })
    }
}

/// The parameters that the properties of an object are.
fn in_query(schema: &Value) -> Vec<Value> {
    let required = |name: &str| {
        schema["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name))
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            json!({
                "name": name,
                "in": "query",
                "required": required(name),
                "description": about.unwrap_or_default(),
                "schema": without_null(schema),
            })
        })
        .collect()
}

/// What is missing in a query is not there; nothing is null.
fn without_null(mut schema: Value) -> Value {
    let is_null = |kind: &Value| kind == "null" || kind["type"] == "null";
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| !is_null(kind));
        if let [kind] = kinds.as_slice() {
            schema["type"] = kind.clone();
        }
    }
    if let Some(kinds) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        kinds.retain(|kind| !is_null(kind));
        if let [kind] = kinds.as_slice() {
            return kind.clone();
        }
    }
    schema
}

/// Adds what another answer of the same status has.
fn join(answer: &mut Map<String, Value>, other: Value) {
    let also = other["description"].as_str().unwrap_or_default();
    if let Some(Value::String(description)) = answer.get_mut("description") {
        *description = format!("{description} {also}");
    }
    if let (Some(Value::Object(content)), Value::Object(more)) =
        (answer.get_mut("content"), &other["content"])
    {
        content.extend(more.clone());
    }
}

/// These headers, besides that of every answer.
fn headers(names: &[&str]) -> Value {
    let named = names
        .iter()
        .chain(&[TRACE])
        .map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")})));
    Value::Object(named.collect())
}

/// An answer that is one of these problems.
fn failure(status: u16, kinds: &[&Known]) -> Value {
    let about: Vec<String> =
        kinds.iter().map(|known| format!("`{}`: {}", known.kind, known.meaning)).collect();
    let types: Vec<String> = kinds.iter().map(|known| format!("/problems/{}", known.kind)).collect();
    let schema = json!({
        "$ref": "#/components/schemas/Problem",
        "properties": {"type": {"enum": types}, "status": {"const": status}},
    });
    let mut answer = json!({"description": about.join("\n\n"), "content": {PROBLEM: {"schema": schema}}});
    let more: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        429 => &["Retry-After"],
        _ => &[],
    };
    answer["headers"] = headers(more);
    answer
}

/// Says what a generator leaves unsaid, in all that there is: how large numbers are, what an address of either family is,
/// and text as it is meant to be read.
fn polish(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(polish),
        Value::Object(all) => {
            name_values(all);
            if all.get("format").is_some_and(|format| format == "ip") {
                all.remove("format");
                all.insert("anyOf".into(), json!([{"format": "ipv4"}, {"format": "ipv6"}]));
            }
            let bounds = all.get("format").and_then(Value::as_str).and_then(bounds);
            for (name, bound) in ["minimum", "maximum"].into_iter().zip(bounds.into_iter().flatten()) {
                all.entry(name).or_insert(bound);
            }
            if let Some(Value::String(text)) = all.get_mut("description") {
                *text = plain(text);
            }
            all.values_mut().for_each(polish);
        }
        _ => {}
    }
}

/// Makes a choice of texts an enumeration, which generators of clients know; what each means goes to the description.
fn name_values(schema: &mut Map<String, Value>) {
    let named = |one: &Value| match (one.get("const"), one.get("enum")) {
        (Some(value @ Value::String(_)), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    };
    let Some(Value::Array(choices)) = schema.get("oneOf") else { return };
    let Some(values) = choices.iter().map(named).collect::<Option<Vec<_>>>() else { return };
    let mut text = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    for one in choices {
        if let (Some(value), Some(about)) = (one["const"].as_str(), one["description"].as_str()) {
            text.push_str(&format!("\n- `{value}`: {about}"));
        }
    }
    schema.remove("oneOf");
    schema.insert("type".into(), "string".into());
    schema.insert("enum".into(), values.concat().into());
    schema.insert("description".into(), text.into());
}

fn bounds(format: &str) -> Option<[Value; 2]> {
    match format {
        "uint16" => Some([0.into(), u16::MAX.into()]),
        "uint32" => Some([0.into(), u32::MAX.into()]),
        "uint" | "uint64" => Some([0.into(), u64::MAX.into()]),
        "int32" => Some([i32::MIN.into(), i32::MAX.into()]),
        "int64" => Some([i64::MIN.into(), i64::MAX.into()]),
        _ => None,
    }
}

/// A description without what only the documentation of the code understands: links, and where a type is.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    let parts = text.split('`').enumerate().map(|(at, part)| match part.rsplit_once("::") {
        Some((_, last)) if at % 2 == 1 => last,
        _ => part,
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
