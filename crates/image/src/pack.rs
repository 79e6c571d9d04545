//! Packing a directory into a tar stream without loss, for the client to import from.
//!
//! Runs on a thread of the client, as the user. Names longer than the header's, large numbers, exact times, extended
//! attributes and sparse maps go into PAX headers (POSIX.1-2017 pax, `SCHILY.xattr`, GNU sparse format 1.0). Invariant:
//! entries come in the order of names, so that the same tree gives the same bytes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read.
    #[error("cannot pack {path}: check that it can be read and does not change meanwhile")]
    Read {
        /// Which.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The stream could not be written.
    #[error("cannot send the packed directory")]
    Write(#[source] io::Error),
}

const BLOCK: u64 = 512;

/// Packs what is in `dir`, with `.` for the directory itself. Sockets are left out: nothing could listen on them.
///
/// # Errors
/// A file cannot be read, changes its size meanwhile, or `out` fails.
pub fn pack_directory(dir: &Path, out: impl Write) -> Result<(), PackError> {
    pack_tree(dir, b".", out)
}

/// Packs what is at `path`, file or directory, under a name of the caller's choice.
pub(crate) fn pack_tree(path: &Path, name: &[u8], out: impl Write) -> Result<(), PackError> {
    let mut packer = Packer { out, links: HashMap::new() };
    let mut todo = vec![(path.to_owned(), name.to_vec())];
    while let Some((path, name)) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).map_err(read(&path))?;
        packer.entry(&path, &name, &metadata)?;
        if metadata.is_dir() {
            let mut names: Vec<OsString> = fs::read_dir(&path)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
                .map_err(read(&path))?;
            names.sort_unstable_by(|a, b| b.cmp(a)); // the last one pushed comes first
            todo.extend(
                names
                    .into_iter()
                    .map(|child| (path.join(&child), [&name, b"/".as_slice(), child.as_bytes()].concat())),
            );
        }
    }
    packer.out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| packer.out.flush()).map_err(PackError::Write)
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::Read { path, source }
}

struct Packer<W> {
    out: W,
    /// Files with several names that have been packed, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// PAX records of one entry.
#[derive(Default)]
struct PaxRecords(Vec<u8>);

impl PaxRecords {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend(length.to_string().bytes());
        self.0.push(b' ');
        self.0.extend(key);
        self.0.push(b'=');
        self.0.extend(value);
        self.0.push(b'\n');
    }
}

