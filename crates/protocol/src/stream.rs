//! The framing of an attached stream between daemon and client, after the HTTP upgrade to
//! [`UPGRADE`]: one byte of kind, three of zero, a big-endian `u32` length, then the payload. The header is
//! the one of Docker's multiplexed streams, with kinds of our own beyond the three standard streams.

/// The protocol name in the `Upgrade` header.
pub const UPGRADE: &str = "hull-stream";
/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 8;
/// The largest payload of a frame, in bytes.
pub const PAYLOAD_MAX: usize = 64 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Client to process. An empty payload is end of file.
    Stdin,
    /// Process to client (a terminal's output too).
    Stdout,
    /// Process to client.
    Stderr,
    /// Client to process: two big-endian `u16`, rows and columns.
    Resize,
    /// Client to process: one byte, the signal's number.
    Signal,
    /// Daemon to client, last: JSON of [`crate::api::ExitStatus`].
    Exit,
    /// Client to daemon, empty: the client leaves on purpose, and the process runs on. Without it a process of
    /// an exec with a terminal is hung up when its client goes.
    Detach,
}

const KINDS: [(u8, Kind); 7] = [
    (0, Kind::Stdin),
    (1, Kind::Stdout),
    (2, Kind::Stderr),
    (16, Kind::Resize),
    (17, Kind::Signal),
    (18, Kind::Exit),
    (19, Kind::Detach),
];

/// A header that no peer of this protocol sends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The kind is unknown or the padding is not zero.
    #[error("unknown frame {0:?}: the peer does not speak {UPGRADE}")]
    Unknown([u8; 4]),
    /// The payload is longer than [`PAYLOAD_MAX`].
    #[error("a frame of {0} bytes is over the limit of {PAYLOAD_MAX}")]
    TooLong(u32),
}

/// The header for a frame.
///
/// # Errors
/// When the payload is longer than [`PAYLOAD_MAX`]: split it.
pub fn header(kind: Kind, length: usize) -> Result<[u8; HEADER_LEN], HeaderError> {
    let short = u32::try_from(length).unwrap_or(u32::MAX);
    if length > PAYLOAD_MAX {
        return Err(HeaderError::TooLong(short));
    }
    let code = KINDS.iter().find(|(_, k)| *k == kind).map_or(0, |(code, _)| *code);
    let [a, b, c, d] = short.to_be_bytes();
    Ok([code, 0, 0, 0, a, b, c, d])
}

/// Kind and payload length of a header.
///
/// # Errors
/// When the kind is unknown or the length over [`PAYLOAD_MAX`]; the connection is to be closed then.
pub fn parse(header: [u8; HEADER_LEN]) -> Result<(Kind, usize), HeaderError> {
    let [code, x, y, z, a, b, c, d] = header;
    let known = KINDS.iter().find(|(known, _)| *known == code);
    let (Some((_, kind)), [0, 0, 0]) = (known, [x, y, z]) else {
        return Err(HeaderError::Unknown([code, x, y, z]));
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(fits) if fits <= PAYLOAD_MAX => Ok((*kind, fits)),
        _ => Err(HeaderError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        for (_, kind) in KINDS {
            for length in [0, 1, PAYLOAD_MAX] {
                assert_eq!(header(kind, length).and_then(parse), Ok((kind, length)));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_eight_bytes_are_judged_without_panic(bytes: [u8; HEADER_LEN]) {
            if let Ok((kind, length)) = parse(bytes) {
                proptest::prop_assert_eq!(header(kind, length), Ok(bytes));
            }
        }
    }
}
