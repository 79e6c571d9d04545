//! Extended inodes, inline extended attributes and directory blocks as bytes (`struct erofs_inode_extended`,
//! `erofs_xattr_ibody_header`, `erofs_xattr_entry`, `erofs_dirent`).
//!
//! Owned by the metadata writer. Invariant: encoded lengths equal what the layout reserved.

use super::BLOCK;
use crate::layer::LayerError;
use crate::layer::records::Meta;

/// Bytes of an extended inode.
pub(super) const INODE_SIZE: usize = 64;

/// Bytes of the header before an inode's attributes.
pub(super) const XATTR_HEADER_SIZE: usize = 12;

/// Bytes of a directory entry without its name.
const DIRENT_SIZE: usize = 12;

/// How an inode's content is laid out (`EROFS_INODE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    FlatPlain = 0,
    FlatInline = 2,
    ChunkBased = 4,
}

/// File types, as in the mode and in a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    Regular,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// `EROFS_FT_*`.
    fn dirent_type(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// What an inode says besides its [`Meta`].
#[derive(Clone, Copy, Debug)]
pub(super) struct InodeFields {
    pub(super) layout: DataLayout,
    pub(super) file_type: FileType,
    pub(super) size: u64,
    /// First block, device number or chunk format, as the type has it.
    pub(super) union: u32,
    /// 32-bit inode number.
    pub(super) ino: u32,
    pub(super) nlink: u32,
}

/// Appends an inode and its attributes.
pub(super) fn push_inode(out: &mut Vec<u8>, fields: InodeFields, meta: &Meta, xattrs: &[u8]) {
    let start = out.len();
    let count = if xattrs.is_empty() { 0 } else { (xattrs.len() - XATTR_HEADER_SIZE) / 4 + 1 };
    out.extend(((fields.layout as u16) << 1 | 1).to_le_bytes());
    out.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    out.extend((fields.file_type.mode_bits() | meta.mode).to_le_bytes());
    out.extend([0; 2]);
    out.extend(fields.size.to_le_bytes());
    out.extend(fields.union.to_le_bytes());
    out.extend(fields.ino.to_le_bytes());
    out.extend(meta.uid.to_le_bytes());
    out.extend(meta.gid.to_le_bytes());
    out.extend(meta.mtime.to_le_bytes());
    out.extend(meta.mtime_nsec.to_le_bytes());
    out.extend(fields.nlink.to_le_bytes());
    out.resize(start + INODE_SIZE, 0);
    out.extend(xattrs);
}

/// A name's prefix as EROFS numbers it, and what is left of the name; `None` where it has no number.
fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    prefixes
        .into_iter()
        .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
        .filter(|(_, rest)| !rest.is_empty())
}

/// The attributes behind an inode; empty when there are none. Names outside the namespaces that Linux serves from
/// EROFS (`user`, `trusted`, `security` and the POSIX ACLs) are left out: no guest could read them.
pub(super) fn encode_xattrs(meta: &Meta) -> Result<Vec<u8>, LayerError> {
    let mut out = Vec::new();
    for (name, value) in &meta.xattrs {
        let Some((index, rest)) = split_xattr(name) else { continue };
        let too_large = || {
            LayerError::entry(name, "extended attribute beyond what Linux can hold (255 and 65,535 bytes)")
        };
        if out.is_empty() {
            out.resize(XATTR_HEADER_SIZE, 0);
        }
        out.push(u8::try_from(rest.len()).map_err(|_| too_large())?);
        out.push(index);
        out.extend(u16::try_from(value.len()).map_err(|_| too_large())?.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        if out.len() > 128 << 10 {
            return Err(LayerError::entry(name, "more than 128 KiB of extended attributes on one file"));
        }
    }
    Ok(out)
}

/// Bytes of a directory with these names, in this order.
pub(super) fn directory_size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut full = 0;
    let mut used = 0;
    for name in names {
        let need = DIRENT_SIZE + name.len();
        if used + need > BLOCK as usize {
            full += 1;
            used = 0;
        }
        used += need;
    }
    full * BLOCK + used as u64
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) file_type: FileType,
}

/// A directory's content: blocks that each hold their entries, then the names of these.
pub(super) fn encode_directory(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|entry| {
            used += DIRENT_SIZE + entry.name.len();
            used <= BLOCK as usize
        });
        let count = fits.count().max(1);
        let (block, later) = rest.split_at(count.min(rest.len()));
        let mut name_at = block.len() * DIRENT_SIZE;
        for entry in block {
            out.extend(entry.nid.to_le_bytes());
            out.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
            out.extend([entry.file_type.dirent_type(), 0]);
            name_at += entry.name.len();
        }
        for entry in block {
            out.extend(entry.name);
        }
        if !later.is_empty() {
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        rest = later;
    }
    out
}

/// A device number as `new_encode_dev` has it.
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
