//! A tar stream as files below one directory.
//!
//! Invariants: every entry's parent is reached from the directory's descriptor without `..` and without a link
//! (openat2(2), `RESOLVE_BENEATH`), and what is made in it is named by one component that is not followed; a directory
//! is not replaced by a file nor a file by a directory; of directories that were there before nothing is changed.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat, chownat,
    fchmod, fchown, fstat, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::entry::{Entries, Entry, Kind};
use crate::{ArchiveError, DEPTH_MAX, shown};

/// The most new directories whose attributes wait until all is in them; those of more are set at once.
const WAITING_MAX: usize = 65_536;

/// How a stream is written.
#[derive(Clone, Debug)]
pub struct Unpack {
    /// With the users and groups it names; else everything belongs to whom it is written by.
    pub keep_owner: bool,
    /// Whether devices are made; else they are left out.
    pub devices: bool,
    /// The permission bits that are kept.
    pub mode: u32,
    /// The one name at the top that entries may have; none for any.
    pub only: Option<Vec<u8>>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries that were written.
    pub written: u64,
    /// Devices that were left out.
    pub left_out: u64,
}

struct Writer<'a> {
    how: &'a Unpack,
    root: &'a OwnedFd,
    /// The last entry's parent, which is most often the next one's.
    parent: Option<(Vec<u8>, OwnedFd)>,
    waiting: Vec<(OwnedPath, Entry)>,
}

type OwnedPath = Vec<u8>;

fn file(path: &[u8], what: &'static str) -> impl Fn(Errno) -> ArchiveError {
    let path = shown(path);
    move |error| match error {
        Errno::LOOP => ArchiveError::InTheWay {
            path: path.clone(),
            why: "a symbolic link is in the way: nothing is written through it",
        },
        Errno::NOTDIR => {
            ArchiveError::InTheWay { path: path.clone(), why: "a file is where a directory is to be" }
        }
        error => ArchiveError::File { path: path.clone(), what, source: error.into() },
    }
}

impl Unpack {
    /// Writes a stream below an opened directory, to its end.
    ///
    /// # Errors
    /// At the first entry that cannot be written; what was before it stays.
    pub fn run(&self, directory: &OwnedFd, stream: impl Read) -> Result<Unpacked, ArchiveError> {
        let mut entries = Entries::new(stream);
        let mut writer = Writer { how: self, root: directory, parent: None, waiting: Vec::new() };
        let mut sum = Unpacked::default();
        while let Some(entry) = entries.next_entry()? {
            let device = matches!(entry.kind, Kind::CharacterDevice | Kind::BlockDevice);
            if device && !self.devices {
                sum.left_out = sum.left_out.saturating_add(1);
                continue;
            }
            writer.write(entry, &mut entries)?;
            sum.written = sum.written.saturating_add(1);
        }
        entries.finish()?;
        writer.settle()?;
        Ok(sum)
    }

    /// The components of a path; an error for one that leads elsewhere.
    fn components<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ArchiveError> {
        let outside = || ArchiveError::Outside(shown(path));
        let parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.len() > DEPTH_MAX || parts.iter().any(|part| *part == b".." || part.contains(&0)) {
            return Err(outside());
        }
        match &self.only {
            Some(only) if only != b"." && parts.first() != Some(&only.as_slice()) => Err(outside()),
            _ => Ok(parts),
        }
    }
}

