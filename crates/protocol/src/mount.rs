//! What is mounted in a container besides its root, as the user asks for it.
//!
//! Pure data, part of [`crate::spec::ContainerSpec`]. Whether a mount can be is judged where a microVM is made.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The most mounts of one container.
pub const MOUNTS_MAX: usize = 64;
/// The most volumes of one microVM: each is a disk.
pub const VOLUMES_MAX: usize = 8;
/// The permissions of a tmpfs where nobody says others, as Docker's.
pub const TMPFS_MODE: u32 = 0o1777;

/// One mount. Targets are absolute paths in the container; what is missing there is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountSpec {
    /// A named volume; made where there is none of that name.
    Volume {
        /// Its name.
        source: String,
        /// Where.
        target: String,
        /// The container cannot write to it. A volume that nobody writes to may be read by several microVMs at once.
        #[serde(default)]
        read_only: bool,
        /// The size of a volume that is made for this; 10 GiB when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Bytes>,
        /// Leaves an empty volume empty; else what the image has at the target is copied into it.
        #[serde(default)]
        no_copy: bool,
    },
    /// Memory of the guest's, gone when the container stops.
    Tmpfs {
        /// Where.
        target: String,
        /// The most it holds; half of the guest's memory when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Bytes>,
        /// Permissions of its root, such as 0o755; 0o1777 when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Programs in it may be executed.
        #[serde(default)]
        exec: bool,
    },
    /// A file or directory of the host, which the container can only read: it gets a copy, made anew at every start.
    /// Only for those who administer the host, and for its own tenant.
    Bind {
        /// An absolute path of the host.
        source: String,
        /// Where.
        target: String,
        /// Must be true: a directory that is shared with the host is not possible yet.
        #[serde(default)]
        read_only: bool,
    },
}

impl MountSpec {
    /// Where it is mounted.
    pub fn target(&self) -> &str {
        match self {
            Self::Volume { target, .. } | Self::Tmpfs { target, .. } | Self::Bind { target, .. } => target,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn mounts_are_read_as_they_are_written_and_nothing_else_is() {
        for text in [
            r#"{"type":"volume","source":"data","target":"/d","read_only":true,"size":1048576,"no_copy":false}"#,
            r#"{"type":"tmpfs","target":"/t","size":4096,"mode":493,"exec":true}"#,
            r#"{"type":"bind","source":"/etc/x","target":"/y","read_only":true}"#,
        ] {
            let mount: MountSpec = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&mount).unwrap(), text);
        }
        for bad in [
            r#"{"type":"volume","target":"/d"}"#,
            r#"{"type":"volume","source":"data","target":"/d","sice":1}"#,
            r#"{"type":"tmpfs","source":"data","target":"/d"}"#,
            r#"{"type":"nfs","source":"data","target":"/d"}"#,
            r#"{"source":"data","target":"/d"}"#,
        ] {
            assert!(serde_json::from_str::<MountSpec>(bad).is_err(), "{bad}");
        }
    }
}
