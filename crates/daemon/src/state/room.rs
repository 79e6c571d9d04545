//! Room on the disk that is the database's alone.
//!
//! Disks of guests are sparse: they may take the last free byte at any time. What runs then is still to be stopped, changed
//! and removed, which the database has to write down. Owned by the state. Invariant: both files are open as long as the
//! connection is, because closing any descriptor of a file gives up all of the process's locks on it (POSIX).

use std::fs::{File, OpenOptions};
use std::path::Path;

use hull_protocol::units::Bytes;

use crate::space::set_aside;

/// What the write-ahead log takes until it begins anew, and a long transaction: SQLite does so after 1,000 pages.
const LOG: Bytes = Bytes::mib(6);
/// What the database may grow by.
const GROWTH: Bytes = Bytes::mib(2);

/// The files of one database.
pub(super) struct Room {
    database: Option<File>,
    log: Option<File>,
}

impl Room {
    /// Of a database that is open, with a write-ahead log.
    pub(super) fn of(path: &Path) -> Self {
        let open = |path: &Path| OpenOptions::new().write(true).open(path).ok();
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self { database: open(path), log: open(log.as_ref()) }
    }

    /// Sets room aside for what is written next.
    pub(super) fn keep(&self) {
        if let Some(log) = &self.log {
            set_aside(log, LOG);
        }
        if let Some(database) = &self.database {
            let length = database.metadata().map_or(0, |metadata| metadata.len());
            set_aside(database, Bytes(length.saturating_add(GROWTH.get())));
        }
    }
}
