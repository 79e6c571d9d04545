//! A container's root, made from a static busybox on a tmpfs in a mount namespace of the calling thread's own.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use hull_agent::server::STREAM_WAIT;
use hull_protocol::agent::{AgentError, Setup};
use rustix::mount::{MountFlags, mount};

/// Which root a Setup is for, by the host name in it: the agent's hook for it is a plain function.
static ROOTS: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);

/// The hook.
pub fn setup(setup: &Setup) -> Result<PathBuf, AgentError> {
    let roots = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(roots.as_ref().and_then(|roots| roots.get(&setup.hostname)).cloned().unwrap())
}

/// How long a test's start waits for streams.
pub const WAIT: std::time::Duration = STREAM_WAIT;

/// Gives the calling thread, and those it starts, mounts of its own, and makes a root at `place`.
pub fn build(name: &str, place: &Path, change: impl FnOnce(&Path)) {
    assert!(rustix::process::getuid().is_root(), "these tests make namespaces and mounts: they need root");
    hull_jail::namespaces::new_for_container().unwrap();
    hull_jail::root::make_private().unwrap();
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"mode=755").unwrap();
    // What the agent has of a guest's own is not to be the host's.
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), c"mode=755").unwrap();
    for directory in ["bin", "etc", "tmp", "root", "home/web", "var", "usr/bin", "sbin"] {
        fs::create_dir_all(place.join(directory)).unwrap();
    }
    fs::set_permissions(place.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    install_busybox(place);
    fs::write(place.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n")
        .unwrap();
    fs::write(place.join("etc/group"), "root:x:0:\nweb:x:34:\ntape:x:26:web,other\nlogs:x:4:web\n").unwrap();
    for (name, content) in [("hosts", "127.0.0.1 localhost\n"), ("plain", "no program\n")] {
        fs::write(place.join("etc").join(name), content).unwrap();
    }
    change(place);
    ROOTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .insert(name.to_owned(), place.to_owned());
}

/// Copies a file that is to be executed. Another process does it: were the copy open for writing in this one, a child
/// that another test starts meanwhile would have it open for a moment too, and the kernel would not execute it.
fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("these tests need cp, from coreutils");
    assert!(copied.success(), "{} was not copied", from.display());
}

/// Makes a program from its text.
pub fn write_program(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    copy_program(&draft, path);
    fs::remove_file(draft).unwrap();
}

fn install_busybox(root: &Path) {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
    let busybox = busybox.expect("these tests need busybox, linked statically: install busybox-static");
    copy_program(busybox, &root.join("bin/busybox"));
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet)).unwrap();
    }
    let works = Command::new("/usr/sbin/chroot").arg(root).args(["/bin/true"]).status();
    let works = works.expect("these tests need chroot, from coreutils");
    assert!(works.success(), "busybox does not run in a root of its own: it has to be linked statically");
}
