//! What happens in a daemon, for whoever wants to know: a ring of the last events, and readers at their own pace.
//!
//! Shared by all actors and handlers. Invariants: at most [`KEPT`] events are held, however many readers there are and
//! however slow; a reader that was overtaken is told so; numbers grow, also from one daemon to the next.

mod feeds;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_protocol::api::{Microvm, Volume};
use hull_protocol::life::{Event, Subject};
use tokio::sync::watch;

pub use self::feeds::Feeds;
use crate::clock::rfc3339;

/// How many events are kept for those who come later.
const KEPT: usize = 4096;

/// The events of one tenant. Clones share them.
#[derive(Clone, Debug)]
pub struct Events {
    ring: Arc<Mutex<VecDeque<Arc<Event>>>>,
    latest: Arc<watch::Sender<u64>>,
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The next event.
    Event(Arc<Event>),
    /// Events that this reader has not seen are not there any more; those that follow are.
    Lost,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Arc::default(), latest: Arc::new(watch::Sender::new(0)) }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happened.
    pub fn tell(
        &self,
        subject: Subject,
        action: &str,
        of: &str,
        name: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let now = SystemTime::now();
        // Numbers are microseconds: a later daemon's are higher, unless the clock was set back meanwhile.
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut ring = self.lock();
        let last = ring.back().map_or(0, |event| event.id);
        let id = u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(last.saturating_add(1));
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::new(Event {
            id,
            time: rfc3339(now),
            subject,
            action: action.to_owned(),
            of: of.to_owned(),
            name: name.to_owned(),
            attributes,
        }));
        drop(ring);
        self.latest.send_replace(id);
    }

    /// Tells what happened to a microVM.
    pub fn microvm(&self, record: &Microvm, action: &str, more: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> =
            more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        attributes.insert("image".into(), record.spec.container.image.clone());
        self.tell(Subject::Microvm, action, &record.id, &record.name, attributes);
    }

    /// Tells what happened to a volume.
    pub fn volume(&self, volume: &Volume, action: &str) {
        let size = [("size".to_owned(), volume.size.get().to_string())];
        self.tell(Subject::Volume, action, &volume.id, &volume.name, size.into());
    }

    /// A reader of what comes after event number `after`; without it, of what comes from now on.
    pub fn reader(&self, after: Option<u64>) -> Reader {
        let latest = self.latest.subscribe();
        let now = self.lock().back().map_or(0, |event| event.id);
        Reader { events: self.clone(), latest, seen: after.unwrap_or(now), replays: after.is_some() }
    }

    /// A reader of everything that is kept.
    pub fn reader_of_all(&self) -> Reader {
        Reader { replays: false, ..self.reader(Some(0)) }
    }
}

/// Reads events in order.
#[derive(Debug)]
pub struct Reader {
    events: Events,
    latest: watch::Receiver<u64>,
    seen: u64,
    /// It goes on where another one ended, perhaps with another daemon: what is missing is to be told.
    replays: bool,
}

impl Reader {
    /// The next one that is there.
    pub fn take(&mut self) -> Option<Found> {
        let ring = self.events.lock();
        let at = ring.partition_point(|event| event.id <= self.seen);
        let next = ring.get(at)?.clone();
        // The one it has seen last is still there, or nothing was ever dropped between.
        let known = at > 0 && ring.get(at - 1).is_some_and(|event| event.id == self.seen);
        drop(ring);
        if self.replays && !known && at == 0 {
            self.replays = false;
            return Some(Found::Lost);
        }
        self.replays = true;
        self.seen = next.id;
        Some(Found::Event(next))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Found {
        loop {
            self.latest.mark_unchanged();
            if let Some(found) = self.take() {
                return found;
            }
            if self.latest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn tell(events: &Events, action: &str) {
        events.tell(Subject::Microvm, action, "id", "name", BTreeMap::new());
    }

    fn action(found: Option<Found>) -> String {
        match found {
            Some(Found::Event(event)) => event.action.clone(),
            Some(Found::Lost) => "lost".into(),
            None => "none".into(),
        }
    }

    #[test]
    fn readers_go_on_where_they_were() {
        let events = Events::default();
        tell(&events, "one");
        let mut from_now = events.reader(None);
        let mut all = events.reader_of_all();
        assert_eq!(action(from_now.take()), "none");
        tell(&events, "two");
        assert_eq!(action(from_now.take()), "two");
        let Some(Found::Event(first)) = all.take() else { panic!("nothing is kept") };
        let mut again = events.reader(Some(first.id));
        assert_eq!(action(again.take()), "two");
        assert_eq!(action(again.take()), "none");
        assert_eq!(action(all.take()), "two");
    }

    #[test]
    fn the_ring_is_bounded_and_a_slow_reader_is_told() {
        let events = Events::default();
        let mut slow = events.reader(None);
        tell(&events, "first");
        assert_eq!(action(slow.take()), "first");
        for number in 0..KEPT + 10 {
            tell(&events, &number.to_string());
        }
        assert_eq!(events.lock().len(), KEPT);
        assert_eq!(action(slow.take()), "lost");
        assert_eq!(action(slow.take()), "10");
        assert_eq!(action(slow.take()), "11");
        // A number from an earlier daemon: what was between is not known.
        let mut stranger = events.reader(Some(1));
        assert_eq!(action(stranger.take()), "lost");
        assert_eq!(action(stranger.take()), "10");
        assert_eq!(action(events.reader_of_all().take()), "10");
    }

    #[tokio::test]
    async fn waiting_ends_with_the_next_event() {
        let events = Events::default();
        let mut reader = events.reader(None);
        let waiting = tokio::spawn(async move { action(Some(reader.next().await)) });
        tokio::task::yield_now().await;
        tell(&events, "now");
        assert_eq!(waiting.await.unwrap(), "now");
    }
}
