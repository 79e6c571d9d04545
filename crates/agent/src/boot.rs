//! From the kernel's hand-over to a guest that listens: base mounts, modules, vsock.
//!
//! The initial RAM disk holds this program and `/modules/NNN-name.ko` in load order. Its root cannot be pivoted
//! away from, so a tmpfs takes its place first.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use rustix::mount::{MountFlags, mount_move};
use rustix::process::{chdir, chroot};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

use crate::kmsg::log;
use crate::mounts::mount_at;
use crate::server::Listener;

/// Where control groups are.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// Mounts what every later step needs and loads the modules.
///
/// # Errors
/// When the kernel lacks a file system that every container needs.
pub fn prepare() -> io::Result<()> {
    let tight = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at("/base", "tmpfs", "tmpfs", MountFlags::NOSUID, "mode=755")?;
    mount_at("/base/proc", "proc", "proc", tight, "")?;
    mount_at("/base/sys", "sysfs", "sysfs", tight, "")?;
    mount_at("/base/dev", "devtmpfs", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=755")?;
    load_modules(Path::new("/modules"));
    chdir("/base")?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    mount_at("/run", "tmpfs", "tmpfs", tight, "mode=755")?;
    if let Err(error) = mount_at(CGROUPS, "cgroup2", "cgroup2", tight, "") {
        log(&format!("no control groups: {error}"));
    }
    // A link that is down has no address; this one gets 127.0.0.1 and ::1 from the kernel as it goes up.
    setting("/sys/class/net/lo/flags", "0x9");
    // As Docker has it: low ports and echo requests need no privilege in a container.
    setting("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    setting("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    Ok(())
}

/// Writes one of the kernel's settings; one that is missing is no reason to stop.
fn setting(path: &str, value: &str) {
    if let Err(error) = fs::write(path, value) {
        log(&format!("{path} stays as it is: {error}"));
    }
}

/// Loads every module, in order, and gives its memory back.
fn load_modules(directory: &Path) {
    let mut modules: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        let loaded = File::open(&module).and_then(|file| Ok(rustix::system::finit_module(&file, c"", 0)?));
        match loaded {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // What needed it will fail with an error of its own, sent to the host.
            Err(error) => log(&format!("{} was not loaded: {error}", module.display())),
        }
        let _kept = fs::remove_file(&module);
    }
}

/// Listens on a vsock port.
///
/// # Errors
/// When the kernel has no vsock, or no device for it.
pub fn listen(port: u32) -> io::Result<Listener> {
    VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)
        .map(Listener::Vsock)
        .map_err(|error| io::Error::other(format!("listening on vsock port {port}: {error}")))
}

/// Any packet from the guest makes the VMM offer its waiting connections again: one, to a port where nobody
/// listens, says that this guest is ready. Its outcome does not matter, and nothing waits for it.
pub fn tell_host() {
    let hint = || {
        let _refused =
            VsockStream::connect_with_cid_port(VMADDR_CID_HOST, hull_protocol::agent::CONTROL_PORT);
    };
    if let Err(error) = thread::Builder::new().name("ready".into()).spawn(hint) {
        log(&format!("no thread to tell the host: {error}"));
    }
}
