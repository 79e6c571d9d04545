//! How far a pull or an import is, on standard error: bars on a terminal, lines elsewhere.
//!
//! Owner: one verb. Invariant: standard output is never touched, and bars are gone when the transfer is.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};

use hull_protocol::api::Progress;
use hull_protocol::units::Bytes;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::table::short;

/// More blobs than this are not shown one by one.
const BARS_MAX: usize = 64;

/// Shows a transfer's progress.
pub(super) enum Display {
    Nothing,
    Lines,
    Bars { all: MultiProgress, blobs: HashMap<String, ProgressBar>, step: ProgressBar },
}

impl Display {
    /// The display that suits standard error; none when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        if quiet {
            Self::Nothing
        } else if io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let step = ProgressBar::new_spinner();
            Self::Bars { step: all.add(step), all, blobs: HashMap::new() }
        } else {
            Self::Lines
        }
    }

    /// Shows one report.
    pub(super) fn show(&mut self, progress: &Progress) {
        match self {
            Self::Nothing => {}
            Self::Lines => {
                if let Some(line) = line(progress) {
                    let _nobody_reads = writeln!(io::stderr(), "{line}");
                }
            }
            Self::Bars { all, blobs, step } => match progress {
                Progress::Blob { digest, done, total } => {
                    if !blobs.contains_key(digest) && blobs.len() < BARS_MAX {
                        blobs.insert(digest.clone(), all.insert_before(step, bar(digest)));
                    }
                    if let Some(bar) = blobs.get(digest) {
                        bar.set_length(*total);
                        bar.set_position(*done);
                    }
                }
                Progress::Step(text) => {
                    step.set_message(text.clone());
                    step.tick();
                }
                Progress::Done(_) | Progress::Failed(_) => {
                    let _nobody_reads = all.clear();
                }
            },
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Self::Bars { all, .. } = self {
            let _nobody_reads = all.clear();
        }
    }
}

fn bar(digest: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(short(digest, false));
    match ProgressStyle::with_template("{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}") {
        Ok(style) => bar.with_style(style),
        Err(_the_default_will_do) => bar,
    }
}

/// What is worth a line: what has begun, and blobs that have come whole.
fn line(progress: &Progress) -> Option<String> {
    match progress {
        Progress::Blob { digest, done, total } if done >= total => {
            Some(format!("{}: {}", short(digest, false), Bytes(*total)))
        }
        Progress::Step(text) => Some(text.clone()),
        Progress::Blob { .. } | Progress::Done(_) | Progress::Failed(_) => None,
    }
}
