//! What the user wrote: a microVM as it is asked for, before anything is looked up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::WindowSize;
use crate::health::HealthSpec;
use crate::life::{HostLimits, RestartPolicy};
use crate::mount::MountSpec;
use crate::network::NetworkingSpec;
use crate::plan::CpuModel;
use crate::units::Bytes;

/// A microVM as the user asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicrovmSpec {
    /// A name of the user's choice, unique among its tenant's microVMs; made up when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of virtual CPUs; 1 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory; 512 MiB when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// What the processors look like.
    #[serde(default)]
    pub cpu: CpuModel,
    /// The kernel bundle's name; the default bundle when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Removed, with its disk, as soon as it has stopped.
    #[serde(default)]
    pub auto_remove: bool,
    /// When it is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What its host gives it.
    #[serde(default)]
    pub limits: HostLimits,
    /// Labels of the user's choice.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its networks.
    #[serde(default)]
    pub networking: NetworkingSpec,
    /// The container it runs.
    pub container: ContainerSpec,
}

/// The container in a microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image: a reference, or a digest of an image that is in the store.
    pub image: String,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's entrypoint; an empty list clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Replaces the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Replaces the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The host name; the short id when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A terminal of this size instead of three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<WindowSize>,
    /// Whether standard input stays open for attached clients.
    #[serde(default)]
    pub stdin: bool,
    /// The root is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Capabilities besides Docker's default set, such as `NET_ADMIN`, or `ALL`; within the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities to be without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Size of the writable layer: the quota; 10 GiB when missing. The file is sparse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<Bytes>,
    /// Volumes, memory and files of the host that it sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// How its health is checked; as the image says when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
}
