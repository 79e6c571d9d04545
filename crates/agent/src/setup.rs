//! The root of the container: the image, the writable disk, volumes and the files that name the guest; and their end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hull_protocol::agent::{AgentError, AgentErrorKind, DATA_SERIAL, IMAGE_SERIAL, Setup};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::RebootCommand;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::interfaces;
use crate::kmsg::log;
use crate::mounts::{Root, bind, mount_at};
use crate::volumes::{self, VOLUMES};

const IMAGE: &str = "/run/hull/image";
const DATA: &str = "/run/hull/data";
const ROOT: &str = "/run/hull/root";
/// Files that are mounted over the image's own.
const FILES: &str = "/run/hull/files";
/// Their names, in `/etc`.
pub(crate) const NAME_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// How often a disk is looked for, and how long to wait in between: drivers may probe in the background.
const DISK_TRIES: u32 = 500;
const DISK_PAUSE: Duration = Duration::from_millis(2);

/// What went wrong in the guest, for the host.
pub(crate) fn failed(what: &str, error: impl std::fmt::Display) -> AgentError {
    AgentError { kind: AgentErrorKind::Failed, message: format!("{what}: {error}") }
}

/// Sets clock, names and network cards and joins image and disk; returns the container's root.
///
/// # Errors
/// When a disk or a card is missing, or cannot be mounted or set up.
pub fn run(setup: &Setup) -> Result<PathBuf, AgentError> {
    if let Err(error) = set_clock(setup.time_unix_ns) {
        log(&format!("the clock was not set: {error}"));
    }
    if let Err(error) = rustix::system::sethostname(setup.hostname.as_bytes()) {
        return Err(failed("setting the host name", error));
    }
    interfaces::configure(&setup.interfaces)?;
    mount_root(setup).map_err(|error| failed("mounting the container's root", error))?;
    // Before anything is mounted in the root: what the image has is what goes into an empty volume.
    volumes::attach(setup, Path::new(ROOT))?;
    name_files(setup).map_err(|error| failed("writing /etc/hosts and its like", error))?;
    Ok(ROOT.into())
}

/// Sets the guest's clock, nanoseconds since the Unix epoch.
pub(crate) fn set_clock(unix_ns: u64) -> io::Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let time =
        Timespec { tv_sec: (unix_ns / SECOND).cast_signed(), tv_nsec: (unix_ns % SECOND).cast_signed() };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn mount_root(setup: &Setup) -> io::Result<()> {
    mount_at(IMAGE, &disk(IMAGE_SERIAL)?, "erofs", MountFlags::RDONLY, "")?;
    if setup.data_disk {
        mount_at(DATA, &disk(DATA_SERIAL)?, "ext4", MountFlags::NOATIME, "")?;
    } else {
        mount_at(DATA, "tmpfs", "tmpfs", MountFlags::empty(), "mode=755")?;
    }
    let (upper, work) = (format!("{DATA}/upper"), format!("{DATA}/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    copy_root_attributes(Path::new(IMAGE), Path::new(&upper))?;
    let options = format!("lowerdir={IMAGE},upperdir={upper},workdir={work},index=off,metacopy=off");
    mount_at(ROOT, "overlay", "overlay", MountFlags::empty(), &options)
}

/// The upper layer's directory is what a container sees as `/`.
fn copy_root_attributes(image: &Path, upper: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let root = fs::metadata(image)?;
    chown(upper, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(upper, root.permissions())
}

/// The device with an id.
pub(crate) fn disk(serial: &str) -> io::Result<String> {
    for _ in 0..DISK_TRIES {
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            if found.trim() == serial {
                return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        thread::sleep(DISK_PAUSE);
    }
    Err(io::Error::other(format!("there is no disk with id {serial}")))
}

fn name_files(setup: &Setup) -> io::Result<()> {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if setup.hosts.is_empty() {
        // Programs look their own name up; without a network it is this machine.
        hosts += &format!("127.0.1.1\t{}\n", setup.hostname);
    }
    for (address, name) in &setup.hosts {
        hosts += &format!("{address}\t{name}\n");
    }
    let resolv_conf: String = setup.resolv_conf.iter().map(|line| format!("{line}\n")).collect();
    fs::create_dir_all(FILES)?;
    for (name, content) in NAME_FILES.into_iter().zip([hosts, format!("{}\n", setup.hostname), resolv_conf]) {
        fs::write(Path::new(FILES).join(name), content)?;
    }
    bind_name_files(&Root::open(Path::new(ROOT))?)
}

/// Mounts the files that name the guest over those in a root.
pub(crate) fn bind_name_files(root: &Root) -> io::Result<()> {
    for name in NAME_FILES {
        bind(&Path::new(FILES).join(name), &root.file("/etc", name)?)?;
    }
    Ok(())
}

/// Lets go of the disks and turns the guest off. The container's processes have ended by now.
pub fn shut_down() {
    // With all that is mounted inside it, wherever the image's links led that to.
    release(ROOT, UnmountFlags::DETACH);
    for volume in fs::read_dir(VOLUMES).into_iter().flatten().flatten() {
        let_go(&volume.path().to_string_lossy());
    }
    let_go(DATA);
    release(IMAGE, UnmountFlags::empty());
    power_off();
}

/// Unmounts a disk that was written to. Where something still writes, it may not any more: what it wrote is whole.
fn let_go(place: &str) {
    if !release(place, UnmountFlags::empty())
        && let Err(error) = mount_remount(place, MountFlags::RDONLY, c"")
    {
        log(&format!("{place} stays writable: {error}"));
    }
}

/// Unmounts; true when nothing is mounted there any more.
fn release(place: &str, flags: UnmountFlags) -> bool {
    match unmount(place, flags) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => true,
        Err(error) => {
            log(&format!("{place} stays mounted: {error}"));
            false
        }
    }
}

/// Turns the guest off; comes back only when the kernel refuses.
pub fn power_off() {
    rustix::fs::sync();
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        log(&format!("cannot power off: {error}"));
    }
}
