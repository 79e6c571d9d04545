//! The initial file system of a microVM: the agent, and the modules it loads.
//!
//! An uncompressed cpio archive of the "new ASCII" kind (Documentation/driver-api/early-userspace/buffer-format.rst);
//! uncompressed, since the kernel copies it faster than it unpacks anything. Owner: the bundle that is being
//! written. Invariant: the agent comes last, so that another one replaces it without a look at what is before.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;
/// `/dev/console`'s device number.
const CONSOLE_DEVICE: (u32, u32) = (5, 1);
/// What the loader maps is whole pages.
const PAGE: u64 = 4096;

/// Writes an archive, entry by entry.
pub(super) struct Initramfs<W> {
    output: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Initramfs<W> {
    /// A new archive with the folders that the agent mounts on, and the console it speaks to.
    pub(super) fn begin(output: W) -> io::Result<Self> {
        let mut archive = Self { output, written: 0, inode: 1 };
        for folder in ["dev", "proc", "sys", "modules"] {
            archive.entry(folder, DIRECTORY, (0, 0), &[])?;
        }
        archive.entry("dev/console", CONSOLE, CONSOLE_DEVICE, &[])?;
        Ok(archive)
    }

    /// Goes on behind `written` bytes of an archive that another one began.
    pub(super) fn resume(output: W, written: u64) -> Self {
        // Entries of one link each are told apart by nothing but their names: numbers may repeat.
        Self { output, written, inode: 1 }
    }

    /// Adds the module that is loaded after all those added before.
    pub(super) fn module(&mut self, position: usize, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(&format!("modules/{position:03}-{name}.ko"), FILE, (0, 0), bytes)
    }

    /// How many bytes were written: where [`Initramfs::resume`] can go on.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Adds the agent as `/init`, ends the archive and pads it to whole pages.
    pub(super) fn finish(mut self, agent: &[u8]) -> io::Result<u64> {
        self.entry("init", PROGRAM, (0, 0), agent)?;
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(PAGE)?;
        self.output.flush()?;
        Ok(self.written)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let too_large =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, "a file of 4 GiB does not fit into cpio");
        let size = u32::try_from(bytes.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len().saturating_add(1)).map_err(too_large)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let (major, minor) = device;
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.inode = self.inode.saturating_add(1);
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(b"\0")?;
        self.pad(4)?;
        self.put(bytes)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to).saturating_sub(self.written);
        let zeros = vec![0; usize::try_from(missing).unwrap_or(0)];
        self.put(&zeros)
    }
}

#[cfg(test)]
mod tests;
