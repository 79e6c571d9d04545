//! Kernel bundles: a guest kernel ready to be mapped, and the initial file system that goes with it.
//!
//! A bundle is made from what a distribution ships (Linux's x86 boot protocol, deb(5), kmod's module
//! information) and kept as a folder: `vmlinux`, `initrd`, `record.json`. Owner: the daemon, one per data
//! folder; everything here blocks, call it from a thread that may. Invariant: a folder that has its name is
//! complete and on disk; anything half done has a name that begins with a dot and is cleared away at the next start.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]

mod bounded;
mod compression;
mod contents;
mod elf;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod image;
mod initramfs;
mod modinfo;
mod order;
mod record;
mod requirements;
#[cfg(test)]
mod samples;
mod source;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hull_protocol::api;
use hull_protocol::units::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::clock::rfc3339;
use contents::Contents;
use order::Offer;
use record::{Agent, Record, sync_folder};
use requirements::WANTED;

pub use elf::ElfError;
pub use error::KernelError;
pub use image::ImageError;
pub use modinfo::ModinfoError;
pub use order::OrderError;
pub use source::ImportSource;

const NAME_MAX: usize = 100;
const DEFAULT_FILE: &str = ".default";
const IMPORTING: &str = ".import-";

/// How to keep what is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The bundle's name; the kernel's release when missing. A bundle that has it already is replaced.
    pub name: Option<String>,
    /// Whether microVMs that name no kernel get this one. The first bundle of all becomes it anyway.
    pub default: bool,
}

/// A bundle's files, open for reading: they stay what they are when the bundle is replaced or removed.
#[derive(Debug)]
pub struct OpenBundle {
    /// The kernel, an ELF program whose segments can be mapped.
    pub kernel: File,
    /// The initial file system, whole pages of cpio.
    pub initrd: File,
    /// What the API shows of it.
    pub record: api::Kernel,
}

/// All kernel bundles of a daemon.
#[derive(Debug)]
pub struct Bundles {
    folder: PathBuf,
    agent: PathBuf,
    /// Held while names or files of kept bundles change or are opened.
    names: Mutex<()>,
    /// Held while the host's own kernel is taken, so that it is taken once.
    host: Mutex<()>,
}

