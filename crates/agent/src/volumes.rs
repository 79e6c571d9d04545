//! Volumes: their file systems in the guest, which the agent mounts, fills and grows.
//!
//! The file system of each is at [`VOLUMES`]`/SERIAL`, what a container sees of it in its directory `data`: the root of
//! an ext4 has things of its own. Invariants: `data` is there whole or not at all; what an earlier guest has left on
//! a disk leads nowhere else, because no link is followed to it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hull_archive::{Unpack, pack};
use hull_protocol::agent::{
    AgentError, AgentErrorKind, COPIES_SERIAL, Mount, MountSource, Setup, VolumeDisk,
};
use rustix::fs::{
    Dir, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fstatvfs, open, openat, syncfs,
};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::kmsg::log;
use crate::mounts::{Root, mount_at};
use crate::setup::{disk, failed};

/// Where the file systems are.
pub(crate) const VOLUMES: &str = "/run/hull/volumes";
/// Where copies of the host's files are.
pub(crate) const COPIES: &str = "/run/hull/copies";
/// What is shown of a volume that nobody has written to, and that cannot be.
const EMPTY: &str = "/run/hull/empty";
const DATA: &str = "data";
/// Where a volume's first content is put together.
const DRAFT: &str = "draft";
/// How often a disk that grows is looked at, and how long to wait in between.
const GROW_TRIES: u32 = 500;
const GROW_PAUSE: Duration = Duration::from_millis(20);

/// Mounts the disks, and fills volumes that are empty with what the image has where they go.
///
/// # Errors
/// When one is missing, damaged, or too small for what goes into it.
pub(crate) fn attach(setup: &Setup, root: &Path) -> Result<(), AgentError> {
    if setup.mounts.iter().any(|mount| matches!(mount.source, MountSource::Copy(_))) {
        let flags = MountFlags::RDONLY | MountFlags::NODEV;
        disk(COPIES_SERIAL)
            .and_then(|disk| mount_at(COPIES, &disk, "erofs", flags, ""))
            .map_err(|error| failed("mounting the copies of the host's files", error))?;
    }
    if setup.volumes.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(EMPTY).map_err(|error| failed("making a directory", error))?;
    let root = Root::open(root).map_err(|error| failed("opening the root", error))?;
    for volume in &setup.volumes {
        let place = Path::new(VOLUMES).join(&volume.serial);
        mount(volume, &place)
            .map_err(|error| failed(&format!("mounting the volume {}", volume.name), error))?;
        if !volume.read_only {
            let image = setup.mounts.iter().find_map(|mount| source(&root, mount, &volume.serial));
            fill(&place, image.as_ref())
                .map_err(|error| failed(&format!("filling the volume {}", volume.name), error))?;
        }
    }
    Ok(())
}

fn mount(volume: &VolumeDisk, place: &Path) -> io::Result<()> {
    let device = disk(&volume.serial)?;
    let mut flags = MountFlags::NODEV | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, volume.read_only);
    fs::create_dir_all(place)?;
    match rustix::mount::mount(&device, place, "ext4", flags, None) {
        Ok(()) => {}
        // Its journal would have to be replayed.
        Err(Errno::ROFS) if volume.read_only => {
            return Err(io::Error::other(
                "it was left in the middle of a write: attach it writable once, and it is whole again",
            ));
        }
        Err(Errno::INVAL | Errno::BADMSG | Errno::UCLEAN) => {
            return Err(io::Error::other("its file system is damaged: it is no ext4 that can be mounted"));
        }
        Err(error) => return Err(error.into()),
    }
    // It may have been made larger while nobody had it.
    if !volume.read_only
        && let Err(error) = grow_to_disk(&device, place)
    {
        log(&format!("the file system of the volume {} stays as large as it was: {error}", volume.name));
    }
    Ok(())
}

