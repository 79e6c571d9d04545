//! Directories, inodes and the superblock, laid out after the data once the tree is final.
//!
//! Owned by the thread that flattens. Three steps: every inode gets its place (directory by directory, so that those
//! listed together lie together), then directory blocks are written, then the inodes. Invariants: the root comes
//! first (its number has 16 bits), no inline content crosses a block, all in the order of names.

use super::checksum::crc32c;
use super::data::{DataWriter, FileData};
use super::inode::{
    DataLayout, Dirent, FileType, INODE_SIZE, InodeFields, XATTR_HEADER_SIZE, directory_size, encode_device,
    encode_directory, encode_xattrs, push_inode,
};
use super::{BLOCK, ErofsError, blocks};
use crate::tree::{Node, NodeId, NodeKind, ROOT, Tree};

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const SLOT: u64 = 32;
const NULL_ADDRESS: u32 = u32::MAX;

/// Content up to this size goes beside its inode.
const MAX_TAIL: u64 = 2048;

/// Where a node goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Bytes from the start of the metadata.
    offset: u64,
    parent: NodeId,
    ino: u32,
    /// Directories and long symbolic links: bytes of content, and the first block of what is not inline.
    size: u64,
    block: u64,
}

/// The whole layout.
struct Layout {
    places: Vec<Option<Place>>,
    order: Vec<NodeId>,
    bytes: u64,
    chunked: bool,
}

/// Writes everything but file contents; returns the size of the image in bytes.
pub(crate) fn write_metadata(
    writer: &mut DataWriter<'_>,
    tree: &Tree,
    uuid: [u8; 16],
) -> Result<u64, ErofsError> {
    let layout = plan(writer, tree)?;
    for id in &layout.order {
        write_content_blocks(writer, tree, &layout, *id)?;
    }
    // erofs-utils 1.5 reads a header of attributes behind the last inode even if that has none: room for it.
    let start = writer.allocate(blocks(layout.bytes + XATTR_HEADER_SIZE as u64))?;
    write_inodes(writer, tree, &layout, start)?;
    let end = writer.next_block();
    writer.write_at(0, &superblock(&layout, start, end, uuid))?;
    Ok(end * BLOCK)
}

/// Gives every node that has a name its place.
fn plan(writer: &mut DataWriter<'_>, tree: &Tree) -> Result<Layout, ErofsError> {
    let mut layout =
        Layout { places: vec![None; tree.len()], order: Vec::new(), bytes: SLOT, chunked: false };
    place(writer, tree, &mut layout, (ROOT, ROOT))?;
    let mut next = 0;
    while let Some(id) = layout.order.get(next).copied() {
        next += 1;
        if let Some(Node { kind: NodeKind::Directory(children), .. }) = tree.node(id) {
            for link in children.values() {
                if layout.places.get(link.node).is_some_and(Option::is_none) {
                    place(writer, tree, &mut layout, (link.node, id))?;
                }
            }
        }
    }
    Ok(layout)
}

