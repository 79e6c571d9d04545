//! What a container printed: a bounded log on disk that rotates, and readers that follow it.
//!
//! A record is the time in nanoseconds since the Unix epoch (big-endian `u64`) and one frame of
//! [`hull_protocol::stream`]. Invariants: two files of at most [`FILE_MAX`] bytes; a full disk costs log lines,
//! never the container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_protocol::stream::{self, HEADER_LEN, Kind};
use tokio::sync::watch;

/// The size at which the log is rotated, in bytes.
const FILE_MAX: u64 = 16 << 20;
const STAMP_LEN: usize = 8;

/// One microVM's log.
pub struct Log {
    path: PathBuf,
    file: Mutex<Option<Current>>,
    /// How many bytes were ever written.
    written: watch::Sender<u64>,
}

struct Current {
    file: File,
    length: u64,
    /// Whether a failure has been reported.
    failed: bool,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was written, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// Which stream.
    pub kind: Kind,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl Log {
    /// The log in a microVM's directory.
    pub fn new(directory: &Path) -> Self {
        let written = watch::Sender::new(0);
        Self { path: directory.join("output.log"), file: Mutex::default(), written }
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

    /// Adds a record.
    pub fn append(&self, kind: Kind, payload: &[u8]) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.write(&mut file, kind, payload)
            && !file.as_mut().is_some_and(|current| std::mem::replace(&mut current.failed, true))
        {
            tracing::warn!("{} is not written: {error}", self.path.display());
        }
        self.written.send_modify(|written| *written = written.wrapping_add(1));
    }

    fn write(&self, place: &mut Option<Current>, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let full = place.as_ref().is_some_and(|current| current.length >= FILE_MAX);
        if full {
            *place = None;
            fs::rename(&self.path, self.older())?;
        }
        let current = match place {
            Some(current) => current,
            None => {
                let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
                let length = file.metadata()?.len();
                place.insert(Current { file, length, failed: false })
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_be_bytes().to_vec();
        record.extend(stream::header(kind, payload.len()).map_err(io::Error::other)?);
        record.extend(payload);
        if let Err(error) = current.file.write_all(&record) {
            // Half a record would spoil all that follow.
            current.file.set_len(current.length)?;
            return Err(error);
        }
        current.length = current.length.saturating_add(record.len() as u64);
        current.failed = false;
        Ok(())
    }

    /// The first byte of a new start is not to be mistaken for the last one's.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// A reader at the oldest record there is.
    pub fn reader(&self) -> Reader {
        let older = File::open(self.older()).ok().map(BufReader::new);
        let (older, current) = (older, File::open(&self.path).ok().map(BufReader::new));
        Reader { path: self.path.clone(), older, current }
    }
}

/// Reads a log from its oldest record on.
pub struct Reader {
    path: PathBuf,
    older: Option<BufReader<File>>,
    current: Option<BufReader<File>>,
}

impl Reader {
    /// The next record that is there, None at the end of what is written so far.
    pub fn next_record(&mut self) -> Option<Record> {
        if let Some(record) = self.older.as_mut().and_then(read_record) {
            return Some(record);
        }
        self.older = None;
        if self.current.is_none() {
            self.current = File::open(&self.path).ok().map(BufReader::new);
        }
        let found = self.current.as_mut().and_then(read_record);
        if found.is_some() {
            return found;
        }
        // Rotated away under this reader: go on in the file that took its place.
        let here = self.current.as_ref().and_then(|file| inode(file.get_ref()));
        let there = File::open(&self.path).ok();
        if there.as_ref().and_then(inode) != here {
            self.current = there.map(BufReader::new);
            return self.current.as_mut().and_then(read_record);
        }
        None
    }
}

fn inode(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    file.metadata().ok().map(|metadata| metadata.ino())
}

/// One whole record; a half-written one is left for the next time.
fn read_record(file: &mut BufReader<File>) -> Option<Record> {
    let mut head = [0; STAMP_LEN + HEADER_LEN];
    let start = io::Seek::stream_position(file).ok()?;
    let record = file.read_exact(&mut head).ok().and_then(|()| {
        let time = u64::from_be_bytes(*head.first_chunk()?);
        let header: [u8; HEADER_LEN] = head.get(STAMP_LEN..)?.try_into().ok()?;
        let (kind, length) = stream::parse(header).ok()?;
        let mut payload = vec![0; length];
        file.read_exact(&mut payload).ok()?;
        Some(Record { time, kind, payload })
    });
    if record.is_none() {
        io::Seek::seek(file, io::SeekFrom::Start(start)).ok()?;
    }
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn all(reader: &mut Reader) -> Vec<(Kind, Vec<u8>)> {
        std::iter::from_fn(|| reader.next_record()).map(|record| (record.kind, record.payload)).collect()
    }

    #[test]
    fn what_is_written_is_read_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path());
        let mut reader = log.reader();
        assert_eq!(all(&mut reader), []);
        log.append(Kind::Stdout, b"one");
        log.append(Kind::Stderr, b"");
        assert_eq!(all(&mut reader), [(Kind::Stdout, b"one".to_vec()), (Kind::Stderr, vec![])]);
        log.append(Kind::Stdout, b"two");
        assert_eq!(all(&mut reader), [(Kind::Stdout, b"two".to_vec())]);
    }

    #[test]
    fn the_log_is_bounded_and_a_reader_survives_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path());
        let mut reader = log.reader();
        let line = vec![7; stream::PAYLOAD_MAX];
        let mut seen = 0_u64;
        for round in 0..1200_u64 {
            log.append(Kind::Stdout, &line);
            if round % 64 == 0 {
                seen += all(&mut reader).len() as u64;
            }
        }
        seen += all(&mut reader).len() as u64;
        assert_eq!(seen, 1200);
        let size: u64 =
            fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 2 * (FILE_MAX + (stream::PAYLOAD_MAX as u64) * 2), "{size}");
        assert!(all(&mut log.reader()).len() > 256);
    }
}
