//! The audit log: who did what to which object, when, with which result; JSON, a line each.
//!
//! In the data directory: `audit.jsonl` has what was done, `refused.jsonl` what was refused, each with the three files
//! before it (`.1` to `.3`). Shared by all connections. Invariants: it takes twice [`FILES`] times [`FILE_MAX`] of disk at
//! most; nobody pushes out what was done by being refused.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hull_protocol::api::AuditEntry;
use hull_protocol::units::Bytes;

use crate::clock::{rfc3339, unix_ns};

/// The most bytes of one file, but for its last line.
const FILE_MAX: u64 = 4 << 20;
/// How many files there are of each kind.
const FILES: usize = 4;
/// The most bytes of a line that is read back.
const LINE_MAX: u64 = 16 << 10;
/// The most bytes of what somebody wrote that are kept.
const TEXT_MAX: usize = 512;

/// The log of one daemon.
pub struct Audit(Mutex<Inner>);

struct Inner {
    done: Log,
    refused: Log,
    last: u64,
}

/// The files of one kind.
struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    /// Whether its last line may have no end.
    torn: bool,
    file_max: u64,
}

/// What part of the log is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// How many entries at most.
    pub limit: usize,
    /// The first ones after this number; without it, the last ones.
    pub after: Option<u64>,
    /// Those of this tenant.
    pub tenant: Option<String>,
    /// Those by this one.
    pub who: Option<String>,
}

impl Wanted {
    fn has(&self, entry: &AuditEntry) -> bool {
        self.after.is_none_or(|after| entry.id > after)
            && self.tenant.as_ref().is_none_or(|tenant| entry.tenant.as_ref() == Some(tenant))
            && self.who.as_ref().is_none_or(|who| entry.who == *who)
    }

    /// As many as are wanted, of those that come in order.
    fn some(&self, entries: impl Iterator<Item = AuditEntry>) -> VecDeque<AuditEntry> {
        let mut found = VecDeque::new();
        for entry in entries.filter(|entry| self.has(entry)) {
            // The last ones push out the first; of the first ones there are enough.
            if found.len() >= self.limit && (self.after.is_some() || found.pop_front().is_none()) {
                break;
            }
            found.push_back(entry);
        }
        found
    }
}

impl Audit {
    /// The log in this data directory.
    ///
    /// # Errors
    /// When its files cannot be opened.
    pub fn open(data: &Path) -> io::Result<Self> {
        Self::with_size(data, FILE_MAX)
    }

