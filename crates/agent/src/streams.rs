//! Where a process's streams and the host's connections for them meet, whichever comes first.
//!
//! Every connection has a number, so that each user of a stream can ask for one newer than its own: both
//! directions of a terminal share a connection. Invariants: the newest connection is the one that counts, an
//! older one is shut down; of those that no process has asked for at most [`WAITING_MAX`] are kept, the newest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::agent::StreamKind;

/// The most connections that are kept for processes that nobody has started: those of as many starts as there may
/// be at once, with three streams each.
const WAITING_MAX: usize = 256;
/// How many processes whose streams are over are remembered: a late connection for one is turned away.
const CLOSED_MAX: usize = 256;

type Key = (String, StreamKind);

/// A connection for a stream.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Greater than that of every earlier one.
    pub(crate) number: u64,
    pub(crate) connection: Arc<UnixStream>,
}

#[derive(Default)]
struct State {
    offers: HashMap<Key, Offer>,
    last: u64,
    /// The processes that are starting or run.
    open: HashSet<String>,
    /// The processes whose streams are over, the newest last.
    closed: VecDeque<String>,
    ended: bool,
}

impl State {
    /// Makes room for one more connection that no process has asked for.
    fn make_room(&mut self) {
        let unasked = || self.offers.iter().filter(|((process, _), _)| !self.open.contains(process));
        if unasked().count() < WAITING_MAX {
            return;
        }
        let oldest = unasked().min_by_key(|(_, offer)| offer.number).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.offers.remove(&oldest);
        }
    }
}

/// The meeting place.
#[derive(Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    changed: Condvar,
}

impl Streams {
    /// A connection has said what it is for. It takes the place of an older one.
    pub(crate) fn offer(&self, process: String, kind: StreamKind, connection: UnixStream) {
        let mut state = self.lock();
        if state.closed.contains(&process) {
            return;
        }
        if !state.open.contains(&process) {
            state.make_room();
        }
        state.last = state.last.saturating_add(1);
        let offer = Offer { number: state.last, connection: Arc::new(connection) };
        if let Some(older) = state.offers.insert((process, kind), offer) {
            // Whoever is at it looks for the newer one then.
            let _gone_already = older.connection.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// A process is about to be started: its streams are asked for from here on.
    pub(crate) fn open(&self, process: &str) {
        self.lock().open.insert(process.to_owned());
    }

    /// The connection for a stream of a process that was opened, as soon as there is one with a number over `after`.
    /// None after `limit`, or once the process or the guest has come to its end.
    pub(crate) fn take(
        &self,
        process: &str,
        kind: StreamKind,
        after: u64,
        limit: Option<Duration>,
    ) -> Option<Offer> {
        let key = (process.to_owned(), kind);
        let newer = |state: &State| state.offers.get(&key).filter(|offer| offer.number > after).cloned();
        let nothing =
            |state: &mut State| !state.ended && state.open.contains(process) && newer(state).is_none();
        let state = match limit {
            Some(limit) => {
                self.changed
                    .wait_timeout_while(self.lock(), limit, nothing)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner),
        };
        newer(&state)
    }

    /// Nothing more goes over this connection: it closes with its last user.
    pub(crate) fn release(&self, process: &str, kind: StreamKind, number: u64) {
        let mut state = self.lock();
        let key = (process.to_owned(), kind);
        if state.offers.get(&key).is_some_and(|offer| offer.number == number) {
            state.offers.remove(&key);
        }
    }

    /// A process did not start: what was connected for it is closed, and it may be tried again.
    pub(crate) fn forget(&self, process: &str) {
        let mut state = self.lock();
        state.offers.retain(|(known, _), _| known != process);
        state.open.remove(process);
    }

    /// A process has ended, with the last of its output: nobody waits for its streams any more.
    pub(crate) fn close(&self, process: &str) {
        let mut state = self.lock();
        for ((known, _), offer) in &state.offers {
            if known == process {
                // Wakes whoever reads what the process was to get; what was sent to the host is not touched.
                let _gone_already = offer.connection.shutdown(Shutdown::Read);
            }
        }
        state.offers.retain(|(known, _), _| known != process);
        state.open.remove(process);
        if state.closed.len() >= CLOSED_MAX {
            state.closed.pop_front();
        }
        state.closed.push_back(process.to_owned());
        self.changed.notify_all();
    }

    /// Nobody waits any more.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn offered(streams: &Streams, process: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        streams.offer(process.to_owned(), StreamKind::Stdout, theirs);
        ours
    }

    fn taken(streams: &Streams, process: &str) -> bool {
        streams.take(process, StreamKind::Stdout, 0, Some(Duration::ZERO)).is_some()
    }

    #[test]
    fn of_connections_nobody_asked_for_the_newest_are_kept_and_none_of_a_process_is_lost() {
        let streams = Streams::default();
        streams.open("asked");
        let _asked = offered(&streams, "asked");
        let kept: Vec<_> = (0..=WAITING_MAX).map(|n| offered(&streams, &n.to_string())).collect();
        assert!(taken(&streams, "asked"));
        assert!(!taken(&streams, "0"), "the oldest was kept");
        assert!(taken(&streams, "1") && taken(&streams, &WAITING_MAX.to_string()));
        assert!(streams.lock().offers.len() <= WAITING_MAX + 1);
        drop(kept);
    }

    #[test]
    fn a_late_connection_for_a_process_that_has_ended_is_closed_at_once() {
        let streams = Streams::default();
        streams.open("over");
        streams.close("over");
        let mut late = offered(&streams, "over");
        assert_eq!(std::io::Read::read(&mut late, &mut [0]).unwrap(), 0);
        for number in 0..2 * CLOSED_MAX {
            streams.close(&number.to_string());
        }
        assert_eq!(streams.lock().closed.len(), CLOSED_MAX);
    }
}
