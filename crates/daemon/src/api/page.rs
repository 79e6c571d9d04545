//! Lists in pages: `?limit=` and `?after=`, and a `Link` header to the next one, RFC 8288.
//!
//! Invariant: a walk over all pages sees everything that was there all the time, once, whatever comes and goes
//! meanwhile: a page begins after a place in an order, not after a number of items.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// What part of a list is wanted.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// How many at most; all when missing.
    pub(super) limit: Option<usize>,
    /// Those after this place; from the start when missing.
    pub(super) after: Option<String>,
}

/// A page of `items`, in the order of their keys.
pub(super) fn of<T: Serialize>(
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    wanted: Wanted,
    uri: &Uri,
) -> Response {
    let (items, next) = cut(items, key, wanted);
    let Some(next) = next else { return Json(items).into_response() };
    let kept = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty() && !part.starts_with("after="));
    let query: String = kept.map(|part| format!("{part}&")).collect();
    let link = format!("<{}?{query}after={}>; rel=\"next\"", uri.path(), escape(&next));
    ([(header::LINK, link)], Json(items)).into_response()
}

/// Whether labels are as wanted: `KEY` or `KEY=value`.
pub(super) fn labelled(labels: &BTreeMap<String, String>, wanted: Option<&str>) -> bool {
    match wanted.map(|label| label.split_once('=').unwrap_or((label, ""))) {
        None => true,
        Some((key, "")) => labels.contains_key(key),
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
    }
}

fn cut<T>(items: Vec<T>, key: impl Fn(&T) -> String, wanted: Wanted) -> (Vec<T>, Option<String>) {
    let mut keyed: Vec<(String, T)> = items.into_iter().map(|item| (key(&item), item)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(after) = wanted.after {
        keyed.retain(|(key, _)| *key > after);
    }
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let more = keyed.len() > limit;
    keyed.truncate(limit);
    let next = keyed.last().filter(|_| more).map(|(key, _)| key.clone());
    (keyed.into_iter().map(|(_, item)| item).collect(), next)
}

/// Escapes what has a meaning in a query or a header.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_everything_once() {
        let mut items: Vec<u32> = (10..33).rev().collect();
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let wanted = Wanted { limit: Some(5), after: after.take() };
            let (page, next) = cut(items.clone(), u32::to_string, wanted);
            seen.extend(page);
            pages += 1;
            // The last one seen goes meanwhile, and the walk still finds its way.
            items.retain(|item| Some(item) != seen.last());
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!((seen, pages), ((10..33).collect(), 5));
        assert_eq!(cut(vec![2, 1], u32::to_string, Wanted::default()), (vec![1, 2], None));
        assert_eq!(cut(vec![1], u32::to_string, Wanted { limit: Some(0), after: None }), (vec![], None));
    }

    #[test]
    fn the_link_keeps_the_rest_of_the_query() {
        let uri = Uri::from_static("/v1/images?limit=1&after=0");
        let response =
            of(vec!["a b", "c"], |item| (*item).into(), Wanted { limit: Some(1), after: None }, &uri);
        let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
        assert_eq!(link, Some("</v1/images?limit=1&after=a%20b>; rel=\"next\""));
    }
}
