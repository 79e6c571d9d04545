//! The nouns of a microVM's life: restart policies, limits on the host, changes, events, measurements.
//!
//! Pure data, of the REST API under `/v1/`. Invariant: a policy or limit that is decoded can be enforced as it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::State;
use crate::network::Rate;
use crate::units::Bytes;

/// When a microVM whose process has ended is started again; written as Docker writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = r"^(no|always|unless-stopped|on-failure(:[0-9]{1,9})?)$")))]
#[serde(into = "String", try_from = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After a status other than 0 or a failure, so many times in a row; without a number, always.
    OnFailure(Option<u32>),
    /// Whatever its status, unless it was told to stop; a daemon that stays starts it when it starts itself.
    Always,
    /// As `always`, but one that was told to stop stays stopped when the daemon starts.
    UnlessStopped,
}

/// A text that is no restart policy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no restart policy: use no, on-failure, on-failure:N, always or unless-stopped")]
pub struct BadRestartPolicy(String);

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = BadRestartPolicy;

    fn from_str(text: &str) -> Result<Self, BadRestartPolicy> {
        let bad = || BadRestartPolicy(text.to_owned());
        match text {
            "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure(None)),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            other => {
                let times = other.strip_prefix("on-failure:").ok_or_else(bad)?;
                let digits = times.bytes().all(|byte| byte.is_ascii_digit());
                let times = times.parse().ok().filter(|_| digits).ok_or_else(bad)?;
                // As Docker has it, none is no limit.
                Ok(Self::OnFailure(Some(times).filter(|times| *times > 0)))
            }
        }
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = BadRestartPolicy;

    fn try_from(text: String) -> Result<Self, BadRestartPolicy> {
        text.parse()
    }
}

/// The period of [`HostLimits::cpu_quota`], in microseconds.
pub const CPU_PERIOD: u64 = 100_000;

/// A weight among all processes that want a processor: 2 to 262,144, 1,024 is the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("minimum" = 2, "maximum" = 262_144)))]
#[serde(into = "u32", try_from = "u32")]
pub struct CpuShares(u32);

/// Processor time in each period of [`CPU_PERIOD`], in microseconds: at least 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("minimum" = 1000, "maximum" = 100_000_000)))]
#[serde(into = "u64", try_from = "u64")]
pub struct CpuQuota(u64);

/// Processes and threads of a container: 1 to 4,194,304, the most that a kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("minimum" = 1, "maximum" = 4_194_304)))]
#[serde(into = "u32", try_from = "u32")]
pub struct ProcessesMax(u32);

/// How much may be asked of a disk in a time, reading and writing together; what is missing limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskLimit {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate>,
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
}

/// A limit that no host can enforce.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadLimit {
    /// Shares out of range.
    #[error("{0} CPU shares are not possible: give 2 to 262144, 1024 is the usual")]
    Shares(u32),
    /// A quota out of range.
    #[error("a CPU quota of {0} is not possible: give 1000 to 100000000 microseconds in each 100 ms")]
    Quota(u64),
    /// A number of processes out of range.
    #[error("{0} processes are not possible: give 1 to 4194304")]
    Processes(u32),
}

impl TryFrom<u32> for ProcessesMax {
    type Error = BadLimit;

    fn try_from(most: u32) -> Result<Self, BadLimit> {
        if (1..=4_194_304).contains(&most) { Ok(Self(most)) } else { Err(BadLimit::Processes(most)) }
    }
}

impl From<ProcessesMax> for u32 {
    fn from(most: ProcessesMax) -> Self {
        most.0
    }
}

impl TryFrom<u32> for CpuShares {
    type Error = BadLimit;

    fn try_from(shares: u32) -> Result<Self, BadLimit> {
        if (2..=262_144).contains(&shares) { Ok(Self(shares)) } else { Err(BadLimit::Shares(shares)) }
    }
}

impl From<CpuShares> for u32 {
    fn from(shares: CpuShares) -> Self {
        shares.0
    }
}

impl TryFrom<u64> for CpuQuota {
    type Error = BadLimit;

    fn try_from(quota: u64) -> Result<Self, BadLimit> {
        if (1000..=100_000_000).contains(&quota) { Ok(Self(quota)) } else { Err(BadLimit::Quota(quota)) }
    }
}

impl From<CpuQuota> for u64 {
    fn from(quota: CpuQuota) -> Self {
        quota.0
    }
}

