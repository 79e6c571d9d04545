//! The one pause primitive: it holds vCPU threads between two guest instructions.
//!
//! Owner: the machine; each vCPU thread passes it before every entry into the guest. Invariant: a parked vCPU
//! has completed its pending exit, so its registers are whole. `tests/gate.rs` goes through every order of the threads' steps.

use std::sync::PoisonError;
use std::time::Duration;

use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Condvar, Mutex, MutexGuard};

/// How often a vCPU that is still inside the guest is kicked while the gate closes.
const KICK_EVERY: Duration = Duration::from_millis(1);

/// Why a vCPU came to the gate and what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Enter the guest.
    Go,
    /// The VM ends: leave the thread.
    Leave,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    ending: bool,
    parked: usize,
    gone: usize,
}

/// A gate for a fixed number of vCPUs.
#[derive(Debug)]
pub struct Gate {
    vcpus: usize,
    /// A copy of "closed or ending" that costs the fast path one load.
    attention: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// An open gate.
    pub fn new(vcpus: usize) -> Self {
        Self { vcpus, attention: AtomicBool::new(false), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Whether a vCPU must complete its exit and call [`Gate::pass`] before it goes on.
    pub fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Called by a vCPU between two entries: waits while the gate is closed.
    pub fn pass(&self) -> Pass {
        let mut state = self.lock();
        if state.closed && !state.ending {
            state.parked += 1;
            self.changed.notify_all();
            while state.closed && !state.ending {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        if state.ending {
            state.gone += 1;
            self.changed.notify_all();
            return Pass::Leave;
        }
        Pass::Go
    }

    /// Closes the gate and returns when every vCPU is parked. `kick` makes vCPUs leave the guest; it is called
    /// until they have, so a kick that comes just before an entry is not lost.
    pub fn close(&self, kick: impl Fn()) {
        let mut state = self.lock();
        state.closed = true;
        self.attention.store(true, Ordering::Release);
        while state.parked + state.gone < self.vcpus {
            kick();
            state = self.changed.wait_timeout(state, KICK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the vCPUs go on.
    pub fn open(&self) {
        let mut state = self.lock();
        state.closed = false;
        self.attention.store(state.ending, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends every vCPU thread, parked or not; returns when all have left.
    pub fn end(&self, kick: impl Fn()) {
        let mut state = self.lock();
        state.ending = true;
        self.attention.store(true, Ordering::Release);
        self.changed.notify_all();
        while state.gone < self.vcpus {
            kick();
            state = self.changed.wait_timeout(state, KICK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
