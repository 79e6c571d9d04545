//! Packs a kernel for its import: a Debian package as it is, anything else as a tar made on the way.
//!
//! The tar holds `vmlinuz`, `config` where there is one, and the modules and lists of what is built in under
//! `modules/`, compressed as they are. Owner: the thread that writes the request. Invariant: links are not
//! followed, and only regular files are read.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cli::import::copy;
use crate::client::Body;

/// What a Debian package begins with: it is an `ar` archive.
const AR_MAGIC: &[u8] = b"!<arch>\n";
/// Folders in a module tree are not nested deeper.
const DEPTH_MAX: usize = 16;

/// Where a kernel comes from.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Kernel file, such as /boot/vmlinuz-RELEASE, or a Debian package
    path: Option<PathBuf>,
    /// Debian package
    #[arg(long, value_name = "FILE", conflicts_with_all = ["path", "modules"])]
    deb: Option<PathBuf>,
    /// Its modules [default: /lib/modules/RELEASE]
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

impl Source {
    /// The API's kind, and the body of the request.
    pub(super) fn open(self) -> Result<(&'static str, Body)> {
        if let Some(path) = self.deb {
            let (file, is_deb) = open(&path)?;
            if !is_deb {
                bail!("{} is not a Debian package: leave out --deb for a kernel file", path.display());
            }
            return Ok(("deb", send(file, &path)));
        }
        let kernel = self.path.map_or_else(running, Ok)?;
        let (file, is_deb) = open(&kernel)?;
        if is_deb {
            return Ok(("deb", send(file, &kernel)));
        }
        let release = release(&kernel);
        let modules = match (self.modules, &release) {
            (Some(folder), _) if !folder.is_dir() => bail!("there is no folder {}", folder.display()),
            (Some(folder), _) => Some(folder),
            (None, release) => release
                .as_ref()
                .map(|name| Path::new("/lib/modules").join(name))
                .filter(|folder| folder.is_dir()),
        };
        let config = config(&kernel, release.as_deref(), modules.as_deref());
        Ok(("tar", Body::stream(move |out| pack(file, config.as_deref(), modules.as_deref(), out))))
    }
}

/// The kernel this host runs.
fn running() -> Result<PathBuf> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let places = [format!("/boot/vmlinuz-{release}"), format!("/lib/modules/{release}/vmlinuz")];
    let found = places.iter().map(PathBuf::from).find(|place| place.exists());
    found.with_context(|| {
        format!(
            "the kernel this host runs, {release}, is not in /boot: name a kernel file or a .deb to import"
        )
    })
}

fn open(path: &Path) -> Result<(File, bool)> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("the kernel {name} cannot be opened"))?;
    if !file.metadata()?.is_file() {
        bail!("the kernel {name} is not a file");
    }
    let mut magic = Vec::new();
    let mut start = file.try_clone()?.take(AR_MAGIC.len() as u64);
    start.read_to_end(&mut magic).with_context(|| format!("the kernel {name} cannot be read"))?;
    // The clone shares its place with the file.
    std::io::Seek::rewind(&mut &file)?;
    Ok((file, magic == AR_MAGIC))
}

fn send(mut file: File, path: &Path) -> Body {
    let name = path.display().to_string();
    Body::stream(move |out| copy(&mut file, out, &name))
}

/// The release in the name of a kernel file (`vmlinuz-RELEASE`) or of its folder (`RELEASE/vmlinuz`).
fn release(kernel: &Path) -> Option<String> {
    let name = kernel.file_name()?.to_str()?;
    match name.split_once('-') {
        Some((_, release)) => Some(release.to_owned()),
        None => {
            let folder = kernel.parent()?;
            let of_modules = folder.parent()?.file_name()? == "modules";
            of_modules.then(|| folder.file_name()?.to_str().map(str::to_owned)).flatten()
        }
    }
}

/// The kernel's configuration: beside it, or in its modules' folder.
fn config(kernel: &Path, release: Option<&str>, modules: Option<&Path>) -> Option<PathBuf> {
    let beside =
        kernel.with_file_name(release.map_or_else(|| "config".into(), |name| format!("config-{name}")));
    let places =
        [Some(beside), Some(kernel.with_file_name("config")), modules.map(|folder| folder.join("config"))];
    places.into_iter().flatten().find(|place| place.is_file())
}

fn pack(kernel: File, config: Option<&Path>, modules: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    let mut tar = tar::Builder::new(out);
    add(&mut tar, kernel, "vmlinuz".as_ref()).context("sending the kernel")?;
    if let Some(path) = config {
        add_path(&mut tar, path, "config".as_ref())?;
    }
    if let Some(folder) = modules {
        for list in ["modules.builtin", "modules.builtin.modinfo"] {
            let path = folder.join(list);
            if path.is_file() {
                add_path(&mut tar, &path, &Path::new("modules").join(list))?;
            }
        }
        walk(&mut tar, folder, Path::new("modules"), 0)?;
    }
    tar.into_inner()?.flush().context("sending the kernel")
}

type Tar<'a> = tar::Builder<&'a mut dyn Write>;

/// Adds the modules below `folder`, in the order of their names.
fn walk(tar: &mut Tar<'_>, folder: &Path, inside: &Path, depth: usize) -> Result<()> {
    let unreadable = || format!("the folder {} cannot be read", folder.display());
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, name) = (entry.file_type().with_context(unreadable)?, entry.file_name());
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(tar, &entry.path(), &inside.join(&name), depth + 1)?;
        } else if kind.is_file() && is_module(&name.to_string_lossy()) {
            add_path(tar, &entry.path(), &inside.join(&name))?;
        }
    }
    Ok(())
}

fn is_module(name: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|end| name.ends_with(end))
}

fn add_path(tar: &mut Tar<'_>, path: &Path, name: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("the file {} cannot be opened", path.display()))?;
    add(tar, file, name).with_context(|| format!("sending {}", path.display()))
}

fn add(tar: &mut Tar<'_>, file: File, name: &Path) -> Result<()> {
    let length = file.metadata()?.len();
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    // A file that shrinks meanwhile leaves the archive short, which its reader refuses.
    tar.append_data(&mut header, name, file.take(length))?;
    Ok(())
}

#[cfg(test)]
mod tests;