impl Bundles {
    /// The bundles in `folder`, which is made if it is missing. `agent` is the program that becomes `/init`.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn new(folder: impl Into<PathBuf>, agent: impl Into<PathBuf>) -> Result<Self, KernelError> {
        let (folder, agent) = (folder.into(), agent.into());
        let bundles = Self { folder, agent, names: Mutex::new(()), host: Mutex::new(()) };
        bundles.clear_leftovers().map_err(|error| bundles.store_error(error))?;
        Ok(bundles)
    }

    /// Makes a bundle from `source`.
    ///
    /// # Errors
    /// When the source is damaged or no x86-64 kernel, when that kernel lacks what a microVM needs (all of it
    /// is named), or when the disk refuses.
    pub fn import(&self, source: ImportSource, options: ImportOptions) -> Result<api::Kernel, KernelError> {
        if let Some(name) = &options.name {
            check_name(name)?;
        }
        let store = |error| self.store_error(error);
        let mut contents = Contents::new(tempfile::tempfile_in(&self.folder).map_err(KernelError::Spool)?);
        source.read(&mut contents)?;
        let staging = TempDir::with_prefix_in(IMPORTING, &self.folder).map_err(store)?;
        let record = self.build(staging.path(), contents, options.name)?;
        let _names = self.lock();
        let first = self.default_name().is_none();
        self.publish(staging, &record.kernel.name).map_err(store)?;
        if options.default || first {
            self.set_default(&record.kernel.name).map_err(store)?;
        }
        Ok(self.shown(record.kernel))
    }

    /// All bundles, by name.
    ///
    /// # Errors
    /// When the folder cannot be read. A damaged bundle is passed over, with a warning in the log.
    pub fn list(&self) -> Result<Vec<api::Kernel>, KernelError> {
        let _names = self.lock();
        let default = self.default_name();
        let mut kernels = self.kernels().map_err(|error| self.store_error(error))?;
        for kernel in &mut kernels {
            kernel.default = default.as_deref() == Some(&kernel.name);
        }
        kernels.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kernels)
    }

    /// Removes a bundle; `in_use` says whether a microVM still names it.
    ///
    /// # Errors
    /// When there is none by that name, when it is in use, or when the disk refuses.
    pub fn remove(&self, name: &str, in_use: bool) -> Result<(), KernelError> {
        // What none can be called is not there.
        check_name(name).map_err(|_| KernelError::NotFound(name.to_owned()))?;
        let _names = self.lock();
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            return Err(KernelError::NotFound(name.to_owned()));
        }
        if in_use {
            return Err(KernelError::InUse(name.to_owned()));
        }
        // What has no name any more is cleared away at the next start, should this one not live to do it.
        let nameless = TempDir::with_prefix_in(IMPORTING, &self.folder)
            .and_then(|grave| fs::rename(&folder, grave.path().join("removed")).map(|()| grave))
            .and_then(|grave| sync_folder(&self.folder).map(|()| grave));
        nameless.and_then(TempDir::close).map_err(|error| self.store_error(error))
    }

    /// Opens the bundle `name`, or the default one: the one set as such, else the newest. With none imported,
    /// the running host's kernel is imported first. An initial file system that holds an older agent is
    /// written anew.
    ///
    /// # Errors
    /// When there is no such bundle, when it is damaged, or when nothing is imported and the host's kernel
    /// cannot be taken.
    pub fn open(&self, name: Option<&str>) -> Result<OpenBundle, KernelError> {
        if let Some(name) = name {
            check_name(name)?;
            return self.open_bundle(name);
        }
        let _host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let default = || {
            let _names = self.lock();
            self.default_name()
        };
        if let Some(name) = default() {
            return self.open_bundle(&name);
        }
        let imported = self
            .import(ImportSource::Host, ImportOptions::default())
            .map_err(|error| KernelError::NoneUsable(Box::new(error)))?;
        self.open_bundle(&imported.name)
    }

    fn open_bundle(&self, name: &str) -> Result<OpenBundle, KernelError> {
        let _names = self.lock();
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            return Err(KernelError::NotFound(name.to_owned()));
        }
        let damaged = |error| KernelError::Damaged(name.to_owned(), error);
        let record = Record::read(&folder).map_err(damaged)?;
        let agent =
            Agent::open(&self.agent).map_err(|error| KernelError::Agent(self.agent.clone(), error))?;
        if agent.stamp != record.agent {
            let program = agent.read().map_err(|error| KernelError::Agent(self.agent.clone(), error))?;
            record::replace_agent(&folder, &record, &program, agent.stamp).map_err(damaged)?;
        }
        Ok(OpenBundle {
            kernel: File::open(folder.join(record::VMLINUX)).map_err(damaged)?,
            initrd: File::open(folder.join(record::INITRD)).map_err(damaged)?,
            record: self.shown(record.kernel),
        })
    }

    /// Writes a bundle's files into `folder`.
    fn build(
        &self,
        folder: &Path,
        mut contents: Contents,
        name: Option<String>,
    ) -> Result<Record, KernelError> {
        let store = |error| self.store_error(error);
        let vmlinux = image::vmlinux(contents.take_kernel()?)?;
        let program = elf::Program::parse(&vmlinux)?;
        let release = image::release(&vmlinux)?;
        let name = name.unwrap_or_else(|| release.clone());
        check_name(&name)?;
        let modules = choose_modules(&contents, &vmlinux, &release)?;
        let kernel = File::create_new(folder.join(record::VMLINUX)).map_err(store)?;
        program.write(&kernel).and_then(|()| kernel.sync_all()).map_err(store)?;
        let agent =
            Agent::open(&self.agent).map_err(|error| KernelError::Agent(self.agent.clone(), error))?;
        let init = agent.read().map_err(|error| KernelError::Agent(self.agent.clone(), error))?;
        let modules_end = record::write_initrd(folder, &contents, &modules, &init).map_err(store)?;
        let record = Record::new(
            api::Kernel {
                name,
                release,
                size: Bytes(program.len().saturating_add(modules_end)),
                modules,
                default: false,
                created_at: rfc3339(SystemTime::now()),
            },
            modules_end,
            agent.stamp,
        );
        record.write(folder).map_err(store)?;
        Ok(record)
    }

    /// Gives a finished folder its name, at once and for good. One that had the name goes.
    fn publish(&self, staging: TempDir, name: &str) -> io::Result<()> {
        let target = self.folder.join(name);
        if target.exists() {
            renameat_with(CWD, staging.path(), CWD, &target, RenameFlags::EXCHANGE)?;
            sync_folder(&self.folder)?;
            return staging.close();
        }
        fs::rename(staging.path(), &target)?;
        // The folder has left the place that would be cleared away.
        let _ = staging.keep();
        sync_folder(&self.folder)
    }

    fn kernels(&self) -> io::Result<Vec<api::Kernel>> {
        let mut kernels = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !entry.file_type()?.is_dir() || name.to_str().is_none_or(|name| check_name(name).is_err()) {
                continue;
            }
            match Record::read(&entry.path()) {
                Ok(record) => kernels.push(record.kernel),
                Err(error) => {
                    tracing::warn!("passing over the damaged kernel bundle {}: {error}", name.display())
                }
            }
        }
        Ok(kernels)
    }

    /// The bundle for those that name none.
    fn default_name(&self) -> Option<String> {
        let set = fs::read_to_string(self.folder.join(DEFAULT_FILE)).ok();
        let set = set.filter(|name| check_name(name).is_ok() && self.folder.join(name).is_dir());
        set.or_else(|| {
            let newest = self.kernels().ok()?.into_iter().max_by(|a, b| a.created_at.cmp(&b.created_at))?;
            Some(newest.name)
        })
    }

    fn set_default(&self, name: &str) -> io::Result<()> {
        record::write_file(&self.folder, DEFAULT_FILE, name.as_bytes())
    }

    fn shown(&self, mut kernel: api::Kernel) -> api::Kernel {
        kernel.default = self.default_name().as_deref() == Some(&kernel.name);
        kernel
    }

    fn clear_leftovers(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(IMPORTING) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_error(&self, error: io::Error) -> KernelError {
        KernelError::Store(self.folder.clone(), error)
    }
}

