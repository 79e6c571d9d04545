//! Log lines on standard error, at most so many a second: a guest cannot fill a disk through its VMM's log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

/// Lines that are written in one [`WINDOW`]; the rest is counted.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);
/// Lines that are written in a VM's whole life.
const ALL_LINES_MAX: u32 = 10_000;

struct Logger(Mutex<Budget>);

static LOGGER: Logger = Logger(Mutex::new(Budget { window: None, lines: 0, all_lines: 0 }));

/// Makes this the process's logger.
pub(crate) fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// What may still be written.
struct Budget {
    window: Option<Instant>,
    lines: u32,
    all_lines: u32,
}

impl Budget {
    /// Whether a line may be written now, and how many were not since the last one.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        let mut dropped = 0;
        if self.window.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            dropped = self.lines.saturating_sub(LINES_MAX);
            (self.window, self.lines) = (Some(now), 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > LINES_MAX || self.all_lines >= ALL_LINES_MAX {
            return None;
        }
        self.all_lines += 1;
        Some(dropped)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut budget = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(dropped) = budget.admit(Instant::now()) {
            if dropped > 0 {
                eprintln!("hull-vmm: {dropped} lines left out");
            }
            eprintln!("hull-vmm: {}", record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_by_the_second_and_in_all() {
        let start = Instant::now();
        let mut budget = Budget { window: None, lines: 0, all_lines: 0 };
        let admitted = (0..100).filter(|_| budget.admit(start).is_some()).count();
        assert_eq!(admitted, 20);
        assert_eq!(budget.admit(start + WINDOW), Some(80));
        let all = (0..10_000).flat_map(|second| (0..30).map(move |_| start + WINDOW * (second + 2)));
        assert_eq!(21 + all.filter(|now| budget.admit(*now).is_some()).count(), 10_000);
    }
}
