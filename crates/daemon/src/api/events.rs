//! `/v1/events`: what happens, as server-sent events (the HTML standard, section 9.2).
//!
//! Invariants: a client that does not read holds one event, not the ring; one that comes back with the number of the
//! last event it has seen misses none that is still kept, and is told with an event `lost` where some are not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hull_protocol::life::{Event, Subject};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::operation::{Operation, bytes, get};
use super::problem::ApiError;
use super::{Api, query, streamed};
use crate::clock;
use crate::events::{Found, Reader};
use crate::trace;

/// What is asked of events.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/events", events, "followEvents", "Follow what happens")
            .notes("Server-sent events (the HTML standard, section 9.2). Each has an `id`, its subject and action as `event`, \
                and an `Event` as `data`. Who comes back with the number of the last one seen misses none that is still \
                kept; where some are not, an event `lost` says so.")
            .query::<Query>()
            .headers(&["Last-Event-ID"])
            .answers(bytes("text/event-stream", "Events, until `until` or the client leaves.")),
    ]
}

/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Those after this number.
    after: Option<u64>,
    /// Those since this time, as far as they are kept.
    #[schemars(regex(pattern = TIME))]
    since: Option<String>,
    /// Those before this time; the stream ends then.
    #[schemars(regex(pattern = TIME))]
    until: Option<String>,
    /// Whether to wait for more; else the stream ends with those that are there.
    #[serde(default = "yes")]
    follow: bool,
    #[serde(flatten)]
    filter: Filter,
}

fn yes() -> bool {
    true
}

/// Which events are wanted; what is missing is any.
#[derive(Default, Deserialize, JsonSchema)]
struct Filter {
    /// What they are about.
    subject: Option<Subject>,
    /// What happened, such as `start`; several with commas between them.
    action: Option<String>,
    /// Which object: an id, the beginning of one, or a name; several with commas between them.
    of: Option<String>,
}

impl Filter {
    fn wants(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, found: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(|wanted| wanted.split(',').any(found))
        };
        self.subject.is_none_or(|subject| subject == event.subject)
            && is(&self.action, &|action| action == event.action)
            && is(&self.of, &|of| !of.is_empty() && (event.name == of || event.of.starts_with(of)))
    }
}

/// The number of the last event that a client which comes back has seen.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| ApiError::invalid("Last-Event-ID: give the number of an event as it was sent".into()))
}

pub(super) async fn events(
    State(api): State<Api>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Query { after, since, until, follow, filter } = query(&uri)?;
    let time = |text: Option<String>| text.map(|text| moment(&text)).transpose();
    let (since, until) = (time(since)?, time(until)?);
    let last_seen = last_seen(&headers)?;
    let bus = api.fleet.events();
    let reader = match (last_seen.or(after), since) {
        (None, Some(_)) => bus.reader_of_all(),
        (None, None) if !follow => bus.reader_of_all(),
        (after, _) => bus.reader(after),
    };
    let (sender, receiver) = mpsc::channel(1);
    let stream = Stream { reader, filter, since: since.unwrap_or(0), until, follow };
    trace::spawn(async move {
        let _reader_has_left = stream.run(&sender).await;
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, streamed(receiver)).into_response())
}

/// How a time is written in a query.
pub(super) const TIME: &str = r"^([0-9]{1,10}([.][0-9]{1,9})?|(197[1-9]|19[89][0-9]|2[0-4][0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?([Zz]|[+-][01][0-9]:[0-5][0-9]))$";

/// A time in a query, in nanoseconds since the Unix epoch.
pub(super) fn moment(text: &str) -> Result<u64, ApiError> {
    clock::parse(text).ok_or_else(|| {
        ApiError::invalid(format!(
            "'{text}' is no time: write it as 2026-01-31T12:00:00Z, or as seconds since 1970"
        ))
    })
}

struct Stream {
    reader: Reader,
    filter: Filter,
    /// In nanoseconds since the Unix epoch.
    since: u64,
    until: Option<u64>,
    follow: bool,
}

impl Stream {
    /// Sends until nobody reads, or no more are wanted.
    async fn run(mut self, sender: &mpsc::Sender<Bytes>) -> Option<()> {
        loop {
            let found = match self.reader.take() {
                Some(found) => found,
                None if !self.follow => return Some(()),
                None => tokio::select! {
                    found = self.reader.next() => found,
                    () = sender.closed() => return None,
                    () = over(self.until) => return Some(()),
                    () = tokio::time::sleep(ALIVE) => {
                        sender.send(Bytes::from_static(b":\n\n")).await.ok()?;
                        continue;
                    }
                },
            };
            match found {
                Found::Lost => sender.send(Bytes::from_static(b"event: lost\ndata: {}\n\n")).await.ok()?,
                Found::Event(event) => {
                    // Numbers are microseconds.
                    let at = event.id.saturating_mul(1000);
                    if self.until.is_some_and(|until| at >= until) {
                        return Some(());
                    }
                    if at >= self.since && self.filter.wants(&event) {
                        sender.send(line(&event)).await.ok()?;
                    }
                }
            }
        }
    }
}

async fn over(until: Option<u64>) {
    let Some(until) = until else { return std::future::pending().await };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    tokio::time::sleep(Duration::from_nanos(until).saturating_sub(now)).await;
}

/// One event; JSON is one line.
fn line(event: &Arc<Event>) -> Bytes {
    let data = serde_json::to_string(&**event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.action).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_leave_out_what_is_not_wanted() {
        let event = Event {
            id: 1,
            time: String::new(),
            subject: Subject::Microvm,
            action: "start".into(),
            of: "0123abcd".into(),
            name: "web".into(),
            attributes: Default::default(),
        };
        let wants = |query: &str| {
            let uri: Uri = format!("/v1/events?{query}").parse().unwrap_or_default();
            super::query::<Query>(&uri).is_ok_and(|query| query.filter.wants(&event))
        };
        for yes in ["", "subject=microvm", "action=die,start", "of=web", "of=0123", "of=x,web&action=start"] {
            assert!(wants(yes), "{yes}");
        }
        for no in ["subject=image", "action=die", "of=we", "of=,", "bogus=1", "subject=bogus", "after=x"] {
            assert!(!wants(no), "{no}");
        }
    }
}