/// The modules to load, in order, once the kernel is found fit.
fn choose_modules(contents: &Contents, vmlinux: &[u8], release: &str) -> Result<Vec<String>, KernelError> {
    let carried = || image::config(vmlinux).map(|text| requirements::Config::parse(&text));
    let carried = if contents.config.is_none() { carried() } else { None };
    let config = contents.config.as_ref().or(carried.as_ref());
    let missing =
        requirements::missing(config, &contents.builtin, |module| contents.modules.contains_key(module));
    if !missing.is_empty() {
        return Err(KernelError::Unfit { release: release.to_owned(), missing });
    }
    let wanted: Vec<&str> = WANTED.iter().map(|wanted| wanted.module).collect();
    let order =
        order::load_order(&wanted, &Offer { modules: &contents.modules, builtin: &contents.builtin })?;
    for module in &order {
        let found = contents.modules.get(module).and_then(|info| info.release.as_deref());
        if let Some(found) = found.filter(|found| *found != release) {
            let (module, found, release) = (module.clone(), found.to_owned(), release.to_owned());
            return Err(KernelError::OtherRelease { module, found, release });
        }
    }
    Ok(order)
}

/// Whether `name` can be a bundle's: a plain folder name that no flag or hidden file looks like.
fn check_name(name: &str) -> Result<(), KernelError> {
    let valid = name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte));
    if valid { Ok(()) } else { Err(KernelError::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests;
