//! Length-prefixed messages on a byte stream: a little-endian `u32`, then so many bytes of JSON.

/// The largest message on an agent's control connection, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

/// A length that is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a message of {0} bytes is over the limit of {MESSAGE_MAX}: the peer does not speak this protocol")]
pub struct TooLong(pub usize);

/// The prefix for a message of `length` bytes.
///
/// # Errors
/// When the message is longer than [`MESSAGE_MAX`].
pub fn prefix(length: usize) -> Result<[u8; 4], TooLong> {
    match u32::try_from(length) {
        Ok(short) if length <= MESSAGE_MAX => Ok(short.to_le_bytes()),
        _ => Err(TooLong(length)),
    }
}

/// The length that a prefix announces.
///
/// # Errors
/// When it is longer than [`MESSAGE_MAX`]; nothing is to be allocated then.
pub fn length(prefix: [u8; 4]) -> Result<usize, TooLong> {
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length <= MESSAGE_MAX { Ok(length) } else { Err(TooLong(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_survives_and_a_huge_one_is_refused() {
        for n in [0, 1, 77, MESSAGE_MAX] {
            assert_eq!(prefix(n).and_then(length), Ok(n));
        }
        assert_eq!(prefix(MESSAGE_MAX + 1), Err(TooLong(MESSAGE_MAX + 1)));
        assert!(length([0xff; 4]).is_err());
    }
}
