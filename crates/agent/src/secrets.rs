//! Secrets: a file for each in a file system of their own, in the guest's memory, from where a container sees them one
//! by one.
//!
//! Invariants: a value is nowhere else once it is written; the container reaches only what is mounted for it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hull_protocol::agent::{AgentError, AgentErrorKind, MountSource, Secret, Setup};
use hull_protocol::secret::SECRET_MAX;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, open};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::mounts::mount_at;
use crate::setup::failed;

/// Where they are; outside the container's root.
const SECRETS: &str = "/run/hull/secrets";
/// What their file system, and each mount of one, is mounted with.
pub(crate) const TIGHT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The file of a secret.
pub(crate) fn place(number: u32) -> PathBuf {
    Path::new(SECRETS).join(number.to_string())
}

fn named(setup: &Setup) -> impl Iterator<Item = u32> {
    setup.mounts.iter().filter_map(|mount| match mount.source {
        MountSource::Secret(number) => Some(number),
        _ => None,
    })
}

/// Makes room for those that are to come, and no more.
///
/// # Errors
/// When it cannot be mounted.
pub(crate) fn prepare(setup: &Setup) -> Result<(), AgentError> {
    let count = named(setup).count();
    if count == 0 {
        return Ok(());
    }
    let options = format!("mode=700,size={}", count.saturating_mul(SECRET_MAX));
    mount_at(SECRETS, "tmpfs", "tmpfs", TIGHT, &options)
        .map_err(|error| failed("making room for secrets", error))
}

/// Writes a secret to its file.
///
/// # Errors
/// When the setup has none of its number, or it was written before.
pub(crate) fn keep(setup: &Setup, secret: &Secret) -> Result<(), AgentError> {
    if !named(setup).any(|number| number == secret.number) {
        let message = format!("there is no secret {} in the setup", secret.number);
        return Err(AgentError { kind: AgentErrorKind::Invalid, message });
    }
    write(secret).map_err(|error| failed(&format!("keeping the secret {}", secret.number), error))
}

fn write(secret: &Secret) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = match open(place(secret.number), flags, Mode::RUSR) {
        Err(Errno::EXIST) => return Err(io::Error::other("it was given before")),
        opened => File::from(opened?),
    };
    file.write_all(secret.value.reveal())?;
    fchown(&file, Some(Uid::from_raw(secret.uid)), Some(Gid::from_raw(secret.gid)))?;
    Ok(fchmod(&file, Mode::from_raw_mode(secret.mode & 0o777))?)
}
