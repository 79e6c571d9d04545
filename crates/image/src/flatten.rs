//! From verified layers to one read-only block image, in one pass from the lowest layer to the topmost.
//!
//! Owned by the blocking thread of one pull or import. Invariant: nothing but the one output file is written; no
//! entry of a layer ever becomes a file of the host.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};

use crate::digest::Digest;
use crate::erofs::{DataWriter, ErofsError, FileData, write_metadata};
use crate::layer::LayerError;
use crate::layer::records::{Piece, Record, RecordKind, Records};
use crate::layer::stream::LayerStream;
use crate::limits::Limits;
use crate::tree::{NodeKind, Tree, Whiteout};

/// Why an image could not be flattened.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// A layer is broken, hostile or too large.
    #[error("layer {layer} was refused")]
    Layer {
        /// The layer's digest.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A layer is not what the image's configuration says.
    #[error(
        "layer {layer} unpacks to {found}, but the image's configuration says {expected}: pull it again or ask its publisher"
    )]
    DiffId {
        /// The layer's digest.
        layer: Digest,
        /// The digest of the unpacked layer.
        found: Digest,
        /// The digest that was announced.
        expected: Digest,
    },
    /// The image could not be written.
    #[error("cannot write the flattened image")]
    Image(#[source] ErofsError),
}

/// One verified layer.
pub(crate) struct Layer<R> {
    /// Its bytes, compressed or not.
    pub(crate) raw: R,
    /// The digest of these bytes.
    pub(crate) digest: Digest,
    /// The digest of the unpacked layer, from the image's configuration.
    pub(crate) diff_id: Digest,
}

/// Merges `layers`, lowest first, into an EROFS image in the empty file `out`; syncs it.
pub(crate) fn flatten<R: Read>(
    layers: impl IntoIterator<Item = io::Result<Layer<R>>>,
    out: &File,
    uuid: [u8; 16],
    limits: &Limits,
) -> Result<(), FlattenError> {
    let image = FlattenError::Image;
    let write = |error| image(ErofsError::Write(error));
    let mut tree = Tree::new(limits);
    let mut writer = DataWriter::new(out, limits);
    let mut entries = 0;
    for layer in layers {
        let layer = layer.map_err(write)?;
        let digest = layer.digest.clone();
        apply(layer, &mut tree, &mut writer, (limits, &mut entries)).map_err(|error| match error {
            Refused::Flatten(error) => error,
            Refused::Write(ErofsError::Content(source)) => FlattenError::Layer { layer: digest, source },
            Refused::Write(error) => image(error),
        })?;
    }
    let size = write_metadata(&mut writer, &tree, uuid).map_err(image)?;
    out.set_len(size).map_err(write)?;
    out.sync_all().map_err(write)
}

enum Refused {
    Flatten(FlattenError),
    Write(ErofsError),
}

impl From<LayerError> for Refused {
    fn from(error: LayerError) -> Self {
        Self::Write(ErofsError::Content(error))
    }
}

impl From<ErofsError> for Refused {
    fn from(error: ErofsError) -> Self {
        Self::Write(error)
    }
}

fn apply<R: Read>(
    layer: Layer<R>,
    tree: &mut Tree,
    writer: &mut DataWriter<'_>,
    (limits, entries): (&Limits, &mut u64),
) -> Result<(), Refused> {
    tree.begin_layer();
    let mut records = Records::new(LayerStream::new(layer.raw, limits)?);
    while let Some(record) = records.next_record()? {
        *entries += 1;
        if *entries > limits.max_entries {
            let what = "entries in all layers";
            return Err(LayerError::Limit { what, limit: limits.max_entries, name: "max_entries" }.into());
        }
        if tree.apply_whiteout(&record.path)? == Whiteout::Applied {
            continue;
        }
        insert(record, &mut records, tree, writer)?;
        for data in tree.take_freed() {
            writer.punch(&data);
        }
    }
    let found = records.into_inner().finish()?;
    if found != layer.diff_id {
        let (layer, expected) = (layer.digest, layer.diff_id);
        return Err(Refused::Flatten(FlattenError::DiffId { layer, found, expected }));
    }
    Ok(())
}

fn insert<R: Read>(
    record: Record,
    records: &mut Records<R>,
    tree: &mut Tree,
    writer: &mut DataWriter<'_>,
) -> Result<(), Refused> {
    let Record { path, kind, meta } = record;
    let kind = match kind {
        RecordKind::HardLink(target) => return Ok(tree.insert_hard_link(&path, &target)?),
        RecordKind::File(size) => NodeKind::File(copy(records, writer, size)?),
        RecordKind::Directory => NodeKind::Directory(Default::default()),
        RecordKind::Symlink(target) if target.len() > 4095 => {
            return Err(LayerError::entry(&path, "symbolic link longer than 4,095 bytes").into());
        }
        RecordKind::Symlink(target) => NodeKind::Symlink(target.into_boxed_slice()),
        RecordKind::CharDevice(major, minor) => NodeKind::CharDevice(major, minor),
        RecordKind::BlockDevice(major, minor) => NodeKind::BlockDevice(major, minor),
        RecordKind::Fifo => NodeKind::Fifo,
    };
    Ok(tree.insert(&path, meta, kind)?)
}

fn copy<R: Read>(
    records: &mut Records<R>,
    writer: &mut DataWriter<'_>,
    size: u64,
) -> Result<FileData, Refused> {
    let mut sink = writer.begin(size)?;
    while let Some(piece) = records.next_piece()? {
        match piece {
            Piece::Data(bytes) => sink.write(bytes)?,
            Piece::Hole(count) => sink.skip(count)?,
        }
    }
    Ok(sink.finish()?)
}
