//! Further processes in a running microVM's container: what a client asks for, and what it is shown.

use serde::{Deserialize, Serialize};

use crate::agent::WindowSize;

/// `POST /v1/microvms/{id}/exec`: a process beside the container's own, in its namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Program and arguments.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[^\x00]*$"))))]
    pub command: Vec<String>,
    /// `NAME=value`, over the container's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[^=\x00]+=[^\x00]*$"))))]
    pub env: Vec<String>,
    /// Absolute; the container's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^/")))]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`; the container's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A terminal of this size instead of three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<WindowSize>,
    /// Whether standard input is passed on; else it is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// Where such a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ExecState {
    /// Made, never started.
    Created,
    /// Started, and not ended.
    Running,
    /// Ended, or it could not be started.
    Exited,
}

/// `GET /v1/exec/{id}`. Times are RFC 3339, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exec {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The id of the microVM it is in.
    pub microvm: String,
    /// Where it is in its life.
    pub state: ExecState,
    /// What was asked for; missing for one that an earlier daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ExecSpec>,
    /// Its status as a shell has it, once it has exited; 126 when the command cannot be executed, 127 when it is not
    /// there, 137 when the microVM ended under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Why it could not be started, or how it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was made, or taken over from an earlier daemon.
    pub created_at: String,
}

/// One process of a container, as `GET /v1/microvms/{id}/processes` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ContainerProcess {
    /// Its id, as the container sees it.
    pub pid: u32,
    /// Its parent's; 0 for one without a parent in the container.
    pub ppid: u32,
    /// Its user's name in the container, or the number where it has none.
    pub user: String,
    /// Processor time it has used, in milliseconds.
    pub cpu_ms: u64,
    /// When it started, in milliseconds since the guest booted.
    pub started_ms: u64,
    /// Memory of its own that is in use, in bytes.
    pub resident: u64,
    /// Its arguments, joined by spaces and cut where they are long; its name in brackets when it has none.
    pub command: String,
}
