//! A container's files, as its processes see them.
//!
//! Invariants: every path is resolved inside the root of the container's mounts, whatever its processes have made their
//! own root, and no link leads out of it (openat2(2), `RESOLVE_IN_ROOT`); what was resolved is used by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use hull_archive::ArchiveError;
use hull_jail::namespaces;
use hull_protocol::agent::{AgentError, AgentErrorKind};
use hull_protocol::transfer::{FileKind, FileStat, PATH_MAX};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, readlinkat};
use rustix::io::Errno;

use crate::setup::failed;

/// The root of a container's mounts, by its first process.
pub(crate) fn root(container: &OwnedFd) -> Result<OwnedFd, AgentError> {
    let container = container.try_clone().map_err(|error| failed("finding the container", error))?;
    // A thread that goes there does not come back: it opens the root and ends.
    let visit = move || -> io::Result<OwnedFd> {
        namespaces::join_mounts_alone(container.as_fd())?;
        Ok(open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let visitor = thread::Builder::new().name("root".into()).spawn(visit);
    let root = visitor.and_then(|visitor| visitor.join().unwrap_or_else(|_| Err(Errno::CANCELED.into())));
    root.map_err(|error| failed("entering the container's mounts", error))
}

/// Opens what is at a path, for its name only.
pub(crate) fn resolve(root: &OwnedFd, path: &str, follow: bool) -> Result<OwnedFd, AgentError> {
    let mut flags = OFlags::PATH;
    flags.set(OFlags::NOFOLLOW, !follow);
    open_inside(root, path, flags)
}

/// Opens a directory, for its name only.
pub(crate) fn resolve_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, AgentError> {
    open_inside(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens a path inside a container's root.
pub(crate) fn open_inside(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, AgentError> {
    let invalid = |message: String| AgentError { kind: AgentErrorKind::Invalid, message };
    if path.len() > PATH_MAX {
        return Err(invalid(format!("a path of {} bytes is longer than Linux has any", path.len())));
    }
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, relative, flags | OFlags::CLOEXEC, Mode::empty(), within).map_err(|error| match error {
        Errno::NOENT => AgentError {
            kind: AgentErrorKind::NotFound,
            message: format!("there is no file or directory '{path}' in the container"),
        },
        Errno::NOTDIR => invalid(format!("'{path}' is not a directory")),
        Errno::INVAL => invalid(format!("'{}' is no path", path.escape_debug())),
        error => failed(&format!("opening '{path}'"), io::Error::from(error)),
    })
}

/// What an opened path stands for.
pub(crate) fn stat(opened: &OwnedFd) -> Result<FileStat, AgentError> {
    let found = fstat(opened).map_err(|error| failed("looking at the file", error))?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Special,
    };
    // The kernel's name of it: from the root of the mounts it is in, which are the container's.
    let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let path = readlinkat(CWD, own, Vec::new()).map_err(|error| failed("naming the file", error))?;
    let link_target = match kind {
        FileKind::Link => readlinkat(opened, "", Vec::new()).ok(),
        _ => None,
    };
    Ok(FileStat {
        path: path.to_string_lossy().into_owned(),
        kind,
        mode: found.st_mode & 0o7777,
        size: u64::try_from(found.st_size).unwrap_or(0),
        mtime: found.st_mtime,
        link_target: link_target.map(|target| target.to_string_lossy().into_owned()),
    })
}

/// The name that a path's file has in an archive where nobody says another.
pub(crate) fn archive_name(path: &str, wanted: Option<String>) -> Result<String, AgentError> {
    let last =
        || path.rsplit('/').next().filter(|name| !matches!(*name, "" | "..")).unwrap_or(".").to_owned();
    let name = wanted.unwrap_or_else(last);
    if name.is_empty() || name == ".." || name.len() > 255 || name.contains(['/', '\0']) {
        let message = format!("'{}' is no name for an entry of an archive", name.escape_debug());
        return Err(AgentError { kind: AgentErrorKind::Invalid, message });
    }
    Ok(name)
}

/// Why a copy failed, for the user.
pub(crate) fn copy_error(error: &ArchiveError) -> AgentError {
    let kind = match error {
        ArchiveError::Stream(_) | ArchiveError::File { .. } => AgentErrorKind::Failed,
        ArchiveError::Format(_) | ArchiveError::Outside(_) | ArchiveError::InTheWay { .. } => {
            AgentErrorKind::Invalid
        }
    };
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    AgentError { kind, message: format!("{error}{cause}") }
}
