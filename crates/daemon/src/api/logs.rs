//! What a microVM's process has printed, from its log.
//!
//! Invariants: a reader of the log never stops the process; what is held for one is at most the lines it wants from the
//! end, of a log that is bounded.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hull_protocol::stream::{self, Kind, PAYLOAD_MAX};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::events::{TIME, moment};
use super::operation::{Operation, bytes, get};
use super::problem::ApiError;
use super::{Api, query, streamed};
use crate::clock::rfc3339_nanos;
use crate::microvm::Microvm;
use crate::microvm::log::Record;
use crate::trace;

/// The media type of frames, [`hull_protocol::stream`].
const FRAMES: &str = "application/vnd.hull.stream";

/// What is asked of logs.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/microvms/{id}/logs", logs, "readLogs", "Read what its process has printed")
            .notes("Frames of a header of 8 bytes (the stream, 1 for standard output and 2 for standard error; three zeros; \
                the length as a big-endian 32-bit number) and so many bytes, as of Docker's multiplexed streams.")
            .query::<Query>()
            .answers(bytes(FRAMES, "Frames."))
            .fails(&["conflict"]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Wait for more until it ends.
    #[serde(default)]
    follow: bool,
    /// The last so many lines; all that are kept when missing.
    tail: Option<usize>,
    /// What was printed since this time, RFC 3339 or seconds since 1970.
    #[schemars(regex(pattern = TIME))]
    since: Option<String>,
    /// What was printed before this time.
    #[schemars(regex(pattern = TIME))]
    until: Option<String>,
    /// The time before each line.
    #[serde(default)]
    timestamps: bool,
}

/// What the container printed, as frames.
pub(super) async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Query { follow, tail, since, until, timestamps } = query(&uri)?;
    let time = |text: Option<String>| text.map(|text| moment(&text)).transpose();
    let (since, until) = (time(since)?.unwrap_or(0), time(until)?);
    let microvm = api.fleet.find(&id)?;
    let (frames, receiver) = mpsc::channel(4);
    let stamps = timestamps.then(Stamps::default);
    trace::spawn(async move {
        let mut sender = Sender { frames, stamps };
        let _reader_has_left = sender.send_all(&microvm, Wanted { follow, tail, since, until }).await;
    });
    let headers = [(header::CONTENT_TYPE, FRAMES)];
    Ok((headers, streamed(receiver)).into_response())
}

/// Times are nanoseconds since the Unix epoch.
struct Wanted {
    follow: bool,
    tail: Option<usize>,
    since: u64,
    until: Option<u64>,
}

struct Sender {
    frames: mpsc::Sender<Bytes>,
    stamps: Option<Stamps>,
}

impl Sender {
    async fn send_all(&mut self, microvm: &Microvm, wanted: Wanted) -> Option<()> {
        let log = &microvm.output().log;
        let mut changes = log.changes();
        let mut reader = log.reader();
        let until = wanted.until.unwrap_or(u64::MAX);
        let within = |record: &Record| (wanted.since..until).contains(&record.time);
        if let Some(lines) = wanted.tail {
            for record in last_lines(std::iter::from_fn(|| reader.next_record()).filter(within), lines) {
                self.send(&record).await?;
            }
        }
        loop {
            // Looked at before the log: what is written before the end is not missed.
            let over = microvm.record().state.is_at_rest();
            while let Some(record) = reader.next_record() {
                if record.time >= until {
                    return Some(());
                }
                if within(&record) {
                    self.send(&record).await?;
                }
            }
            if !wanted.follow || over {
                return Some(());
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                _ended = microvm.wait() => {}
                () = self.frames.closed() => return None,
                () = tokio::time::sleep(Duration::from_nanos(until).saturating_sub(now)) => return Some(()),
            }
        }
    }

    async fn send(&mut self, record: &Record) -> Option<()> {
        let stamped = self.stamps.as_mut().map(|stamps| stamps.stamp(record));
        for piece in stamped.as_deref().unwrap_or(&record.payload).chunks(PAYLOAD_MAX) {
            let mut frame = stream::header(record.kind, piece.len()).ok()?.to_vec();
            frame.extend(piece);
            self.frames.send(frame.into()).await.ok()?;
        }
        Some(())
    }
}