/// What the host gives a microVM's VMM, beyond the size of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// Its weight when processors are scarce; 1,024 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<CpuShares>,
    /// The most processor time it gets; as much as it has processors when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<CpuQuota>,
    /// How much its guest may ask of each of its disks; as much as the host can when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskLimit>,
    /// The most processes and threads its container has, further commands' included; enforced by the guest's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<ProcessesMax>,
}

/// `PATCH /v1/microvms/{id}`: what is missing stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MicrovmPatch {
    /// Its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")))]
    pub name: Option<String>,
    /// Labels that are set, or, with null, taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Its new restart policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Its new weight; enforced at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<CpuShares>,
    /// Its new quota; enforced at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<CpuQuota>,
}

/// What an [`Event`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A microVM.
    Microvm,
    /// An image.
    Image,
    /// A kernel bundle.
    Kernel,
    /// A volume.
    Volume,
}

/// Something that happened, as `GET /v1/events` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Its number: later events have higher ones, also those of later daemons.
    pub id: u64,
    /// When, RFC 3339, UTC.
    pub time: String,
    /// What it is about.
    pub subject: Subject,
    /// What happened, such as `start`.
    pub action: String,
    /// The id of what it is about.
    pub of: String,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// More about it, such as the exit status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What a microVM uses of its host right now. Counters begin at its VMM's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// The microVM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When this was measured, in nanoseconds since the Unix epoch.
    pub time_unix_ns: u64,
    /// Where it is in its life.
    pub state: State,
    /// Number of virtual CPUs.
    pub cpus: u8,
    /// Processor time of its VMM, guest and devices together, in nanoseconds.
    pub cpu_ns: u64,
    /// Processor time of that which the guest itself took, in nanoseconds.
    pub guest_cpu_ns: u64,
    /// How long it was kept from running by its quota, in nanoseconds; missing where the host does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_ns: Option<u64>,
    /// Host memory that its VMM holds, the guest's included.
    pub memory: Bytes,
    /// The guest's memory.
    pub guest_memory: Bytes,
    /// The most its VMM can hold; missing where the host does not enforce it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Bytes>,
    /// Threads of its VMM.
    pub threads: u32,
    /// Bytes its VMM has read from the host's disks.
    pub disk_read: Bytes,
    /// Bytes its VMM has written to the host's disks.
    pub disk_written: Bytes,
    /// What went over its network cards, all together; missing where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetUse>,
}

/// What went over network cards, from the Ethernet header on, as their guest sees it. A frame that was cut up later, or
/// put together earlier, counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetUse {
    /// Bytes received.
    pub received: Bytes,
    /// Frames received.
    pub received_packets: u64,
    /// Bytes sent.
    pub sent: Bytes,
    /// Frames sent.
    pub sent_packets: u64,
}

/// `GET /v1/system/df`: disk space in use, and how much of it a prune gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskUsage {
    /// By kind, as tables show it.
    pub kinds: Vec<DiskUse>,
    /// Free on the file system that holds it all.
    pub free: Bytes,
}

/// The disk space of one kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskUse {
    /// `microvms`, `volumes`, `images`, `kernels`.
    pub kind: String,
    /// How many there are.
    pub count: usize,
    /// How many of them are in use.
    pub active: usize,
    /// What they take.
    pub size: Bytes,
    /// What those take that are not in use.
    pub reclaimable: Bytes,
}

/// `POST /v1/system/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Images that no microVM uses, even those with a name.
    #[serde(default)]
    pub all_images: bool,
    /// Leave microVMs that do not run.
    #[serde(default)]
    pub keep_microvms: bool,
    /// Volumes that no microVM was made with, and all that is in them.
    #[serde(default)]
    pub volumes: bool,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pruned {
    /// Ids of microVMs.
    pub microvms: Vec<String>,
    /// Names or digests of images.
    pub images: Vec<String>,
    /// Names of volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Disk space given back.
    pub freed: Bytes,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("on-failure:0".parse(), Ok(RestartPolicy::OnFailure(None)));
        for bad in ["", "never", "on-failure:", "on-failure:-1", "on-failure:+1", "always:3"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_that_no_host_can_enforce_are_refused() {
        for bad in [
            r#"{"cpu_shares":1}"#,
            r#"{"cpu_shares":262145}"#,
            r#"{"cpu_quota":999}"#,
            r#"{"cpu_quota":-1}"#,
            r#"{"cpu":1}"#,
        ] {
            assert!(serde_json::from_str::<HostLimits>(bad).is_err(), "{bad}");
        }
        let limits: HostLimits = serde_json::from_str(r#"{"cpu_shares":2,"cpu_quota":1000}"#).unwrap();
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"cpu_shares":2,"cpu_quota":1000}"#);
    }
}