impl Writer<'_> {
    fn write<R: Read>(&mut self, entry: Entry, entries: &mut Entries<R>) -> Result<(), ArchiveError> {
        let parts = self.how.components(&entry.path)?;
        // The directory itself is there already.
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let path = parts.join(&b'/');
        self.enter(above)?;
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let there = match statat(parent, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(file(&path, "looking at it")(error)),
        };
        let in_the_way = |why| Err(ArchiveError::InTheWay { path: shown(&path), why });
        match (entry.kind, there) {
            (Kind::Directory, Some(FileType::Directory)) => Ok(()),
            (Kind::Directory, Some(_)) => in_the_way("a file is where a directory is to be"),
            (_, Some(FileType::Directory)) => in_the_way("a directory is where a file is to be"),
            (Kind::Directory, None) => {
                let name = name.to_vec();
                self.directory(&name, path, entry.clone())
            }
            (kind, there) => {
                if there.is_some() {
                    unlinkat(parent, *name, AtFlags::empty()).map_err(file(&path, "replacing it"))?;
                }
                match kind {
                    Kind::File => self.file(name, &path, &entry, &mut entries.content()),
                    Kind::Symlink => self.symlink(name, &path, &entry),
                    Kind::HardLink => self.hard_link(name, &path, &entry),
                    _ => self.node(name, &path, &entry),
                }
            }
        }
    }

    /// Makes the directory at `parts` the parent of what comes next; it is made where it is missing.
    fn enter(&mut self, parts: &[&[u8]]) -> Result<(), ArchiveError> {
        let wanted = parts.join(&b'/');
        if self.parent.as_ref().is_some_and(|(known, _)| *known == wanted) {
            return Ok(());
        }
        let found = match self.open(&wanted) {
            Err(Errno::NOENT) => self.make(parts)?,
            found => found.map_err(file(&wanted, "entering it"))?,
        };
        self.parent = Some((wanted, found));
        Ok(())
    }

    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(self.root, path, flags, Mode::empty(), within)
    }

    fn make(&self, parts: &[&[u8]]) -> Result<OwnedFd, ArchiveError> {
        let mut so_far = Vec::new();
        let mut here = self.open(b"").map_err(file(b".", "entering it"))?;
        for part in parts {
            so_far.extend_from_slice(part);
            match mkdirat(&here, *part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(file(&so_far, "making it")(error)),
            }
            here = self.open(&so_far).map_err(file(&so_far, "entering it"))?;
            so_far.push(b'/');
        }
        Ok(here)
    }

    fn parent(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(self.root, |(_, parent)| parent)
    }

    fn directory(&mut self, name: &[u8], path: OwnedPath, entry: Entry) -> Result<(), ArchiveError> {
        mkdirat(self.parent(), name, Mode::from_raw_mode(0o700)).map_err(file(&path, "making it"))?;
        if self.waiting.len() >= WAITING_MAX {
            return self.settle_directory(&path, &entry);
        }
        self.waiting.push((path, entry));
        Ok(())
    }

    fn file(
        &self,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
        content: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = openat(self.parent(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(file(path, "making it"))?;
        let mut made = std::fs::File::from(made);
        let mut chunk = [0; 64 << 10];
        loop {
            let length = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::Stream(error)),
            };
            made.write_all(chunk.get(..length).unwrap_or_default()).map_err(|source| ArchiveError::File {
                path: shown(path),
                what: "writing it",
                source,
            })?;
        }
        self.set(&made, path, entry)
    }

    /// Owner, mode and time of something that was opened for itself. The owner first: it takes bits of the mode away.
    fn set(&self, made: impl AsFd, path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let made = made.as_fd();
        if self.how.keep_owner {
            let (uid, gid) = owner(entry);
            fchown(made, uid, gid).map_err(file(path, "changing its owner"))?;
        }
        let mode = Mode::from_raw_mode(entry.mode & self.how.mode);
        fchmod(made, mode).map_err(file(path, "changing its mode"))?;
        futimens(made, &times(entry)).map_err(file(path, "setting its time"))
    }

    fn symlink(&self, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let parent = self.parent();
        symlinkat(entry.target.as_slice(), parent, name).map_err(file(path, "making the link"))?;
        self.set_unopened(name, path, entry)
    }

    /// Owner and time of what cannot be opened for itself.
    fn set_unopened(&self, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let parent = self.parent();
        if self.how.keep_owner {
            let (uid, gid) = owner(entry);
            chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(file(path, "changing its owner"))?;
        }
        utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(file(path, "setting its time"))
    }

    fn hard_link(&mut self, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let parts = self.how.components(&entry.target)?;
        let Some((target, above)) = parts.split_last() else {
            return Err(ArchiveError::Outside(shown(&entry.target)));
        };
        let from = self.open(&above.join(&b'/')).map_err(file(&entry.target, "finding the link's file"))?;
        linkat(&from, *target, self.parent(), name, AtFlags::empty()).map_err(file(path, "making the link"))
    }

    fn node(&self, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let (kind, device) = match entry.kind {
            Kind::CharacterDevice => (FileType::CharacterDevice, makedev(entry.device.0, entry.device.1)),
            Kind::BlockDevice => (FileType::BlockDevice, makedev(entry.device.0, entry.device.1)),
            _ => (FileType::Fifo, 0),
        };
        mknodat(self.parent(), name, kind, Mode::from_raw_mode(0o600), device)
            .map_err(file(path, "making it"))?;
        self.set_unopened(name, path, entry)?;
        // A mode is set through a descriptor that stands for what was just made, or for nothing.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            openat(self.parent(), name, flags, Mode::empty()).map_err(file(path, "finding it again"))?;
        let found = fstat(&made).map_err(file(path, "looking at it"))?;
        if FileType::from_raw_mode(found.st_mode) == kind {
            let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
            let mode = Mode::from_raw_mode(entry.mode & self.how.mode);
            chmodat(CWD, itself, mode, AtFlags::empty()).map_err(file(path, "changing its mode"))?;
        }
        Ok(())
    }

    /// The attributes of new directories, the inner ones first.
    fn settle(&mut self) -> Result<(), ArchiveError> {
        for (path, entry) in std::mem::take(&mut self.waiting).into_iter().rev() {
            self.settle_directory(&path, &entry)?;
        }
        Ok(())
    }

    fn settle_directory(&self, path: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(self.root, path, flags, Mode::empty(), within) {
            Ok(made) => self.set(&made, path, entry),
            // Somebody has taken it away since.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(file(path, "finding it again")(error)),
        }
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // The greatest number means to leave it as it is.
    let known = |id: u32| Some(id).filter(|id| *id != u32::MAX);
    (known(entry.uid).map(Uid::from_raw), known(entry.gid).map(Gid::from_raw))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests;