fn place(
    writer: &mut DataWriter<'_>,
    tree: &Tree,
    layout: &mut Layout,
    (id, parent): (NodeId, NodeId),
) -> Result<(), ErofsError> {
    let Some(node) = tree.node(id) else { return Ok(()) };
    let size = match &node.kind {
        NodeKind::Directory(children) => {
            let names = children.keys().map(|name| &**name);
            directory_size(sorted_with_dots(names).into_iter())
        }
        NodeKind::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let (tail, in_blocks) = match &node.kind {
        NodeKind::File(FileData::Inline(bytes)) => (bytes.len() as u64, 0),
        _ => split_tail(size),
    };
    let block = if in_blocks > 0 { writer.allocate(in_blocks)? } else { 0 };
    let head = (INODE_SIZE + encode_xattrs(&node.meta)?.len()) as u64;
    let mut offset = layout.bytes.next_multiple_of(SLOT);
    if tail > 0 && (offset + head) % BLOCK + tail > BLOCK {
        // Start the tail with the next block, or up to a slot after it.
        offset = ((offset + head).next_multiple_of(BLOCK) - head).next_multiple_of(SLOT);
    }
    let map = match &node.kind {
        NodeKind::File(FileData::Chunked { chunks, .. }) => {
            layout.chunked = true;
            chunks.len() as u64 * 4
        }
        _ => 0,
    };
    layout.bytes = offset + head + tail + map;
    layout.order.push(id);
    let ino = u32::try_from(layout.order.len()).unwrap_or(u32::MAX);
    if let Some(slot) = layout.places.get_mut(id) {
        *slot = Some(Place { offset, parent, ino, size, block });
    }
    Ok(())
}

/// Bytes beside the inode and whole blocks elsewhere, for the content of a directory or symbolic link.
fn split_tail(size: u64) -> (u64, u64) {
    let tail = size % BLOCK;
    if tail <= MAX_TAIL { (tail, size / BLOCK) } else { (0, blocks(size)) }
}

fn sorted_with_dots<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let mut all: Vec<&[u8]> = names.collect();
    for dot in [b".".as_slice(), b".."] {
        let at = all.partition_point(|name| *name < dot);
        all.insert(at, dot);
    }
    all
}

/// The content of a directory or symbolic link, as bytes.
fn content(tree: &Tree, layout: &Layout, id: NodeId) -> Vec<u8> {
    match tree.node(id).map(|node| &node.kind) {
        Some(NodeKind::Symlink(target)) => target.to_vec(),
        Some(NodeKind::Directory(children)) => {
            let parent = layout.places.get(id).copied().flatten().map_or(ROOT, |place| place.parent);
            let entries: Vec<Dirent<'_>> = sorted_with_dots(children.keys().map(|name| &**name))
                .into_iter()
                .map(|name| {
                    let target = match name {
                        b"." => id,
                        b".." => parent,
                        name => children.get(name).map_or(ROOT, |link| link.node),
                    };
                    let nid =
                        layout.places.get(target).copied().flatten().map_or(0, |place| place.offset / SLOT);
                    let file_type = tree.node(target).map_or(FileType::Regular, |node| file_type(&node.kind));
                    Dirent { name, nid, file_type }
                })
                .collect();
            encode_directory(&entries)
        }
        _ => Vec::new(),
    }
}

fn file_type(kind: &NodeKind) -> FileType {
    match kind {
        NodeKind::Directory(_) => FileType::Directory,
        NodeKind::File(_) | NodeKind::Gone => FileType::Regular,
        NodeKind::Symlink(_) => FileType::Symlink,
        NodeKind::CharDevice(..) => FileType::CharDevice,
        NodeKind::BlockDevice(..) => FileType::BlockDevice,
        NodeKind::Fifo => FileType::Fifo,
    }
}

fn write_content_blocks(
    writer: &DataWriter<'_>,
    tree: &Tree,
    layout: &Layout,
    id: NodeId,
) -> Result<(), ErofsError> {
    let Some(place) = layout.places.get(id).copied().flatten().filter(|place| place.block > 0) else {
        return Ok(());
    };
    let content = content(tree, layout, id);
    let (tail, _) = split_tail(place.size);
    let whole = content.len().saturating_sub(usize::try_from(tail).unwrap_or_default());
    writer.write_at(place.block, content.get(..whole).unwrap_or_default())
}

fn write_inodes(writer: &DataWriter<'_>, tree: &Tree, layout: &Layout, start: u64) -> Result<(), ErofsError> {
    let mut out = Vec::new();
    let mut written = 0_u64; // bytes of metadata that are in the file already: whole blocks
    for id in &layout.order {
        let (Some(node), Some(place)) = (tree.node(*id), layout.places.get(*id).copied().flatten()) else {
            continue;
        };
        out.resize(usize::try_from(place.offset - written).unwrap_or_default(), 0);
        push_node(&mut out, tree, layout, (*id, node, place))?;
        if out.len() > 1 << 20 {
            let whole = out.len() - out.len() % BLOCK as usize;
            writer.write_at(start + written / BLOCK, out.get(..whole).unwrap_or_default())?;
            out.drain(..whole);
            written += whole as u64;
        }
    }
    out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    writer.write_at(start + written / BLOCK, &out)
}

