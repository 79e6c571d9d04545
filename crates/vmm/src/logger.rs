//! Log lines on standard error, at most so many a second: a guest cannot fill a disk through its VMM's log.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use hull_protocol::trace::TraceId;
use log::{LevelFilter, Log, Metadata, Record};

/// Lines that are written in one [`WINDOW`]; the rest is counted.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);
/// Lines that are written in a VM's whole life.
const ALL_LINES_MAX: u32 = 10_000;

struct Logger {
    budget: Mutex<Budget>,
    /// The trace that all lines are in, once it is known.
    trace: OnceLock<TraceId>,
}

static LOGGER: Logger =
    Logger { budget: Mutex::new(Budget { window: None, lines: 0, all_lines: 0 }), trace: OnceLock::new() };

/// Makes this the process's logger.
pub(crate) fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Has all lines from now on say that they are in this trace.
pub(crate) fn trace(trace: TraceId) {
    let _set_before = LOGGER.trace.set(trace);
}

/// How a line begins.
fn prefix(trace: Option<&TraceId>) -> String {
    trace.map_or_else(|| "hull-vmm: ".to_owned(), |trace| format!("hull-vmm[{trace}]: "))
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
        let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(dropped) = budget.admit(Instant::now()) {
            let prefix = prefix(self.trace.get());
            if dropped > 0 {
                eprintln!("{prefix}{dropped} lines left out");
            }
            // What a bug says has several lines, which stay one.
            eprintln!("{prefix}{}", record.args().to_string().replace('\n', " "));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_trace_it_is_in() {
        let trace: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().expect("a trace");
        assert_eq!(prefix(Some(&trace)), "hull-vmm[4bf92f3577b34da6a3ce929d0e0e4736]: ");
        assert_eq!(prefix(None), "hull-vmm: ");
    }

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