/// Puts the time before each line; a line may come in several records.
#[derive(Default)]
struct Stamps {
    /// Whether a line of standard output, of standard error, is unfinished.
    within_line: [bool; 2],
}

impl Stamps {
    fn stamp(&mut self, record: &Record) -> Vec<u8> {
        let [stdout, stderr] = &mut self.within_line;
        let within = if record.kind == Kind::Stderr { stderr } else { stdout };
        let stamp = rfc3339_nanos(record.time);
        let mut stamped = Vec::with_capacity(record.payload.len().saturating_add(stamp.len()));
        for line in record.payload.split_inclusive(|byte| *byte == b'\n') {
            if !*within {
                stamped.extend(stamp.as_bytes());
                stamped.push(b' ');
            }
            stamped.extend(line);
            *within = line.last() != Some(&b'\n');
        }
        stamped
    }
}

/// The last `lines` lines; holds those and one record more.
fn last_lines(records: impl Iterator<Item = Record>, lines: usize) -> VecDeque<Record> {
    let count = |payload: &[u8]| payload.iter().filter(|byte| **byte == b'\n').count();
    let mut kept: VecDeque<Record> = VecDeque::new();
    let mut newlines = 0_usize;
    for record in records.filter(|record| !record.payload.is_empty()) {
        newlines = newlines.saturating_add(count(&record.payload));
        kept.push_back(record);
        // The first goes when the lines are all there without it, and the newline before them is another's.
        while let Some(first) = kept.front() {
            let without = newlines.saturating_sub(count(&first.payload));
            if without <= lines {
                break;
            }
            newlines = without;
            kept.pop_front();
        }
    }
    // The end of the last line is not the start of one more.
    let ended = kept.back().is_some_and(|last| last.payload.last() == Some(&b'\n'));
    let mut surplus = newlines.saturating_add(usize::from(!ended && !kept.is_empty())).saturating_sub(lines);
    while surplus > 0 {
        let Some(first) = kept.front_mut() else { break };
        match first.payload.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                first.payload.drain(..=end);
                surplus -= 1;
            }
            None => drop(kept.pop_front()),
        }
    }
    kept.retain(|record| !record.payload.is_empty());
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn record(kind: Kind, text: &str) -> Record {
        Record { time: 1_500_000_001, kind, payload: text.into() }
    }

    fn tail(records: &[&str], lines: usize) -> String {
        let records: Vec<Record> = records.iter().map(|text| record(Kind::Stdout, text)).collect();
        let kept = last_lines(records.into_iter(), lines);
        String::from_utf8(kept.into_iter().flat_map(|record| record.payload).collect()).unwrap()
    }

    #[test]
    fn the_last_lines_are_counted_across_records() {
        let records = ["one\ntwo\nth", "ree\n", "four\n"];
        assert_eq!(tail(&records, 1), "four\n");
        assert_eq!(tail(&records, 2), "three\nfour\n");
        assert_eq!(tail(&records, 0), "");
        assert_eq!(tail(&records, 9), "one\ntwo\nthree\nfour\n");
        assert_eq!(tail(&["one\n", "two"], 1), "two");
        assert_eq!(tail(&["one\n", "two"], 0), "");
        assert_eq!(tail(&["", "\n\n", "x\n"], 2), "\nx\n");
    }

    #[test]
    fn each_line_has_its_time() {
        let mut stamps = Stamps::default();
        let mut stamp = |kind, text| String::from_utf8(stamps.stamp(&record(kind, text))).unwrap();
        let time = "1970-01-01T00:00:01.500000001Z ";
        assert_eq!(stamp(Kind::Stdout, "a\nb"), format!("{time}a\n{time}b"));
        assert_eq!(stamp(Kind::Stderr, "x\n"), format!("{time}x\n"));
        assert_eq!(stamp(Kind::Stdout, "c\n"), "c\n");
        assert_eq!(stamp(Kind::Stdout, ""), "");
    }

    proptest::proptest! {
        #[test]
        fn the_tail_is_what_is_left_of_the_whole(texts in proptest::collection::vec("[a\n]{0,6}", 0..8), lines in 0..6_usize) {
            let whole = texts.concat();
            let all: Vec<&str> = whole.split_inclusive('\n').collect();
            let expected = all[all.len().saturating_sub(lines)..].concat();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(tail(&texts, lines), expected);
        }
    }
}
