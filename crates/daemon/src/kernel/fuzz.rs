//! Doors for `tests/fuzz`: what reads bytes of a package or a kernel, and nothing else.

use std::fs::File;
use std::io::Cursor;

use super::bounded::read_whole;
use super::compression;
use super::contents::Contents;
use super::elf::Program;
use super::image;
use super::modinfo::Modinfo;
use super::source::ImportSource;

/// A kernel's file: unpacked, examined, written to `out` as a bundle has it. Whether it is a kernel.
pub fn kernel(file: Vec<u8>, out: &File) -> bool {
    let Ok(vmlinux) = image::vmlinux(file) else { return false };
    let described = image::release(&vmlinux).is_ok() | image::config(&vmlinux).is_some();
    let Ok(program) = Program::parse(&vmlinux) else { return false };
    described && program.write(out).is_ok() && program.len() > 0
}

/// A compressed stream; its content, if it is whole and has at most `limit` bytes.
pub fn unpacked(bytes: &[u8], limit: usize) -> Option<Vec<u8>> {
    read_whole(compression::unpacked(bytes).ok()?, limit).ok()?
}

/// A Debian package or a tar stream; how many modules it has. `spool` is empty.
pub fn package(deb: bool, bytes: Vec<u8>, spool: File) -> Option<usize> {
    let input = Box::new(Cursor::new(bytes));
    let source = if deb { ImportSource::Deb(input) } else { ImportSource::Tar(input) };
    let mut contents = Contents::new(spool);
    source.read(&mut contents).ok()?;
    let whole = contents.modules.keys().all(|name| contents.module(name).is_ok());
    whole.then_some(contents.modules.len())
}

/// A module's file; whether it describes itself.
pub fn module(bytes: &[u8]) -> bool {
    Modinfo::parse(bytes).is_ok()
}
