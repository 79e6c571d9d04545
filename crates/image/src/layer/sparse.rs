//! Maps of sparse files (GNU tar manual, "Storing Sparse Files"): old GNU headers and PAX formats 0.1 and 1.0.
//!
//! Owned by the record reader. Invariant: a [`SparseMap`] is in order, does not overlap, lies within the file and
//! accounts for exactly the bytes that the archive holds.

use tar::GnuSparseHeader;

/// One run of data within a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Most runs that one file may have: 16 MiB of map.
pub(crate) const MAX_SEGMENTS: usize = 1 << 20;

/// Where the data of a sparse file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SparseMap(Vec<Segment>);

impl SparseMap {
    /// Checks a map against the file's size and the bytes stored; says what is wrong.
    pub(crate) fn new(segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self, &'static str> {
        let mut end = 0_u64;
        let mut total = 0_u64;
        for segment in &segments {
            if segment.offset < end {
                return Err("a sparse map that is out of order");
            }
            end = segment.offset.checked_add(segment.length).ok_or("a sparse map beyond all sizes")?;
            total = total.saturating_add(segment.length);
        }
        if end > size {
            return Err("a sparse map beyond the file's end");
        }
        if total != stored {
            return Err("a sparse map that does not account for the data stored");
        }
        Ok(Self(segments))
    }

    /// The runs, in order.
    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.0
    }
}

/// Takes the used slots of an old GNU sparse header into `segments`; false when one is broken or they are too many.
pub(crate) fn push_gnu(segments: &mut Vec<Segment>, slots: &[GnuSparseHeader]) -> bool {
    for slot in slots.iter().filter(|slot| !slot.is_empty()) {
        let (Ok(offset), Ok(length)) = (slot.offset(), slot.length()) else { return false };
        if segments.len() >= MAX_SEGMENTS {
            return false;
        }
        segments.push(Segment { offset, length });
    }
    true
}
