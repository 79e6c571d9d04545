//! A spooled archive: surveyed once to learn what it is, then read again for the members that matter.
//!
//! Runs on a blocking thread. Invariant: at most a few small files of it are held in memory.

use std::collections::BTreeMap;
use std::fs::File;

use super::ImportError;
use crate::blob::{BlobError, BlobWriter, Blobs};
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::layer::records::{Piece, RecordKind, Records};
use crate::layer::stream::LayerStream;
use crate::limits::Limits;

/// Files whose content tells what an archive is.
const TELLING: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];

/// Most links between members that are remembered: `docker save` links layers that images share.
const MAX_LINKS: usize = 4096;

/// What an archive holds, as far as that decides how to read it.
#[derive(Debug)]
pub(super) struct Survey {
    /// The telling files at its top.
    pub(super) files: BTreeMap<&'static str, Vec<u8>>,
    /// Links, by member, to the member they mean.
    links: BTreeMap<String, String>,
    /// The digest of the unpacked archive.
    pub(super) unpacked: Digest,
    /// Entries of any kind.
    pub(super) entries: u64,
    /// Whether its end is marked.
    pub(super) complete: bool,
}

/// An archive may unpack to more than one layer may.
fn archive_limits(limits: &Limits) -> Limits {
    Limits { max_layer_bytes: limits.max_image_bytes.max(limits.max_layer_bytes), ..limits.clone() }
}

impl Survey {
    /// Reads an archive through.
    pub(super) fn of(spool: File, limits: &Limits) -> Result<Self, LayerError> {
        let mut records = Records::new(LayerStream::new(spool, &archive_limits(limits))?);
        let (mut files, mut links, mut entries) = (BTreeMap::new(), BTreeMap::new(), 0);
        while let Some(record) = records.next_record()? {
            entries += 1;
            if entries > limits.max_entries {
                let what = "entries in the archive";
                return Err(LayerError::Limit { what, limit: limits.max_entries, name: "max_entries" });
            }
            let Some(member) = member(&record.path) else { continue };
            match record.kind {
                RecordKind::File(size) if size <= limits.max_manifest_bytes => {
                    if let Some(telling) = TELLING.into_iter().find(|telling| *telling == member) {
                        files.insert(telling, content(&mut records)?);
                    }
                }
                RecordKind::Symlink(target) if links.len() < MAX_LINKS => {
                    if let Some(target) = sibling(&member, &target) {
                        links.insert(member, target);
                    }
                }
                RecordKind::HardLink(target) if links.len() < MAX_LINKS => {
                    if let Some(target) = self::member(&target) {
                        links.insert(member, target);
                    }
                }
                _ => {}
            }
        }
        let complete = records.is_complete();
        let unpacked = records.into_inner().finish()?;
        Ok(Self { files, links, unpacked, entries, complete })
    }

    /// Whether it holds an OCI layout.
    pub(super) fn proves_oci(&self) -> bool {
        self.files.contains_key("oci-layout") && self.files.contains_key("index.json")
    }

    /// Whether it holds what `docker save` writes.
    pub(super) fn proves_docker(&self) -> bool {
        self.files.get("manifest.json").is_some_and(|bytes| super::docker::looks_right(bytes))
    }

    /// The member that a path means, through the archive's own links.
    pub(super) fn follow(&self, path: &str) -> Option<String> {
        let mut here = member(path.as_bytes())?;
        for _ in 0..8 {
            match self.links.get(&here) {
                Some(target) => here.clone_from(target),
                None => return Some(here),
            }
        }
        None
    }
}

/// A member's path without `./` and doubled slashes; `None` for one that leaves the archive.
fn member(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

/// What a symbolic link at `member` means.
fn sibling(member: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { member.split('/').collect() };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The current file's content; its size has been checked.
fn content(records: &mut Records<LayerStream<'_>>) -> Result<Vec<u8>, LayerError> {
    let mut bytes = Vec::new();
    while let Some(piece) = records.next_piece()? {
        match piece {
            Piece::Data(data) => bytes.extend_from_slice(data),
            Piece::Hole(count) => {
                bytes.resize(bytes.len().saturating_add(usize::try_from(count).unwrap_or(0)), 0)
            }
        }
    }
    Ok(bytes)
}

/// Reads the archive again and hands every regular member that `wants` to `keep`, as a blob that is not yet kept.
pub(super) fn extract(
    spool: &BlobWriter,
    (blobs, limits): (&Blobs, &Limits),
    wants: impl Fn(&str) -> bool,
    mut keep: impl FnMut(String, BlobWriter) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut records = Records::new(LayerStream::new(spool.reopen()?, &archive_limits(limits))?);
    while let Some(record) = records.next_record()? {
        let (Some(member), RecordKind::File(size)) = (member(&record.path), record.kind) else { continue };
        if !wants(&member) {
            continue;
        }
        if size > limits.max_blob_bytes {
            let limit = limits.max_blob_bytes;
            return Err(BlobError::TooLarge { what: member, limit, name: "max_blob_bytes" }.into());
        }
        let mut blob = blobs.begin()?;
        while let Some(piece) = records.next_piece()? {
            match piece {
                Piece::Data(data) => blob.write(data)?,
                Piece::Hole(mut count) => {
                    let zeros = [0; 4096];
                    while count > 0 {
                        let now = count.min(zeros.len() as u64);
                        blob.write(zeros.get(..usize::try_from(now).unwrap_or(0)).unwrap_or_default())?;
                        count -= now;
                    }
                }
            }
        }
        keep(member, blob)?;
    }
    Ok(())
}
