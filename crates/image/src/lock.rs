//! Locks on files that somebody else may be about to let go of.

use std::fs::TryLockError;
use std::thread;
use std::time::{Duration, Instant};

/// How often a lock is tried.
const LOOK: Duration = Duration::from_millis(10);

/// Tries to lock until that does not fail because somebody has the lock, or `wait` is over; blocks meanwhile.
///
/// Whoever has it may be about to leave. And one that was killed while it started another process leaves its locks to that
/// one, until it has become another program.
///
/// # Errors
/// Those of `lock`.
pub fn lock_within(wait: Duration, lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    let since = Instant::now();
    loop {
        match lock() {
            Err(TryLockError::WouldBlock) if since.elapsed() < wait => thread::sleep(LOOK),
            done => return done,
        }
    }
}
