//! Where a kernel comes from: a Debian package, a tar stream, or the running host.
//!
//! deb(5): an `ar` archive with a compressed `data.tar`. Owner: one import, on its blocking thread.
//! Invariant: packages are streamed, nothing of them is unpacked but what a bundle might keep.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::KernelError;
use super::compression::unpacked;
use super::contents::Contents;

/// All that is read of one package, unpacked. Real ones have less than a tenth.
const UNPACKED_MAX: u64 = 16 << 30;
/// Folders in a module tree are not nested deeper.
const DEPTH_MAX: usize = 16;

/// What to import a kernel from.
pub enum ImportSource {
    /// A `linux-image` package of Debian or one of its kin.
    Deb(Box<dyn Read + Send>),
    /// A tar stream, compressed or not: `vmlinuz`, `config`, `modules.builtin` and modules, in any folders.
    Tar(Box<dyn Read + Send>),
    /// The kernel this host runs: `/boot/vmlinuz-RELEASE` and `/lib/modules/RELEASE`.
    Host,
}

impl ImportSource {
    /// Reads everything that matters into `contents`.
    pub(super) fn read(self, contents: &mut Contents) -> Result<(), KernelError> {
        match self {
            Self::Deb(input) => deb(input, contents),
            Self::Tar(input) => tar(input, contents),
            Self::Host => {
                let release = rustix::system::uname().release().to_string_lossy().into_owned();
                host(Path::new("/"), &release, contents)
            }
        }
    }
}

fn deb(input: impl Read, contents: &mut Contents) -> Result<(), KernelError> {
    let mut archive = ar::Archive::new(input);
    let mut first = true;
    while let Some(entry) = archive.next_entry() {
        let entry = entry.map_err(KernelError::NotADeb)?;
        let name = entry.header().identifier();
        if std::mem::take(&mut first) && name != b"debian-binary" {
            let error = io::Error::new(io::ErrorKind::InvalidData, "debian-binary is not its first member");
            return Err(KernelError::NotADeb(error));
        }
        if name.starts_with(b"data.tar") {
            return tar(entry, contents);
        }
    }
    Err(KernelError::NoData)
}

fn tar(input: impl Read, contents: &mut Contents) -> Result<(), KernelError> {
    let read = |source| KernelError::Read { what: "the archive".to_owned(), source };
    let mut archive = tar::Archive::new(unpacked(input).map_err(read)?.take(UNPACKED_MAX));
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        if entry.header().entry_type().is_file() {
            let path = entry.path().map_err(read)?.into_owned();
            contents.take(&path, &mut entry)?;
        }
    }
    Ok(())
}

/// Reads the kernel `release` installed under `root`.
fn host(root: &Path, release: &str, contents: &mut Contents) -> Result<(), KernelError> {
    let modules = root.join("lib/modules").join(release);
    let boot = root.join("boot").join(format!("vmlinuz-{release}"));
    let beside = modules.join("vmlinuz");
    let kernel = if !boot.exists() && beside.exists() { beside } else { boot };
    let mut file = File::open(&kernel).map_err(|error| KernelError::NoHostKernel(kernel.clone(), error))?;
    contents.take(&kernel, &mut file)?;
    for config in [root.join("boot").join(format!("config-{release}")), modules.join("config")] {
        if let Ok(mut file) = File::open(&config) {
            contents.take(&config, &mut file)?;
            break;
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        let list = modules.join(list);
        if let Ok(mut file) = File::open(&list) {
            contents.take(&list, &mut file)?;
        }
    }
    let tree = modules.join("kernel");
    if tree.is_dir() { walk(&tree, 0, contents) } else { Ok(()) }
}

/// Takes in the modules below `folder`, following no links.
fn walk(folder: &Path, depth: usize, contents: &mut Contents) -> Result<(), KernelError> {
    let read = |source| KernelError::Read { what: folder.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), depth.saturating_add(1), contents)?;
        } else if kind.is_file() && super::contents::Role::of(&entry.path()).is_some() {
            contents.take(&entry.path(), &mut File::open(entry.path()).map_err(read)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
