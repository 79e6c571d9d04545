//! A tree as a tar stream.
//!
//! Invariants: everything is opened once, by its parent's descriptor and without following a link, and only then looked
//! at; a file that changes while it is read has the length in the archive that its header says; a second mount of the
//! kernel's own file systems is not entered.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, major, minor, openat, readlinkat};
use tar::{EntryType, Header};

use crate::{ArchiveError, DEPTH_MAX, PATH_MAX, shown};

const BLOCK: u64 = 512;
/// The most files with several names whose first is remembered; of more, each name gets the content.
const LINKS_MAX: usize = 65_536;
/// The kernel's own file systems, which say things of the machine and have no end: proc, sysfs, devpts, control groups
/// (both versions), message queues, debugfs, tracefs, securityfs, BPF.
const KERNELS_OWN: [i64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x27_e0eb,
    0x6367_7270,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// Writes what an opened path (`O_PATH`) stands for, and all below it, as an archive in which it is called `name`.
///
/// # Errors
/// When something cannot be read, or the stream takes no more.
pub fn pack(opened: &OwnedFd, name: &[u8], output: impl Write) -> Result<(), ArchiveError> {
    let mut packer = Packer { output, links: HashMap::new() };
    let stat = fstat(opened).map_err(|error| file(name, "looking at it", error))?;
    packer.object(opened, name, &stat, 0)?;
    packer.output.write_all(&[0; 2 * BLOCK as usize]).map_err(ArchiveError::Stream)?;
    packer.output.flush().map_err(ArchiveError::Stream)
}

struct Packer<W> {
    output: W,
    /// The first name of files that have several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

fn file(path: &[u8], what: &'static str, error: rustix::io::Errno) -> ArchiveError {
    ArchiveError::File { path: shown(path), what, source: error.into() }
}

/// A descriptor opened for a path, opened again for its content: this very file.
fn reopen(opened: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    openat(CWD, path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

impl<W: Write> Packer<W> {
    fn object(
        &mut self,
        opened: &OwnedFd,
        path: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> Result<(), ArchiveError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                let mut name = path.to_vec();
                if !name.ends_with(b"/") {
                    name.push(b'/');
                }
                self.header(EntryType::Directory, &name, stat, &[])?;
                self.below(opened, path, stat, depth)
            }
            FileType::RegularFile => self.regular(opened, path, stat),
            FileType::Symlink => {
                let target = readlinkat(opened, "", Vec::new())
                    .map_err(|error| file(path, "reading the link", error))?;
                self.header(EntryType::Symlink, path, stat, target.as_bytes())
            }
            FileType::CharacterDevice => self.header(EntryType::Char, path, stat, &[]),
            FileType::BlockDevice => self.header(EntryType::Block, path, stat, &[]),
            FileType::Fifo => self.header(EntryType::Fifo, path, stat, &[]),
            // A socket means nothing without the process that has it.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn below(
        &mut self,
        opened: &OwnedFd,
        path: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> Result<(), ArchiveError> {
        if depth >= DEPTH_MAX {
            let why = "more directories are inside each other than can be copied";
            return Err(ArchiveError::InTheWay { path: shown(path), why });
        }
        let cannot = |error| file(path, "reading the directory", error);
        let directory = reopen(opened, OFlags::RDONLY | OFlags::DIRECTORY).map_err(cannot)?;
        for entry in Dir::read_from(&directory).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = match openat(&directory, entry.file_name(), flags, Mode::empty()) {
                // It has gone since.
                Err(rustix::io::Errno::NOENT) => continue,
                child => child.map_err(cannot)?,
            };
            let child_path =
                if path.ends_with(b"/") { [path, name].concat() } else { [path, b"/", name].concat() };
            if child_path.len() > PATH_MAX {
                let why = "the path is longer than Linux can have it";
                return Err(ArchiveError::InTheWay { path: shown(&child_path), why });
            }
            let child_stat = fstat(&child).map_err(|error| file(&child_path, "looking at it", error))?;
            if child_stat.st_dev != stat.st_dev && is_kernels_own(&child) {
                continue;
            }
            self.object(&child, &child_path, &child_stat, depth.saturating_add(1))?;
        }
        Ok(())
    }

    fn regular(&mut self, opened: &OwnedFd, path: &[u8], stat: &Stat) -> Result<(), ArchiveError> {
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                let first = first.clone();
                return self.header(EntryType::Link, path, stat, &first);
            }
            if self.links.len() < LINKS_MAX {
                self.links.insert(key, path.to_vec());
            }
        }
        let source = reopen(opened, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|error| file(path, "opening it", error))?;
        self.header(EntryType::Regular, path, stat, &[])?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut content = std::fs::File::from(source).take(size);
        let mut chunk = [0; 64 << 10];
        let mut copied = 0_u64;
        loop {
            let length = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(ArchiveError::File { path: shown(path), what: "reading it", source });
                }
            };
            self.output.write_all(chunk.get(..length).unwrap_or_default()).map_err(ArchiveError::Stream)?;
            copied = copied.saturating_add(length as u64);
        }
        // One that has become shorter meanwhile ends in zeros.
        self.zeros(size.saturating_sub(copied))?;
        self.zeros(padding(size))
    }

    fn zeros(&mut self, count: u64) -> Result<(), ArchiveError> {
        io::copy(&mut io::repeat(0).take(count), &mut self.output).map(drop).map_err(ArchiveError::Stream)
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &[u8],
        stat: &Stat,
        target: &[u8],
    ) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        let size = if kind == EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        header.set_size(size);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let set = header
                .set_device_major(major(stat.st_rdev))
                .and_then(|()| header.set_device_minor(minor(stat.st_rdev)));
            set.map_err(|source| ArchiveError::File {
                path: shown(path),
                what: "naming the device",
                source,
            })?;
        }
        self.long(b'K', target, 100)?;
        self.long(b'L', path, 100)?;
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, path);
            fill(&mut gnu.linkname, target);
        }
        header.set_cksum();
        self.output.write_all(header.as_bytes()).map_err(ArchiveError::Stream)
    }

    /// A name that does not fit into the header goes before it.
    fn long(&mut self, kind: u8, name: &[u8], fits: usize) -> Result<(), ArchiveError> {
        if name.len() <= fits {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = name.len() as u64 + 1;
        header.set_size(size);
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, b"././@LongLink");
        }
        header.set_cksum();
        let stream = ArchiveError::Stream;
        self.output.write_all(header.as_bytes()).map_err(stream)?;
        self.output.write_all(name).map_err(stream)?;
        self.zeros(1 + padding(size))
    }
}

fn padding(size: u64) -> u64 {
    BLOCK.wrapping_sub(size % BLOCK) % BLOCK
}

/// As much of a name as there is room for.
fn fill(room: &mut [u8], name: &[u8]) {
    room.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
}

fn is_kernels_own(opened: impl AsFd) -> bool {
    fstatfs(opened).is_ok_and(|found| KERNELS_OWN.contains(&found.f_type))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn the_kernels_own_file_systems_are_known() {
        let own = |path: &str| is_kernels_own(std::fs::File::open(path).unwrap());
        assert!(own("/proc") && own("/sys"));
        assert!(!own("/"));
    }
}
