//! The agent's own words: into the kernel's log, which the host sees on the console.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line. Without a kernel log, to standard error.
pub fn log(message: &str) {
    let line = format!("<4>hull-agent: {message}\n");
    let written =
        OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(line.as_bytes()));
    if written.is_err() {
        eprintln!("hull-agent: {message}");
    }
}
