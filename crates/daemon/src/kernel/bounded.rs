//! Reading into memory with a limit: no length from outside decides how much is held.
//!
//! Owner: the importer, on its blocking thread.

use std::io::{self, Read};

/// At most `limit` bytes of `input`: fewer when it ends before.
pub(super) fn read_up_to(input: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of `input`, or nothing when it is longer than `limit`.
pub(super) fn read_whole(input: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let bytes = read_up_to(input, limit.saturating_add(1))?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= limit))
}