    fn with_size(data: &Path, file_max: u64) -> io::Result<Self> {
        let log = |name: &str| Log::open(data.join(name), file_max);
        Ok(Self(Mutex::new(Inner { done: log("audit.jsonl")?, refused: log("refused.jsonl")?, last: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry; its number and time are filled in. What cannot be written is told to the daemon's log.
    pub fn write(&self, entry: AuditEntry) {
        if let Err(error) = self.lock().write(entry) {
            tracing::error!("the audit log cannot be written: {error}");
        }
    }

    /// What is wanted, in order. Blocks for as long as it takes to read the files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&self, wanted: &Wanted) -> io::Result<Vec<AuditEntry>> {
        let inner = self.lock();
        let paths = [inner.done.path.clone(), inner.refused.path.clone()];
        drop(inner);
        let mut both = Vec::new();
        for path in paths {
            let mut files = Vec::new();
            for number in (0..FILES).rev() {
                match File::open(numbered(&path, number)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    file => files.push(file?),
                }
            }
            both.extend(wanted.some(files.into_iter().flat_map(entries)));
        }
        both.sort_by_key(|entry| entry.id);
        Ok(wanted.some(both.into_iter()).into())
    }
}

impl Inner {
    fn write(&mut self, mut entry: AuditEntry) -> io::Result<()> {
        // Microseconds: a later daemon's are higher.
        self.last = (unix_ns() / 1000).max(self.last.saturating_add(1));
        entry.id = self.last;
        entry.time = rfc3339(SystemTime::now());
        (entry.object, entry.action) = (cut(&entry.object), cut(&entry.action));
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let log = if entry.status >= 400 { &mut self.refused } else { &mut self.done };
        log.append(&line)
    }
}

impl Log {
    fn open(path: PathBuf, file_max: u64) -> io::Result<Self> {
        let mut file = opened(&path, file_max)?;
        let size = file.metadata()?.len();
        let mut last = *b"\n";
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { path, file, size, torn: last != *b"\n", file_max })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size >= self.file_max {
            self.rotate()?;
        }
        // A daemon died within a line, or the disk was full then: this one is one of its own.
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(line)?;
        self.torn = false;
        self.size = self.size.saturating_add(line.len() as u64);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..FILES).rev() {
            match fs::rename(numbered(&self.path, number - 1), numbered(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = opened(&self.path, self.file_max)?;
        (self.size, self.torn) = (0, false);
        Ok(())
    }
}

/// Opens a file, and has the disk keep room for it: what is done while the disk is full is to be known as well.
fn opened(path: &Path, file_max: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    crate::space::set_aside(&file, Bytes(file_max));
    Ok(file)
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// As much of what somebody wrote as is kept.
pub(crate) fn cut(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    let kept = (0..=TEXT_MAX).rev().find_map(|end| text.get(..end)).unwrap_or_default();
    format!("{kept}…")
}

/// The entries of a file; lines that are none are left out.
fn entries(file: File) -> impl Iterator<Item = AuditEntry> {
    let mut reader = BufReader::new(file);
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            if reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            if let Ok(entry) = serde_json::from_slice(&line) {
                return Some(entry);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn entry(object: &str, status: u16) -> AuditEntry {
        let (tenant, who) = (Some("acme".into()), "uid:7".into());
        AuditEntry { tenant, who, object: object.into(), status, action: "POST".into(), ..Default::default() }
    }

    fn objects(audit: &Audit, wanted: &Wanted) -> Vec<String> {
        audit.read(wanted).unwrap().into_iter().map(|entry| entry.object).collect()
    }

    #[test]
    fn the_last_entries_are_read_back_and_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::with_size(dir.path(), 1000).unwrap();
        for number in 0..200 {
            audit.write(entry(&number.to_string(), 201));
        }
        let last = Wanted { limit: 3, ..Wanted::default() };
        assert_eq!(objects(&audit, &last), ["197", "198", "199"]);
        let all = audit.read(&Wanted { limit: 1000, ..Wanted::default() }).unwrap();
        assert!(all.is_sorted_by(|a, b| a.id < b.id) && all.len() > 10 && all.len() < 60, "{}", all.len());
        let after = Wanted { limit: 2, after: Some(all[0].id), ..Wanted::default() };
        assert_eq!(objects(&audit, &after), [all[1].object.as_str(), &all[2].object]);
        assert!(objects(&audit, &Wanted { tenant: Some("other".into()), ..last.clone() }).is_empty());
        assert!(objects(&audit, &Wanted { who: Some("uid:8".into()), ..last.clone() }).is_empty());
        assert!(objects(&audit, &Wanted::default()).is_empty());
        let files: u64 =
            fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(files < 5000, "{files}");
        // A line that was cut off takes no other along.
        drop(audit);
        let path = dir.path().join("audit.jsonl");
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"id\":").unwrap();
        let audit = Audit::with_size(dir.path(), 1000).unwrap();
        audit.write(entry(&"x".repeat(2000), 201));
        let read = objects(&audit, &last);
        assert_eq!((read[1].as_str(), read[2].len()), ("199", TEXT_MAX + '…'.len_utf8()));
    }

    #[test]
    fn refusals_push_nothing_out() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::with_size(dir.path(), 1000).unwrap();
        audit.write(entry("done", 200));
        (0..500).for_each(|_| audit.write(entry("refused", 404)));
        audit.write(entry("undone", 204));
        let all = objects(&audit, &Wanted { limit: 10_000, ..Wanted::default() });
        assert_eq!((all[0].as_str(), all[1].as_str()), ("done", "refused"));
        assert_eq!(all.last().unwrap(), "undone");
    }
}