impl<W: Write> Packer<W> {
    fn entry(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Result<(), PackError> {
        let file_type = metadata.file_type();
        let mut pax = PaxRecords::default();
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_mode(metadata.mode() & 0o7777);
        let key = (metadata.dev(), metadata.ino());
        if !metadata.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&key).cloned() {
                header.set_entry_type(EntryType::Link);
                set_link(&mut header, &mut pax, &first);
                return self.header(header, pax, (name, metadata));
            }
            self.links.insert(key, name.to_vec());
        }
        for (key, value) in xattrs(path).map_err(read(path))? {
            pax.push(&[b"SCHILY.xattr.", key.as_slice()].concat(), &value);
        }
        if file_type.is_file() {
            return self.file(path, name, (header, pax, metadata));
        }
        if file_type.is_dir() {
            header.set_entry_type(EntryType::Directory);
        } else if file_type.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path).map_err(read(path))?;
            set_link(&mut header, &mut pax, target.as_os_str().as_bytes());
        } else if file_type.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else if file_type.is_char_device() || file_type.is_block_device() {
            let kind = if file_type.is_char_device() { EntryType::Char } else { EntryType::Block };
            header.set_entry_type(kind);
            let device = metadata.rdev();
            header
                .set_device_major(rustix::fs::major(device))
                .and_then(|()| header.set_device_minor(rustix::fs::minor(device)))
                .map_err(read(path))?;
        } else {
            return Ok(());
        }
        self.header(header, pax, (name, metadata))
    }

    fn file(
        &mut self,
        path: &Path,
        name: &[u8],
        (mut header, mut pax, metadata): (Header, PaxRecords, &Metadata),
    ) -> Result<(), PackError> {
        header.set_entry_type(EntryType::Regular);
        let size = metadata.len();
        let mut file = File::open(path).map_err(read(path))?;
        let segments = if metadata.blocks() * 512 < size {
            data_segments(&file, size).map_err(read(path))?
        } else {
            vec![(0, size)]
        };
        let whole = segments == [(0, size)] || size == 0;
        let mut map = Vec::new();
        if !whole {
            pax.push(b"GNU.sparse.major", b"1");
            pax.push(b"GNU.sparse.minor", b"0");
            pax.push(b"GNU.sparse.name", name);
            pax.push(b"GNU.sparse.realsize", size.to_string().as_bytes());
            map.extend(format!("{}\n", segments.len()).bytes());
            map.extend(
                segments.iter().flat_map(|(offset, length)| format!("{offset}\n{length}\n").into_bytes()),
            );
            map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
        }
        let stored = segments.iter().map(|(_, length)| length).sum::<u64>() + map.len() as u64;
        if stored < 1 << 33 {
            header.set_size(stored);
        } else {
            pax.push(b"size", stored.to_string().as_bytes());
        }
        self.header(header, pax, (name, metadata))?;
        self.out.write_all(&map).map_err(PackError::Write)?;
        for (offset, length) in segments {
            file.seek(SeekFrom::Start(offset)).map_err(read(path))?;
            let copied = io::copy(&mut (&mut file).take(length), &mut self.out).map_err(PackError::Write)?;
            if copied != length {
                return Err(read(path)(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it became shorter meanwhile",
                )));
            }
        }
        self.pad(stored)
    }

    fn header(
        &mut self,
        mut header: Header,
        mut pax: PaxRecords,
        (name, metadata): (&[u8], &Metadata),
    ) -> Result<(), PackError> {
        if !fits(&mut header, name) {
            pax.push(b"path", name);
            fits(&mut header, b"long-name");
        }
        for (key, id) in [(b"uid", metadata.uid()), (b"gid", metadata.gid())] {
            let fitting = if id < 1 << 21 { id } else { 0 };
            if fitting != id {
                pax.push(key, id.to_string().as_bytes());
            }
            if key == b"uid" {
                header.set_uid(u64::from(fitting))
            } else {
                header.set_gid(u64::from(fitting))
            }
        }
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        let fitting = u64::try_from(seconds).ok().filter(|seconds| *seconds < 1 << 33);
        header.set_mtime(fitting.unwrap_or_default());
        if nanoseconds != 0 || fitting.is_none() {
            pax.push(b"mtime", decimal_time(seconds, nanoseconds).as_bytes());
        }
        if !pax.0.is_empty() {
            let mut extension = Header::new_ustar();
            fits(&mut extension, b"pax-header");
            extension.set_entry_type(EntryType::XHeader);
            extension.set_mode(0o644);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_mtime(0);
            extension.set_size(pax.0.len() as u64);
            extension.set_cksum();
            self.out
                .write_all(extension.as_bytes())
                .and_then(|()| self.out.write_all(&pax.0))
                .map_err(PackError::Write)?;
            self.pad(pax.0.len() as u64)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(PackError::Write)
    }

    fn pad(&mut self, length: u64) -> Result<(), PackError> {
        let padding = usize::try_from((BLOCK - length % BLOCK) % BLOCK).unwrap_or_default();
        self.out.write_all([0; BLOCK as usize].get(..padding).unwrap_or_default()).map_err(PackError::Write)
    }
}

/// Puts a short name into the header; says whether it was short enough.
fn fits(header: &mut Header, name: &[u8]) -> bool {
    let Some(field) = header.as_ustar_mut().and_then(|ustar| ustar.name.get_mut(..name.len())) else {
        return false;
    };
    field.copy_from_slice(name);
    true
}

fn set_link(header: &mut Header, pax: &mut PaxRecords, target: &[u8]) {
    if header.set_link_name_literal(target).is_err() {
        pax.push(b"linkpath", target);
    }
}

/// Seconds and nanoseconds after them as a decimal number; before 1970 the fraction counts the other way.
fn decimal_time(seconds: i64, nanoseconds: i64) -> String {
    if seconds < 0 && nanoseconds > 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        format!("{seconds}.{nanoseconds:09}")
    }
}

/// Runs of data in a file with holes. A file system that cannot tell says that all of it is data.
fn data_segments(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?.min(size);
        if start < end {
            segments.push((start, end - start));
        }
        at = end.max(start + 1);
    }
    Ok(segments)
}

/// All extended attributes that the user may read. What is not supported or permitted is as if it were not there.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use rustix::io::Errno;
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in
        list.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty())
    {
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()) {
            Ok(length) => found.push((name.to_vec(), value.get(..length).unwrap_or_default().to_vec())),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}
