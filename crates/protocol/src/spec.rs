//! What the user wrote: a microVM as it is asked for, before anything is looked up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::agent::CAPABILITY;
use crate::agent::WindowSize;
use crate::health::HealthSpec;
use crate::life::{HostLimits, RestartPolicy};
#[cfg(feature = "schema")]
use crate::mount::MOUNTS_MAX;
use crate::mount::MountSpec;
use crate::network::NetworkingSpec;
#[cfg(feature = "schema")]
use crate::plan::CPUS_MAX;
use crate::plan::CpuModel;
#[cfg(feature = "schema")]
use crate::secret::SECRETS_MAX;
use crate::secret::SecretSpec;
use crate::units::Bytes;
#[cfg(feature = "schema")]
use crate::units::{DISK_MAX, DISK_MIN};

/// A microVM as the user asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MicrovmSpec {
    /// A name of the user's choice, unique among its tenant's microVMs; made up when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")))]
    pub name: Option<String>,
    /// Number of virtual CPUs; 1 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = CPUS_MAX)))]
    pub cpus: Option<u32>,
    /// Memory; 512 MiB when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("minimum" = 96 << 20)))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image: a reference, or a digest of an image that is in the store.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub image: String,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[^\x00]*$"))))]
    pub command: Vec<String>,
    /// Replaces the image's entrypoint; an empty list clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[^\x00]*$"))))]
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[^=\x00]+=[^\x00]*$"))))]
    pub env: Vec<String>,
    /// Replaces the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^(/[\s\S]*)?$")))]
    pub workdir: Option<String>,
    /// Replaces the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The host name; the short id when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9.-]{1,64}$")))]
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
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = CAPABILITY))))]
    pub cap_add: Vec<String>,
    /// Capabilities to be without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = CAPABILITY))))]
    pub cap_drop: Vec<String>,
    /// Size of the writable layer: the quota; 10 GiB when missing. The file is sparse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("minimum" = DISK_MIN.get(), "maximum" = DISK_MAX.get())))]
    pub disk_size: Option<Bytes>,
    /// Volumes, memory and files of the host that it sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOUNTS_MAX)))]
    pub mounts: Vec<MountSpec>,
    /// Secrets, without their values: each is given by `PUT /v1/microvms/{id}/secrets/{name}` before the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = SECRETS_MAX)))]
    pub secrets: Vec<SecretSpec>,
    /// How its health is checked; as the image says when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
}