fn push_node(
    out: &mut Vec<u8>,
    tree: &Tree,
    layout: &Layout,
    (id, node, place): (NodeId, &Node, Place),
) -> Result<(), ErofsError> {
    let mut fields = InodeFields {
        layout: DataLayout::FlatPlain,
        file_type: file_type(&node.kind),
        size: place.size,
        union: if place.block > 0 {
            u32::try_from(place.block).unwrap_or(NULL_ADDRESS)
        } else {
            NULL_ADDRESS
        },
        ino: place.ino,
        nlink: node.names,
    };
    let mut behind = Vec::new();
    match &node.kind {
        NodeKind::Directory(_) | NodeKind::Symlink(_) => {
            let (tail, _) = split_tail(place.size);
            if tail > 0 {
                fields.layout = DataLayout::FlatInline;
                behind = content(tree, layout, id);
                behind.drain(..behind.len().saturating_sub(usize::try_from(tail).unwrap_or_default()));
            }
            if let NodeKind::Directory(children) = &node.kind {
                let is_directory =
                    |id| matches!(tree.node(id).map(|node| &node.kind), Some(NodeKind::Directory(_)));
                let below = children.values().filter(|link| is_directory(link.node)).count();
                fields.nlink = u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2);
            }
        }
        NodeKind::File(data) => {
            fields.size = data.size();
            match data {
                FileData::Inline(bytes) if bytes.is_empty() => {}
                FileData::Inline(bytes) => {
                    fields.layout = DataLayout::FlatInline;
                    behind = bytes.to_vec();
                }
                FileData::Flat { block, .. } => fields.union = *block,
                FileData::Chunked { chunk_blocks, chunks, .. } => {
                    fields.layout = DataLayout::ChunkBased;
                    fields.union = chunk_blocks.trailing_zeros();
                    behind
                        .extend(chunks.iter().flat_map(|block| block.unwrap_or(NULL_ADDRESS).to_le_bytes()));
                }
            }
        }
        NodeKind::CharDevice(major, minor) | NodeKind::BlockDevice(major, minor) => {
            fields.union = encode_device(*major, *minor);
        }
        NodeKind::Fifo | NodeKind::Gone => fields.union = 0,
    }
    push_inode(out, fields, &node.meta, &encode_xattrs(&node.meta)?);
    out.extend(behind);
    Ok(())
}

fn superblock(layout: &Layout, meta_block: u64, end: u64, uuid: [u8; 16]) -> Vec<u8> {
    let mut block = vec![0; 1024];
    let root = layout.places.first().copied().flatten().map_or(0, |place| place.offset / SLOT);
    block.extend(MAGIC.to_le_bytes());
    block.extend([0; 4]); // the checksum, below
    block.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    block.extend([12, 0]); // 4 KiB blocks, no extension slots
    block.extend(u16::try_from(root).unwrap_or_default().to_le_bytes());
    block.extend((layout.order.len() as u64).to_le_bytes());
    block.extend([0; 12]); // build time: none, the same layers give the same bytes
    block.extend(u32::try_from(end).unwrap_or(u32::MAX).to_le_bytes());
    block.extend(u32::try_from(meta_block).unwrap_or(u32::MAX).to_le_bytes());
    block.extend([0; 4]); // no shared attributes
    block.extend(uuid);
    block.extend([0; 16]); // no volume name
    block.extend(if layout.chunked { INCOMPAT_CHUNKED_FILE } else { 0 }.to_le_bytes());
    block.resize(BLOCK as usize, 0);
    let sum = crc32c(u32::MAX, block.get(1024..).unwrap_or_default());
    if let Some(field) = block.get_mut(1028..1032) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
    block
}
