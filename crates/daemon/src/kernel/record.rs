//! A bundle's folder: its files, and the record that describes them.
//!
//! `vmlinux`, `initrd` and `record.json`. Owner: [`super::Bundles`]. Invariant: a file appears under its name
//! whole and on disk, or not at all; the record's agent is never newer than the one in `initrd`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_protocol::api;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::bounded::read_whole;
use super::contents::Contents;
use super::initramfs::Initramfs;

/// The kernel's ELF program.
pub(super) const VMLINUX: &str = "vmlinux";
/// The initial file system.
pub(super) const INITRD: &str = "initrd";
const RECORD: &str = "record.json";
const FORMAT: u32 = 1;
const RECORD_MAX: usize = 1 << 20;
const AGENT_MAX: usize = 256 << 20;

/// What is kept of a bundle beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The layout of the folder.
    format: u32,
    /// What the API shows.
    pub(super) kernel: api::Kernel,
    /// Where in `initrd` the modules end and the agent begins, in bytes.
    modules_end: u64,
    /// The agent in `initrd`.
    pub(super) agent: Stamp,
}

/// What tells one installed file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

/// The installed agent, open.
pub(super) struct Agent {
    file: File,
    /// Which one it is.
    pub(super) stamp: Stamp,
}

impl Agent {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let stamp = Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            modified_seconds: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
        };
        Ok(Self { file, stamp })
    }

    /// The agent's program.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        read_whole(file, AGENT_MAX)?.ok_or_else(|| io::ErrorKind::FileTooLarge.into())
    }
}

impl Record {
    /// The record of a bundle whose files are written.
    pub(super) fn new(kernel: api::Kernel, modules_end: u64, agent: Stamp) -> Self {
        Self { format: FORMAT, kernel, modules_end, agent }
    }

    /// Reads the record in a bundle's folder. The folder's name is the bundle's.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        let bytes = read_whole(File::open(folder.join(RECORD))?, RECORD_MAX)?;
        let record: Self = serde_json::from_slice(&bytes.ok_or_else(|| invalid("its record is too large"))?)?;
        if record.format != FORMAT {
            return Err(invalid("it was written by another version of hull"));
        }
        if folder.file_name().and_then(|name| name.to_str()) != Some(&record.kernel.name) {
            return Err(invalid("its folder was renamed"));
        }
        Ok(record)
    }

    /// Writes the record into a bundle's folder.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        write_file(folder, RECORD, &serde_json::to_vec_pretty(self)?)
    }
}

/// Writes the initial file system of `modules` and the agent; returns where the modules end.
pub(super) fn write_initrd(
    folder: &Path,
    contents: &Contents,
    modules: &[String],
    agent: &[u8],
) -> io::Result<u64> {
    let file = File::create_new(folder.join(INITRD))?;
    let mut archive = Initramfs::begin(BufWriter::new(&file))?;
    for (position, name) in modules.iter().enumerate() {
        archive.module(position, name, &contents.module(name)?)?;
    }
    let end = archive.written();
    archive.finish(agent)?;
    file.sync_all()?;
    Ok(end)
}

/// Puts another agent into a bundle. First the file, then the record: should the second not come to pass,
/// this is done again.
pub(super) fn replace_agent(folder: &Path, record: &Record, agent: &[u8], stamp: Stamp) -> io::Result<()> {
    let mut modules = File::open(folder.join(INITRD))?.take(record.modules_end);
    let mut file = NamedTempFile::new_in(folder)?;
    if io::copy(&mut modules, &mut file)? != record.modules_end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Initramfs::resume(BufWriter::new(&mut file), record.modules_end).finish(agent)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(INITRD))?;
    let record = Record { agent: stamp, ..record.clone() };
    record.write(folder)
}

/// Writes a small file under its name, whole and on disk or not at all.
pub(super) fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name))?;
    sync_folder(folder)
}

/// Brings a folder's names to the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}
