//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"), with the `SCHILY.xattr` and `GNU.sparse` keys.
//!
//! Owned by the record reader. Invariant: values may hold any byte, newlines included (a file capability does), so a
//! record ends where its length says and nowhere else.

use super::LayerError;
use super::sparse::Segment;

/// What the extended headers say about the entry that follows; what is `None` is the header's business.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// The `GNU.sparse` keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Option<Vec<Segment>>,
    pub(crate) unsupported: bool,
}

impl Pax {
    /// Takes in the records of one extended header. Later records win.
    pub(crate) fn apply(&mut self, mut data: &[u8], at: u64) -> Result<(), LayerError> {
        let malformed =
            |what: &str| LayerError::Malformed { what: format!("extended header with {what}"), at };
        while !data.is_empty() {
            if data.iter().all(|byte| *byte == 0) {
                break; // some writers count the padding as content
            }
            let space =
                data.iter().take(20).position(|byte| *byte == b' ').ok_or_else(|| malformed("no length"))?;
            let length = data
                .get(..space)
                .and_then(decimal)
                .and_then(|length| usize::try_from(length).ok())
                .ok_or_else(|| malformed("a bad length"))?;
            let record = data.get(space + 1..length).ok_or_else(|| malformed("a length beyond its end"))?;
            let record = record.strip_suffix(b"\n").ok_or_else(|| malformed("an unterminated record"))?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| malformed("no '='"))?;
            let (key, value) = record.split_at(equals);
            self.set(key, value.get(1..).unwrap_or_default()).ok_or_else(|| {
                malformed(&format!(
                    "a bad value for {}",
                    String::from_utf8_lossy(key.get(..key.len().min(80)).unwrap_or_default())
                ))
            })?;
            data = data.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(non_empty(value)?),
            b"linkpath" => self.link = Some(non_empty(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(timestamp(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(non_empty(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(sparse_map(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.unsupported = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.".as_slice()) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((non_empty(name)?, value.to_vec()));
                }
            }
        }
        Some(())
    }
}

fn non_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec())
}

/// A decimal number without sign or space.
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Seconds with a sign and a fraction, as whole seconds rounded down and nanoseconds.
fn timestamp(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..9 {
            let digit = fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
            nanoseconds = nanoseconds * 10 + digit;
        }
    }
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

/// Format 0.1: `offset,length,offset,length...`.
fn sparse_map(value: &[u8]) -> Option<Vec<Segment>> {
    let mut numbers = value.split(|byte| *byte == b',').map(decimal);
    let mut map = Vec::new();
    while let Some(offset) = numbers.next() {
        map.push(Segment { offset: offset?, length: numbers.next()?? });
    }
    Some(map)
}
