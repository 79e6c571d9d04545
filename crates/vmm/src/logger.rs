//! Log lines on standard error, at most so many a second: a guest cannot fill a disk through its VMM's log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

/// Lines that are written in one [`WINDOW`]; the rest is counted.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

struct Logger(Mutex<Option<(Instant, u32)>>);

static LOGGER: Logger = Logger(Mutex::new(None));

/// Makes this the process's logger.
pub(crate) fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Logger {
    /// Whether the next line may be written, and how many were not since the last one.
    fn admit(&self) -> Option<u32> {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let (since, lines) = state.get_or_insert((now, 0));
        let mut dropped = 0;
        if now.duration_since(*since) >= WINDOW {
            dropped = lines.saturating_sub(LINES_MAX);
            (*since, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        (*lines <= LINES_MAX).then_some(dropped)
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
        if let Some(dropped) = self.admit() {
            if dropped > 0 {
                eprintln!("hull-vmm: {dropped} lines left out");
            }
            eprintln!("hull-vmm: {}", record.args());
        }
    }

    fn flush(&self) {}
}
