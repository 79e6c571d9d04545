//! Questions to the agent whose answers are more than a word: a container's files, in and out, and its processes.
//!
//! Each has a connection to [`TRANSFER_PORT`] of its own. The host sends one framed [`Query`], the agent one framed
//! `Result<Answer, AgentError>`. After a [`Query::Pack`] the agent, after a [`Query::Unpack`] the host sends a tar
//! stream in chunks: a little-endian `u32` of at most [`CHUNK_MAX`], then so many bytes; a length of zero is the end.
//! Last comes the agent's framed `Result<(), AgentError>`: whether all of it was sent, or written. After a failure to
//! write it comes at once, and the agent reads on until the host has closed the connection.

use serde::{Deserialize, Serialize};

use crate::exec::ContainerProcess;

/// The vsock port for these connections.
pub const TRANSFER_PORT: u32 = 1026;
/// The largest chunk of a tar stream, in bytes.
pub const CHUNK_MAX: usize = 64 << 10;
/// The longest path, in bytes, as Linux has it.
pub const PATH_MAX: usize = 4096;
/// The most processes that are listed.
pub const PROCESSES_MAX: usize = 1024;
/// The most bytes of one process's command that are listed.
pub const COMMAND_MAX: usize = 512;

/// What the host wants. Paths are resolved inside the container's root, which no link leads out of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// The container's processes.
    Processes,
    /// What is at a path.
    Stat {
        /// Where.
        path: String,
        /// Where a link at the end of the path leads, instead of the link.
        follow: bool,
    },
    /// What is at a path, and all below it, as a tar stream.
    Pack {
        /// Where.
        path: String,
        /// Where a link at the end of the path leads, instead of the link.
        follow: bool,
        /// The name in the archive; the last of the path when missing, `.` where that has none.
        name: Option<String>,
    },
    /// A tar stream, to be written into a directory.
    Unpack {
        /// The directory, which is there.
        path: String,
        /// With the users and groups that the archive names; else all belongs to root.
        keep_owner: bool,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Query::Processes`].
    Processes(Vec<ContainerProcess>),
    /// To [`Query::Stat`] and [`Query::Pack`].
    Stat(FileStat),
    /// To [`Query::Unpack`]: the host may send.
    Ready,
}

/// What is at a path of a container, as `GET /v1/microvms/{id}/files/stat` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileStat {
    /// Where it is, without links.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, with the set-user-id, set-group-id and sticky bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// The last change, in seconds since the Unix epoch.
    pub mtime: i64,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// Kinds of files that a copy treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Special,
}

/// The prefix of a chunk of `length` bytes; none when it is longer than [`CHUNK_MAX`].
pub fn chunk_prefix(length: usize) -> Option<[u8; 4]> {
    u32::try_from(length).ok().filter(|_| length <= CHUNK_MAX).map(u32::to_le_bytes)
}

/// The length that a prefix announces; none when it is longer than [`CHUNK_MAX`].
pub fn chunk_length(prefix: [u8; 4]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(prefix)).ok().filter(|length| *length <= CHUNK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_its_length_and_no_more_than_the_limit() {
        for length in [0, 1, CHUNK_MAX] {
            assert_eq!(chunk_prefix(length).and_then(chunk_length), Some(length));
        }
        assert_eq!((chunk_prefix(CHUNK_MAX + 1), chunk_length([0xff; 4])), (None, None));
    }
}
