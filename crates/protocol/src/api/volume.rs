//! The nouns of `/v1/volumes`, and what a microVM's record says of its own volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// `POST /v1/volumes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its name, unique within its tenant; its id when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The most it holds, its file system's own data included; 10 GiB when missing. The file is sparse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Labels of the user's choice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One volume, as `GET /v1/volumes/{name}` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// The most it holds, its file system's own data included.
    pub size: Bytes,
    /// Labels of the user's choice.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// What it takes of the host's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bytes>,
    /// The microVMs that were made with it: it stays until they have been removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<VolumeUser>,
}

/// `PATCH /v1/volumes/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePatch {
    /// Its new size: a volume grows, also while it is in use, and never shrinks.
    pub size: Bytes,
}

/// A microVM that was made with a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUser {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it can only read.
    pub read_only: bool,
    /// Whether it has the volume now.
    pub attached: bool,
}

/// A volume in a microVM's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// The volume's id.
    pub id: String,
    /// The volume's name.
    pub name: String,
    /// Whether the microVM can only read.
    pub read_only: bool,
}

/// What `POST /v1/volumes/prune` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedVolumes {
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Disk space given back.
    pub freed: Bytes,
}
