//! What one owner has of the store: names of its own over content that is kept once.
//!
//! Invariants: an owner finds an image by a name that it gave, or by the digest of an image that it has a name of; it gets
//! no blob whose digest it merely knows. What it removes stays for those who need it.

use super::index::Index;
use super::{Freed, InstallError, Removed, Store, StoreError};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::record::ImageRecord;

/// Between an owner and a name in the index; no name has it.
const MARK: char = '|';

impl Store {
    /// The images of this owner. The empty one's names are kept as they are, and what has no name any more is its.
    pub fn of(&self, owner: &str) -> Self {
        Self { owner: Some(owner.into()), ..self.clone() }
    }

    /// The same images, of which all together, and each that comes, may have so many bytes.
    pub fn within(mut self, room: u64) -> Self {
        let Limits { max_blob_bytes, max_layer_bytes, max_image_bytes, .. } = &mut self.limits;
        for limit in [max_blob_bytes, max_layer_bytes, max_image_bytes] {
            *limit = room.min(*limit);
        }
        self.room = room;
        self
    }

    /// Whether one more image is within the owner's room.
    pub(super) fn has_room(&self, index: &Index, record: &ImageRecord) -> Result<(), InstallError> {
        let seen = self.seen(index);
        let others = seen.images.iter().filter(|image| image.record.digest != record.digest);
        let used = others.fold(0_u64, |sum, image| sum.saturating_add(image.record.size));
        if used.saturating_add(record.size) > self.room {
            return Err(InstallError::NoRoom { size: record.size, left: self.room.saturating_sub(used) });
        }
        Ok(())
    }

    /// Whether its owner has everything there is.
    pub(super) fn is_trusted(&self) -> bool {
        matches!(self.owner.as_deref(), None | Some(""))
    }

    /// A name as it is kept in the index.
    pub(super) fn kept(&self, name: &str) -> String {
        match self.owner.as_deref() {
            None | Some("") => name.to_owned(),
            Some(owner) => format!("{owner}{MARK}{name}"),
        }
    }

    /// A record with the names that this owner gave.
    pub(super) fn shown(&self, mut record: ImageRecord) -> ImageRecord {
        let Some(owner) = self.owner.as_deref() else { return record };
        record.names = record
            .names
            .iter()
            .filter_map(|kept| match kept.split_once(MARK) {
                Some((whose, name)) => (whose == owner).then(|| name.to_owned()),
                None => owner.is_empty().then(|| kept.clone()),
            })
            .collect();
        record
    }

    /// The part of the index that this owner sees.
    pub(super) fn seen(&self, index: &Index) -> Index {
        let mut seen = index.clone();
        let Some(owner) = self.owner.as_deref() else { return seen };
        seen.images.retain_mut(|image| {
            let nobodys = image.record.names.is_empty();
            image.record = self.shown(image.record.clone());
            !image.record.names.is_empty() || (nobodys && owner.is_empty())
        });
        seen
    }

    /// Whether a blob that is there need not be sent again: who has no image with it proves that it has the blob by
    /// sending it.
    pub(crate) fn may_reuse(&self, digest: &Digest, size: u64) -> bool {
        let own = || {
            let index = self.seen(&self.inner.state().index);
            index.images.iter().any(|image| image.blobs.contains(digest))
        };
        self.blobs().has(digest, size) && (self.is_trusted() || own())
    }

    /// As [`Store::remove`]; an image that would be deleted while `needed` by others stays, without a name.
    ///
    /// # Errors
    /// As those of [`Store::remove`].
    pub fn release(
        &self,
        name_or_digest: &str,
        in_use: impl Fn(&Digest) -> bool,
        needed: impl Fn(&Digest) -> bool,
    ) -> Result<Removed, StoreError> {
        let mut state = self.inner.state();
        let (record, name) = {
            let seen = self.seen(&state.index);
            let found = seen.find(name_or_digest)?;
            (found.record.clone(), found.name)
        };
        let untagged = match name {
            Some(name) => vec![name],
            None => record.names.clone(),
        };
        if untagged.len() >= record.names.len() && in_use(&record.digest) {
            return Err(StoreError::InUse(name_or_digest.chars().take(200).collect()));
        }
        let kept: Vec<String> = untagged.iter().map(|name| self.kept(name)).collect();
        let mut index = state.index.clone();
        index.untag(&kept);
        let nameless = |index: &Index| {
            index
                .images
                .iter()
                .any(|image| image.record.digest == record.digest && image.record.names.is_empty())
        };
        let last = nameless(&index) && !needed(&record.digest);
        if last {
            index.images.retain(|image| image.record.digest != record.digest);
        }
        self.inner.save(&mut state, index)?;
        let freed = if last { self.inner.collect(&mut state)? } else { Freed::default() };
        Ok(Removed { untagged, deleted: last.then_some(record.digest), freed })
    }

    /// Takes all names of this owner's away; the images of others stay.
    ///
    /// # Errors
    /// The file system fails.
    pub fn release_all(&self, needed: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        for image in self.list() {
            match self.release(&image.digest.to_string(), |_| false, &needed) {
                Ok(_) | Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
