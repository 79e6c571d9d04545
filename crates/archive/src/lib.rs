//! Directory trees to tar streams and back, as a copy between a container and its user needs them.
//!
//! Used in the guest by the agent and on the host by the client: the same code packs and unpacks on either side,
//! because either side has a reason not to trust what comes from the other. Blocking; owner: whoever copies.
//! Invariants: what is packed is named by descriptors and never looked up twice; nothing is written outside the
//! directory that was given, whatever the stream says and whoever changes the tree meanwhile; memory is bounded.
//! The format is POSIX ustar with GNU's long names (tar(5)).
#![forbid(unsafe_code)]

mod entry;
mod pack;
mod unpack;

pub use entry::{Entries, Entry, Kind};
pub use pack::pack;
pub use unpack::{Unpack, Unpacked};

/// The longest path of an entry, in bytes, as Linux has it.
pub const PATH_MAX: usize = 4096;
/// The most directories inside each other.
pub const DEPTH_MAX: usize = 256;

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream failed.
    #[error("the stream broke off")]
    Stream(#[source] std::io::Error),
    /// It is no tar stream, or none this can read.
    #[error("it is not a good tar archive: {0}")]
    Format(String),
    /// An entry would be outside.
    #[error("the entry '{0}' is not below the directory it is for: it was not written")]
    Outside(String),
    /// A file could not be read or written.
    #[error("{path}: {what}")]
    File {
        /// Which.
        path: String,
        /// What was done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// One kind of file is where another is to be.
    #[error("{path}: {why}")]
    InTheWay {
        /// Where.
        path: String,
        /// What is in the way.
        why: &'static str,
    },
}

/// A path for a message: cut, and without what a terminal obeys.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(256).map(|c| if c.is_control() { '?' } else { c }).collect()
}
