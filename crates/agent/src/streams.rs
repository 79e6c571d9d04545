//! Where a process's streams and the host's connections for them meet, whichever comes first.
//!
//! Every connection has a number, so that each user of a stream can ask for one newer than its own: both
//! directions of a terminal share a connection. Invariants: the newest connection is the one that counts, an
//! older one is shut down; at most [`WAITING_MAX`] are kept.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::agent::StreamKind;

/// The most connections that are kept.
const WAITING_MAX: usize = 64;

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
    /// The process whose streams are over.
    closed: Option<String>,
    ended: bool,
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
        let key = (process, kind);
        let no_room = state.offers.len() >= WAITING_MAX && !state.offers.contains_key(&key);
        if no_room || state.closed.as_ref() == Some(&key.0) {
            return;
        }
        state.last = state.last.saturating_add(1);
        let offer = Offer { number: state.last, connection: Arc::new(connection) };
        if let Some(older) = state.offers.insert(key, offer) {
            // Whoever is at it looks for the newer one then.
            let _gone_already = older.connection.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// The connection for a stream, as soon as there is one with a number over `after`. None after `limit`, or
    /// once the process or the guest has come to its end.
    pub(crate) fn take(
        &self,
        process: &str,
        kind: StreamKind,
        after: u64,
        limit: Option<Duration>,
    ) -> Option<Offer> {
        let key = (process.to_owned(), kind);
        let newer = |state: &State| state.offers.get(&key).filter(|offer| offer.number > after).cloned();
        let nothing = |state: &mut State| {
            !state.ended && state.closed.as_ref() != Some(&key.0) && newer(state).is_none()
        };
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
        self.lock().offers.retain(|(known, _), _| known != process);
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
        state.closed = Some(process.to_owned());
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
