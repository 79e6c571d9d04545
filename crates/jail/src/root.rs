//! A new root directory, pivot_root(2).

use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{chdir, pivot_root};

/// Keeps mounts that are made from here on from showing anywhere else, and the other way round.
///
/// # Errors
/// When the kernel refuses.
pub fn make_private() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Makes `root`, a mount point, the root of this mount namespace; what was there is gone.
///
/// # Errors
/// When the kernel refuses.
pub fn enter(root: &Path) -> rustix::io::Result<()> {
    chdir(root)?;
    // The old root ends up stacked over the new one, and goes with the unmount: no directory is needed for it.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
