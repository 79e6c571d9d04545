//! The log of a daemon that was started on demand: a file that never grows beyond a bound.
//!
//! Owner: the daemon's tracing, from any thread. Invariants: what others write to the daemon's standard error (a bug's
//! last words) goes into the same file; a log that cannot be rotated goes on in place, and costs no request.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// The size at which the file is put aside, in bytes; one older one is kept.
const FILE_MAX: u64 = 4 << 20;

/// Writes to standard error; with a file, keeps that file short.
#[derive(Clone)]
pub(super) struct BoundedLog {
    path: Option<PathBuf>,
    length: Arc<Mutex<u64>>,
}

impl BoundedLog {
    /// `path` is the file that standard error is.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let length = path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |found| found.len());
        Self { path, length: Arc::new(Mutex::new(length)) }
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path
            && *length > FILE_MAX
        {
            *length = 0;
            if let Ok(fresh) = put_aside(path) {
                let _the_old_one_goes_on = rustix::stdio::dup2_stdout(&fresh);
                let _the_old_one_goes_on = rustix::stdio::dup2_stderr(&fresh);
            }
        }
        let written = io::stderr().write(bytes)?;
        *length = length.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for BoundedLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Renames the file, and makes a new one in its place.
fn put_aside(path: &Path) -> io::Result<File> {
    fs::rename(path, path.with_extension("log.1"))?;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn one_older_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        for text in ["one", "two", "three"] {
            fs::write(&path, text).unwrap();
            drop(put_aside(&path).unwrap());
        }
        assert_eq!(fs::read_to_string(dir.path().join("daemon.log.1")).unwrap(), "three");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(put_aside(Path::new("/nowhere/daemon.log")).is_err());
    }
}
