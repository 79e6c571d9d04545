//! Framed messages on a byte stream, [`hull_protocol::frame`].
//!
//! Invariant: nothing is allocated for a length over the limit.

use std::io::{self, Read, Write};

use hull_protocol::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One message of at most `limit` bytes; None at the end of the stream.
pub(crate) fn read_message<T: DeserializeOwned>(
    stream: &mut impl Read,
    limit: usize,
) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = frame::length(prefix).map_err(io::Error::other)?;
    if length > limit {
        return Err(io::Error::other(format!(
            "a message of {length} bytes where at most {limit} were expected"
        )));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one message, at once.
pub(crate) fn write_message(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = frame::prefix(body.len()).map_err(io::Error::other)?.to_vec();
    bytes.extend(body);
    stream.write_all(&bytes)
}
