//! A root of its own for the measurement, in memory.
//!
//! The lab's files come from outside, and a wait for them would pass as time on a clock that jumps to the next
//! timer whenever all sleep. So whatever is run or loaded lies in memory, and nothing else can be reached.

use std::fs;
use std::os::unix::fs::{FileExt, chroot};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::peer::{Guest, Peer};
use crate::shell::check;

/// A program of the root that has no libraries.
pub const BUSYBOX: &str = "/bin/busybox";
const PAGE: usize = 4096;
const ROOT: &str = "/tmp/near";

/// Copies what the measurement needs, and makes it this process's root.
pub fn enter(peers: &[Peer], guest: &Guest) -> Result<()> {
    copy(Path::new(BUSYBOX))?;
    copy(Path::new("/etc/ld.so.cache"))?;
    copy(&guest.initrd)?;
    for peer in peers {
        copy_sparse(&guest.kernel, &peer.kernel(guest))?;
        for file in [peer.path.clone()].into_iter().chain(peer.needs()) {
            copy(&file)?;
            for library in libraries(&file)? {
                copy(&library)?;
            }
        }
    }
    for place in ["proc", "sys", "dev", "tmp"] {
        let inside = Path::new(ROOT).join(place);
        fs::create_dir_all(&inside)?;
        if place != "tmp" {
            check(Command::new("mount").args(["--rbind", &format!("/{place}")]).arg(&inside))?;
        }
    }
    chroot(ROOT)?;
    Ok(std::env::set_current_dir("/")?)
}

/// Copies a file to the same path in the root, unless it is there; links are followed.
fn copy(file: &Path) -> Result<()> {
    let inside = place(file)?;
    if !inside.exists() {
        fs::copy(file, &inside).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

/// Copies a file with a hole for each page of zeros, as Hull keeps the kernels that it imports. A VMM that maps the
/// file would fill the holes, in memory, for all others: each has a copy of its own.
fn copy_sparse(file: &Path, to: &Path) -> Result<()> {
    let content = fs::read(file).with_context(|| format!("copying {}", file.display()))?;
    let copy = fs::File::create(place(to)?)?;
    copy.set_len(content.len() as u64)?;
    for (at, page) in (0..).step_by(PAGE).zip(content.chunks(PAGE)) {
        if page.iter().any(|byte| *byte != 0) {
            copy.write_all_at(page, at)?;
        }
    }
    Ok(())
}

/// Where a file is in the root; its directory is there when this returns.
fn place(file: &Path) -> Result<PathBuf> {
    let inside = Path::new(ROOT).join(file.strip_prefix("/")?);
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(inside)
}

/// The libraries that a program loads; none if it is static or no program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().context("ldd could not be started")?;
    Ok(paths(&String::from_utf8_lossy(&listed.stdout)))
}

/// The paths in what ldd prints.
fn paths(listed: &str) -> Vec<PathBuf> {
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            paths(listed),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }
}
