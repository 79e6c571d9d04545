//! A new root directory, pivot_root(2).

use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

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
    enter_here()
}

/// Makes an empty directory that nobody can write to the root of this mount namespace.
///
/// # Errors
/// When the kernel refuses; it is older than Linux 5.2, or was started from its initial RAM disk and has no other
/// root.
pub fn enter_empty() -> rustix::io::Result<()> {
    let empty = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&empty, "nr_inodes", "1")?;
    fsconfig_set_string(&empty, "mode", "0555")?;
    fsconfig_set_flag(&empty, "ro")?;
    fsconfig_create(&empty)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&empty, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Over the root, which is the one directory that is sure to be there.
    move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&mount)?;
    enter_here()
}

/// Makes the working directory, a mount, the root.
fn enter_here() -> rustix::io::Result<()> {
    // The old root ends up stacked over the new one, and goes with the unmount: no directory is needed for it.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
