//! Health checks: a command that says every so often whether the container does its work, as Docker has them.

use serde::{Deserialize, Serialize};

/// How a container's health is checked. What is missing is the image's; what that lacks too, the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// What is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<HealthTest>,
    /// Milliseconds between the end of one check and the next; 30 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// Milliseconds a check may take; 30 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Milliseconds after the start in which failures do not count; none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period_ms: Option<u64>,
    /// Failures in a row that make it unhealthy; 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// What a check runs. Status 0 is healthy, every other is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HealthTest {
    /// Nothing: the image's check, too, is left out.
    None,
    /// A program with its arguments.
    Command(#[cfg_attr(feature = "schema", schemars(length(min = 1)))] Vec<String>),
    /// A line for the container's `/bin/sh`.
    Shell(String),
}

/// What is known of a container's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row up to now.
    pub failing_streak: u32,
    /// The last checks, the newest last.
    #[serde(default)]
    pub log: Vec<HealthResult>,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// No check has succeeded yet, nor have too many failed.
    Starting,
    /// The last check succeeded, or not too many failed since.
    Healthy,
    /// Too many checks in a row failed.
    Unhealthy,
}

impl HealthStatus {
    /// The name in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check. Times are RFC 3339, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HealthResult {
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub finished_at: String,
    /// Its status; -1 when it took too long or could not be run.
    pub status: i32,
    /// The beginning of what it printed, or why it could not be run.
    pub output: String,
}
