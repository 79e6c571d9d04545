//! Mounts inside a root that an image filled, so that no link in it leads anywhere else.
//!
//! Invariant: a target is resolved with `openat2` inside the root and mounted on by descriptor; nothing is
//! looked up twice.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

/// The most directories one path may name.
const DEPTH_MAX: usize = 256;

/// A root directory, by descriptor.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    fn resolve(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        openat2(
            &self.0,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// A directory, made with its parents where it is missing. Links are followed, inside the root.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.resolve(path, flags) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        if names.len() > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut so_far = String::new();
        let mut here = self.resolve("", flags)?;
        for name in names {
            so_far.push('/');
            so_far.push_str(name);
            here = match self.resolve(&so_far, flags) {
                Err(Errno::NOENT) => {
                    mkdirat(&here, name, Mode::from_raw_mode(0o755))?;
                    self.resolve(&so_far, flags)?
                }
                found => found?,
            };
        }
        Ok(here)
    }

    /// A file to mount on, made where it is missing.
    pub(crate) fn file(&self, directory: &str, name: &str) -> io::Result<OwnedFd> {
        let path = format!("{directory}/{name}");
        match self.resolve(&path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let parent = self.directory(directory)?;
        let parent =
            openat(&parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // A link to nowhere is replaced: there is nothing it could have meant.
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        Ok(self.resolve(&path, OFlags::PATH)?)
    }

    /// Whether a path is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.resolve(path, OFlags::PATH).is_ok()
    }

    /// A path that is there, to mount on.
    pub(crate) fn existing(&self, path: &str) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlags::PATH)?)
    }

    /// Mounts a file system on a directory of the root, made where it is missing. A link in its path is refused:
    /// what comes after, by plain path, must find this very directory.
    pub(crate) fn mount(&self, target: &str, kind: &str, flags: MountFlags, options: &str) -> io::Result<()> {
        let place = self.directory(target)?;
        let relative = target.trim_start_matches('/');
        let straight = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let wanted = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(&self.0, relative, wanted, Mode::empty(), straight) {
            Err(Errno::LOOP) => {
                return Err(io::Error::other(format!(
                    "the image has a link in {target} where a directory is needed"
                )));
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let options = CString::new(options)?;
        Ok(mount(kind, by_descriptor(&place), kind, flags, Some(options.as_c_str()))?)
    }
}

/// The path under which an open descriptor can be mounted on.
pub(crate) fn by_descriptor(descriptor: impl AsFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// Shows `source` at an opened target too.
pub(crate) fn bind(source: &Path, target: &OwnedFd) -> io::Result<()> {
    Ok(mount_bind(source, by_descriptor(target))?)
}

/// Makes what is mounted at a path, and nothing under it, read-only. The mount's other flags become `flags`.
pub(crate) fn make_read_only(path: impl rustix::path::Arg, flags: MountFlags) -> io::Result<()> {
    Ok(mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | flags, c"")?)
}

/// Makes a directory and mounts a file system on it, by plain path.
pub(crate) fn mount_at(
    target: &str,
    source: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    let options = CString::new(options)?;
    mount(source, target, kind, flags, Some(options.as_c_str()))
        .map_err(|error| io::Error::other(format!("mounting {kind} on {target}: {error}")))
}

/// A directory's entry is there, link or not, anywhere.
pub(crate) fn exists(path: &str) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests;