/// What the image has where this volume goes, if the mount is of it and wants that copied.
fn source(root: &Root, mount: &Mount, volume: &str) -> Option<OwnedFd> {
    match &mount.source {
        MountSource::Volume { serial, copy: true, .. } if serial == volume => {
            let found = root.existing(&mount.target).ok()?;
            let stat = fstat(&found).ok()?;
            (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(found)
        }
        _ => None,
    }
}

/// Makes a volume's content where there is none: a copy of what the image has, with its owner and permissions.
fn fill(place: &Path, image: Option<&OwnedFd>) -> io::Result<()> {
    let (data, draft) = (place.join(DATA), place.join(DRAFT));
    if has_entries(&data)? {
        return Ok(());
    }
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let Some(image) = image else {
        return match fs::create_dir(&data) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    };
    fs::create_dir(&draft)?;
    let filled = open(&draft, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|opened| {
            copy(image, &opened)?;
            // What is in it before its name.
            Ok(syncfs(&opened)?)
        });
    if let Err(error) = filled {
        let _as_it_was = fs::remove_dir_all(&draft);
        return Err(error);
    }
    // An empty directory may be there, and is replaced.
    fs::rename(&draft, &data)
}

/// Whether a directory is there and has something in it.
fn has_entries(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        opened => opened?,
    };
    for entry in Dir::read_from(&opened)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies a directory with all that is in it.
fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    thread::scope(|scope| {
        let packing = scope.spawn(|| pack(from, b".", io::BufWriter::new(writer)));
        let how = Unpack { keep_owner: true, devices: true, mode: 0o7777, only: None };
        // Taken along, so that who packs is not kept waiting when this fails.
        let unpacked = how.run(to, io::BufReader::new(reader)).map_err(io::Error::other);
        let packed = packing.join().unwrap_or(Ok(())).map_err(io::Error::other);
        unpacked.and(packed)
    })?;
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    Ok(fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
}

/// What a container sees of a volume.
pub(crate) fn content(serial: &str) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = open(Path::new(VOLUMES).join(serial), directory, Mode::empty())?;
    match openat(&place, DATA, directory | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::NOENT) => Ok(open(EMPTY, directory, Mode::empty())?),
        opened => Ok(opened?),
    }
}

/// Waits until a volume's disk has its new size, and grows its file system to it.
pub(crate) fn grow(setup: &Setup, serial: &str, size: u64) -> Result<(), AgentError> {
    let known = setup.volumes.iter().find(|volume| volume.serial == serial && !volume.read_only);
    let Some(volume) = known else {
        let message = format!("there is no volume '{}' that can be written", serial.escape_debug());
        return Err(AgentError { kind: AgentErrorKind::Invalid, message });
    };
    let cannot = |error| failed(&format!("growing the volume {}", volume.name), error);
    let device = disk(serial).map_err(cannot)?;
    for _ in 0..GROW_TRIES {
        if disk_size(&device).map_err(cannot)? >= size {
            break;
        }
        thread::sleep(GROW_PAUSE);
    }
    grow_to_disk(&device, &Path::new(VOLUMES).join(serial)).map_err(cannot)
}

/// The size of `/dev/NAME`, in bytes.
fn disk_size(device: &str) -> io::Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let sectors = fs::read_to_string(PathBuf::from("/sys/block").join(name).join("size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors.saturating_mul(512))
}

/// Grows a mounted ext4 to the size of its disk; one that has it stays as it is.
fn grow_to_disk(device: &str, place: &Path) -> io::Result<()> {
    let file_system = File::open(place)?;
    let block = fstatvfs(&file_system)?.f_bsize;
    let blocks = disk_size(device)?.checked_div(block).unwrap_or(0);
    Ok(resize(&file_system, blocks)?)
}

/// `EXT4_IOC_RESIZE_FS`.
#[expect(unsafe_code, reason = "a request of ext4's own has no safe interface")]
fn resize(file_system: &File, blocks: u64) -> rustix::io::Result<()> {
    use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
    const RESIZE: Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: the request reads one u64, the number of blocks, and writes nothing; another file system refuses it.
    unsafe { ioctl(file_system, Setter::<RESIZE, u64>::new(blocks)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn path(path: &Path) -> OwnedFd {
        open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn an_empty_volume_gets_what_the_image_has_and_a_used_one_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
        fs::create_dir_all(image.join("sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(image.join("sub/file"), "of the image").unwrap();
        symlink("/nowhere", image.join("link")).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o1750)).unwrap();
        // What a guest that was killed left of a first copy is not believed.
        fs::create_dir(volume.join(DRAFT)).unwrap();
        fs::write(volume.join(DRAFT).join("half"), "").unwrap();
        fs::create_dir(volume.join(DATA)).unwrap();
        fill(&volume, Some(&path(&image))).unwrap();
        let data = volume.join(DATA);
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "of the image");
        assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o1750);
        assert!(!data.join("half").exists() && !volume.join(DRAFT).exists());
        fs::write(data.join("sub/file"), "of its user").unwrap();
        fill(&volume, Some(&path(&image))).unwrap();
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "of its user");
    }

    #[test]
    fn a_volume_without_an_image_gets_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            fill(dir.path(), None).unwrap();
            assert_eq!(fs::read_dir(dir.path().join(DATA)).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_link_where_the_content_is_to_be_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join(DATA)).unwrap();
        fill(dir.path(), None).unwrap_err();
    }

    #[test]
    fn only_ext4_is_grown() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = resize(&File::open(dir.path()).unwrap(), 1).unwrap_err();
        assert_eq!(error, Errno::NOTTY);
    }
}
