//! What a guest wrote on its serial console: a file that its VMM fills, and readers that follow it.
//!
//! Invariants: of each run [`CONSOLE_MAX`] bytes are kept, and no more are read, whatever a VMM that its guest took over has
//! made of the file; each run has a file of its own, so that nobody takes the bytes of one for another's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hull_protocol::units;

/// What is kept of a run's console.
pub(super) const CONSOLE_MAX: units::Bytes = units::Bytes::mib(1);
/// The most bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The file of a microVM in this directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("console.log")
}

/// Makes the file of a new run. Who follows the last one has it to its end.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// Reads a console from its beginning on.
pub struct Reader {
    path: Arc<Path>,
    current: Option<File>,
    place: u64,
}

impl Reader {
    /// A reader of this file, which need not be there yet.
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self { path, current: None, place: 0 }
    }

    fn file(&mut self) -> io::Result<Option<&File>> {
        if self.current.is_none() {
            match File::open(&self.path) {
                Ok(file) => (self.current, self.place) = (Some(file), 0),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.current.as_ref())
    }

    /// Goes to the last so many lines of what is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        let Some(file) = self.file()? else { return Ok(()) };
        let end = file.metadata()?.len().min(CONSOLE_MAX.get());
        self.place = start_of_last(file, end, lines)?;
        Ok(())
    }

    /// What comes next; none when no more is there for now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let Some(file) = self.file()? else { return Ok(None) };
        let file = file.try_clone()?;
        let left = CONSOLE_MAX.get().saturating_sub(self.place);
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        let length = file.read_at(&mut piece, self.place)?;
        piece.truncate(length);
        self.place = self.place.saturating_add(length as u64);
        Ok((length > 0).then(|| piece.into()))
    }

    /// Whether another run has begun: the file that is read grows no more.
    pub fn is_over(&self) -> bool {
        let of = |found: fs::Metadata| (found.dev(), found.ino());
        let Some(current) = self.current.as_ref().and_then(|file| file.metadata().ok()) else { return false };
        fs::metadata(&self.path).is_ok_and(|newest| of(newest) != of(current))
    }

    /// Goes to the beginning of the newest run's.
    pub fn renew(&mut self) {
        self.current = None;
    }
}

/// Where the last so many lines before `end` begin. Holds one piece.
fn start_of_last(file: &File, end: u64, lines: usize) -> io::Result<u64> {
    if lines == 0 {
        return Ok(end);
    }
    let (mut until, mut found) = (end, 0_usize);
    while until > 0 {
        let from = until.saturating_sub(PIECE as u64);
        let mut piece = vec![0; usize::try_from(until.saturating_sub(from)).unwrap_or(PIECE)];
        file.read_exact_at(&mut piece, from)?;
        for (at, byte) in piece.iter().enumerate().rev() {
            let after = from.saturating_add(at as u64).saturating_add(1);
            // The end of the last line is not the start of one more.
            if *byte == b'\n' && after < end {
                found = found.saturating_add(1);
                if found == lines {
                    return Ok(after);
                }
            }
        }
        until = from;
    }
    Ok(0)
}

/// The last bytes of a file, as text; nothing of one that is not there.
pub(super) fn last_words(path: &Path, most: usize) -> String {
    let read = || {
        let file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(most as u64);
        let mut end = vec![0; most];
        let length = file.read_at(&mut end, start)?;
        end.truncate(length);
        Ok::<_, io::Error>(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::io::Write;

    use super::*;

    fn rest(reader: &mut Reader) -> Vec<u8> {
        std::iter::from_fn(|| reader.next_piece().unwrap()).flatten().collect()
    }

    fn tail(text: &str, lines: usize) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        fs::write(&path, text).unwrap();
        let mut reader = Reader::new(path.into());
        reader.skip_to_last(lines).unwrap();
        String::from_utf8(rest(&mut reader)).unwrap()
    }

    #[test]
    fn a_reader_follows_from_run_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let mut reader = Reader::new(path.as_path().into());
        assert!(rest(&mut reader).is_empty() && !reader.is_over());
        let mut first = create(&path).unwrap();
        first.write_all(b"one").unwrap();
        assert_eq!(rest(&mut reader), b"one");
        let mut second = create(&path).unwrap();
        second.write_all(b"of the next run").unwrap();
        first.write_all(b" and the end").unwrap();
        assert!(reader.is_over());
        assert_eq!(rest(&mut reader), b" and the end");
        reader.renew();
        assert_eq!(rest(&mut reader), b"of the next run");
        fs::remove_file(&path).unwrap();
        assert!(!reader.is_over() && rest(&mut reader).is_empty());
    }

    #[test]
    fn no_more_is_read_than_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let file = create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let mut reader = Reader::new(path.as_path().into());
        assert_eq!(rest(&mut reader).len() as u64, CONSOLE_MAX.get());
        reader.skip_to_last(3).unwrap();
        assert_eq!(last_words(&path, 600).len(), 600);
        assert_eq!(last_words(&dir.path().join("none"), 600), "");
    }

    proptest::proptest! {
        #[test]
        fn the_tail_is_what_is_left_of_the_whole(text in "[a\n]{0,40}", lines in 0..6_usize) {
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            proptest::prop_assert_eq!(tail(&text, lines), all[all.len().saturating_sub(lines)..].concat());
        }
    }

    #[test]
    fn lines_are_counted_across_pieces() {
        let text = format!("{}\nend\n", "x".repeat(3 * PIECE));
        assert_eq!(tail(&text, 1), "end\n");
        assert_eq!(tail(&text, 2), text);
    }
}
