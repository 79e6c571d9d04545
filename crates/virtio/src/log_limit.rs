//! Keeps what a guest can provoke from flooding the log: one line per second, with the number of lines left out.
//!
//! A part of each device that logs, on the I/O thread.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Decides whether a line may be logged.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// The number of lines left out since the last one, if this one may be logged.
    pub(crate) fn allow(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
    }
}
