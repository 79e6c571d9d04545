//! The nouns of the REST API, as JSON bodies under `/v1/`.

mod network;
mod tenant;
mod volume;

use serde::{Deserialize, Serialize};

pub use self::network::{Card, Member, Network, NetworkSpec, PlainCard, PlainCardSpec, Refused};
pub use self::tenant::{
    Amounts, AuditEntry, HOST_TENANT, LIFETIME_MAX, NewToken, Resource, Scope, Tenant, TenantPatch,
    TenantSpec, Token, TokenSpec,
};
pub use self::volume::{PrunedVolumes, Volume, VolumePatch, VolumeSpec, VolumeUse, VolumeUser};
use crate::exit::ExitReason;
use crate::health::Health;
use crate::network::PublishedPort;
use crate::spec::MicrovmSpec;
use crate::trace::TraceId;
use crate::units::Bytes;

/// A failed request: `application/problem+json`, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{detail}")]
pub struct Problem {
    /// What kind of problem it is: `about:blank` or a URI reference under `/problems/`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words, the same for every occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time and what to do about it.
    pub detail: String,
    /// The trace of the request, by which the daemon's log has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

/// The life of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made, never started.
    Created,
    /// Between the request to start and the first instruction of its process.
    Starting,
    /// Its process runs.
    Running,
    /// Stopped in place.
    Paused,
    /// Between the request to stop and its end.
    Stopping,
    /// Its process has ended, and its restart policy starts it again in a while.
    Restarting,
    /// Its process has ended.
    Stopped,
    /// It could not be started, or ended in a way nobody asked for.
    Failed,
}

impl State {
    /// Every state there is, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Restarting,
        Self::Stopped,
        Self::Failed,
    ];

    /// Whether nothing of it runs, and nothing will unless somebody asks for it.
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Created | Self::Stopped | Self::Failed)
    }

    /// The name in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// How a container ended, as `wait` and the last frame of an attached stream say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExitStatus {
    /// The process's status as a shell has it; 125 when the microVM failed, 126 when the command cannot be
    /// executed, 127 when it is not there (Docker's conventions).
    pub status: i32,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How the VM ended, where the VMM has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
    /// Whether the guest ran out of memory.
    #[serde(default)]
    pub oom_killed: bool,
}

/// One microVM, as `GET /v1/microvms/{id}` shows it. Times are RFC 3339, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Microvm {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    #[serde(default = "tenant::host_tenant")]
    pub tenant: String,
    /// Where it is in its life.
    pub state: State,
    /// What the user asked for.
    pub spec: MicrovmSpec,
    /// Digest of the image's manifest at creation.
    pub image_digest: String,
    /// The entrypoint and command that run.
    pub command: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// The process id of its VMM while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// The guest kernel's release, once the agent has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_kernel: Option<String>,
    /// What its health checks say, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Its network cards, in the order the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cards: Vec<Card>,
    /// The ports of the host that lead to it while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// Its volumes, in the order the guest sees their disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeUse>,
    /// What its user should know: what it goes without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Grows with every change: the number in its `ETag`.
    #[serde(default)]
    pub revision: u64,
    /// How often its restart policy has started it since somebody did.
    #[serde(default)]
    pub restarts: u32,
    /// Whether it was told to stop since it was last started.
    #[serde(default)]
    pub stop_requested: bool,
    /// The trace of the request that started it last, by which logs have its run; its restart policy keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

/// One image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Digest of its manifest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The references it goes by.
    pub names: Vec<String>,
    /// Size of the flattened block image.
    pub size: Bytes,
    /// When it came into the store, RFC 3339.
    pub created_at: String,
    /// `linux/amd64`.
    pub platform: String,
}

/// `POST /v1/images/pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// What to pull.
    pub reference: String,
    /// `os/architecture[/variant]`; the host's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Basic credentials; else anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Certificates in PEM to trust besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Speak HTTP without TLS to this registry.
    #[serde(default)]
    pub plain_http: bool,
}

/// A registry's user and password, or an identity token with user `<token>`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One line of the stream that a pull or an import answers with (`application/x-ndjson`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Bytes of a blob that have arrived.
    Blob {
        /// The blob's digest.
        digest: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A step without a known length has begun.
    Step(String),
    /// It is in the store; last line.
    Done(Box<Image>),
    /// It failed; last line.
    Failed(Problem),
}

/// One kernel bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The kernel's release, such as `6.1.0-40-cloud-amd64`.
    pub release: String,
    /// Size of kernel and modules.
    pub size: Bytes,
    /// Names of the modules that are loaded, in order.
    pub modules: Vec<String>,
    /// Whether microVMs that name no kernel get this one.
    pub default: bool,
    /// When it was imported, RFC 3339.
    pub created_at: String,
}

/// `GET /v1/system`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct System {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Whether it leaves when nobody needs it.
    pub on_demand: bool,
    /// Where its data is.
    pub data_dir: String,
    /// How many microVMs there are.
    #[serde(default)]
    pub microvms: usize,
    /// How many of them run.
    #[serde(default)]
    pub running: usize,
    /// What running microVMs have been promised, and may be promised at most.
    #[serde(default)]
    pub capacity: Capacity,
    /// How limits are enforced on VMMs: `v2`, `v1`, or what is missing.
    #[serde(default)]
    pub cgroups: String,
}

/// What running microVMs have been promised of their host, and may be promised at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capacity {
    /// Memory promised, what VMMs need themselves included.
    pub memory: Bytes,
    /// The most memory that may be.
    pub memory_limit: Bytes,
    /// Virtual CPUs promised.
    pub cpus: u64,
    /// The most virtual CPUs that may be.
    pub cpus_limit: u64,
}
