//! What a container sees besides its root: volumes, memory, secrets, copies of the host's files.
//!
//! Runs in the container's new mounts, before its root is entered. Invariant: a target is resolved inside the root and
//! mounted on by descriptor, as in [`crate::mounts`].

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use hull_protocol::agent::{AgentError, Mount, MountSource};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::kmsg::log;
use crate::mounts::{Root, bind, by_descriptor, make_read_only};
use crate::secrets;
use crate::setup::{bind_name_files, failed};
use crate::volumes::{COPIES, content};

/// Mounts all, in their order.
///
/// # Errors
/// When one cannot be.
pub(crate) fn mount_all(root: &Path, mounts: &[Mount]) -> Result<(), AgentError> {
    let root = Root::open(root).map_err(|error| failed("opening the root", error))?;
    for mount in mounts {
        mount_one(&root, mount).map_err(|error| failed(&format!("mounting {}", mount.target), error))?;
        // What is mounted there hides them; a mount on one of them comes later and wins.
        if mount.target == "/etc"
            && let Err(error) = bind_name_files(&root)
        {
            log(&format!("/etc has its own hosts, hostname and resolv.conf: {error}"));
        }
    }
    Ok(())
}

fn mount_one(root: &Root, mount: &Mount) -> io::Result<()> {
    let target = mount.target.as_str();
    match &mount.source {
        MountSource::Tmpfs { size, mode, exec } => tmpfs(root, target, (*size, *mode, *exec)),
        MountSource::Volume { serial, read_only, .. } => {
            let (source, place) = (content(serial)?, root.directory(target)?);
            bind(Path::new(&by_descriptor(&source)), &place)?;
            if *read_only {
                let mounted = root.existing(target)?;
                make_read_only(by_descriptor(&mounted), MountFlags::NODEV)?;
            }
            Ok(())
        }
        MountSource::Copy(number) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = open(Path::new(COPIES).join(number.to_string()), flags, Mode::empty())?;
            let place = match FileType::from_raw_mode(fstat(&source)?.st_mode) {
                FileType::Directory => root.directory(target)?,
                _ => file(root, target)?,
            };
            // Read-only as the disk it is on.
            bind(Path::new(&by_descriptor(&source)), &place)
        }
        MountSource::Secret(number) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = match open(secrets::place(*number), flags, Mode::empty()) {
                Err(Errno::NOENT) => return Err(io::Error::other("the secret's value was not given")),
                opened => opened?,
            };
            bind(Path::new(&by_descriptor(&source)), &file(root, target)?)?;
            let mounted = root.existing(target)?;
            make_read_only(by_descriptor(&mounted), secrets::TIGHT)
        }
    }
}

/// The file at a target, to mount on.
fn file(root: &Root, target: &str) -> io::Result<OwnedFd> {
    let (directory, name) = target.rsplit_once('/').unwrap_or(("", target));
    root.file(directory, name)
}

fn tmpfs(root: &Root, target: &str, (size, mode, exec): (Option<u64>, u32, bool)) -> io::Result<()> {
    let place = root.directory(target)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, !exec);
    let size = size.map_or_else(String::new, |size| format!(",size={size}"));
    let options = CString::new(format!("mode={:o}{size}", mode & 0o7777))?;
    Ok(mount("tmpfs", by_descriptor(&place), "tmpfs", flags, Some(options.as_c_str()))?)
}
