#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeSet;

use super::*;
use crate::api::operations;

fn all(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

#[test]
fn every_route_is_described_once() {
    let (document, operations) = (of(&operations()), operations());
    let routes: BTreeSet<(String, String)> = operations
        .iter()
        .map(|one| (one.path.to_owned(), one.method.as_str().to_ascii_lowercase()))
        .collect();
    let described: BTreeSet<(String, String)> =
        all(&document).iter().map(|(path, method, _)| ((*path).to_owned(), (*method).to_owned())).collect();
    assert_eq!(routes.len(), operations.len(), "an operation is there twice");
    assert_eq!(routes, described);
    let ids: BTreeSet<&str> = operations.iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), operations.len(), "two operations have one id");
    for one in &operations {
        assert!(TAGS.iter().any(|(tag, _)| *tag == one.tag()), "{} has no tag that is explained", one.path);
        assert!(
            one.answers.iter().all(|answer| answer.status < 400) && !one.answers.is_empty(),
            "{}",
            one.id
        );
        for kind in one.problems {
            assert!(
                KNOWN.iter().any(|known| known.kind == *kind),
                "{}: there is no problem '{kind}'",
                one.id
            );
        }
    }
}

#[test]
fn whatever_is_referred_to_is_there() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Array(all) => all.iter().for_each(|value| references(value, found)),
            Value::Object(all) => {
                found.extend(all.get("$ref").and_then(Value::as_str));
                all.values().for_each(|value| references(value, found));
            }
            _ => {}
        }
    }
    let document = of(&operations());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn every_parameter_and_field_is_explained() {
    let document = of(&operations());
    for (path, method, operation) in all(&document) {
        for parameter in operation["parameters"].as_array().unwrap() {
            let explained = parameter.get("$ref").is_some()
                || parameter["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(explained, "{method} {path}: {parameter}");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, described) in schema["properties"].as_object().into_iter().flatten() {
            assert!(described.get("description").is_some(), "{name}.{field} is not explained");
        }
    }
}

#[test]
fn who_may_is_said() {
    let document = of(&operations());
    let security = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    assert_eq!(security("/v1/microvms", "get"), json!([{"token": ["read"]}, {}]));
    assert_eq!(security("/v1/microvms", "post"), json!([{"token": ["operate"]}, {}]));
    assert_eq!(security("/v1/tokens", "get"), json!([{"token": ["admin"]}, {}]));
    assert_eq!(security("/v1/tenants", "post"), json!([{"token": ["host-admin"]}, {}]));
    assert_eq!(security("/v1/openapi.json", "get"), json!([]));
}

#[test]
fn descriptions_are_for_readers_of_the_document() {
    assert_eq!(
        plain("See [`crate::spec::MicrovmSpec`], `a::b` and c::d."),
        "See `MicrovmSpec`, `b` and c::d."
    );
}
