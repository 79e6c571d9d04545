//! What the store knows of an image, and the part of its configuration that decides how it runs
//! (OCI image specification, "Image Configuration").
//!
//! Invariant: an [`ImageRecord`] describes an image that is flattened and on disk.

use std::collections::{BTreeMap, BTreeSet};

use hull_protocol::api::Image;
use hull_protocol::health::{HealthSpec, HealthTest};
use hull_protocol::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;

/// One image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRecord {
    /// Digest of its manifest.
    pub digest: Digest,
    /// The references it goes by, sorted.
    pub names: Vec<String>,
    /// When it came into the store, RFC 3339, UTC.
    pub created_at: String,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Bytes that the flattened image takes on disk.
    pub size: u64,
    /// How its container runs where the user does not say.
    pub config: ImageConfig,
}

/// How a container of an image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments, or the program with its arguments when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Where it starts; empty is the root.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// `port/protocol`, sorted.
    pub exposed_ports: BTreeSet<String>,
    /// Paths that are volumes, sorted.
    pub volumes: BTreeSet<String>,
    /// The signal to stop it with, such as `SIGTERM`; empty is that.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How its health is checked; Docker's addition to the specification.
    pub health: Option<HealthSpec>,
}

/// A configuration blob, as far as it is used. Docker writes `null` for what is empty.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) variant: String,
    #[serde(default, deserialize_with = "null_default")]
    config: RawConfig,
    pub(crate) rootfs: RootFs,
}

/// The layers as they are unpacked.
#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawConfig {
    #[serde(deserialize_with = "null_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_default")]
    user: String,
    #[serde(deserialize_with = "null_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_default")]
    stop_signal: String,
    #[serde(deserialize_with = "null_default")]
    labels: BTreeMap<String, String>,
    healthcheck: Option<RawHealth>,
}

/// Docker's health check. Times are in nanoseconds; nought, and what makes no sense, stands for the default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawHealth {
    #[serde(deserialize_with = "null_default")]
    test: Vec<String>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    retries: Option<i64>,
}

impl From<RawHealth> for HealthSpec {
    fn from(raw: RawHealth) -> Self {
        let ms =
            |time: Option<i64>| time.and_then(|ns| u64::try_from(ns / 1_000_000).ok()).filter(|ms| *ms > 0);
        let test = match raw.test.split_first() {
            Some((kind, _)) if kind == "NONE" => Some(HealthTest::None),
            Some((kind, command)) if kind == "CMD" => Some(HealthTest::Command(command.to_vec())),
            Some((kind, line)) if kind == "CMD-SHELL" => Some(HealthTest::Shell(line.join(" "))),
            _ => None,
        };
        Self {
            // One without a command would only ever fail.
            test: test.filter(|test| !matches!(test, HealthTest::Command(command) if command.is_empty())),
            interval_ms: ms(raw.interval),
            timeout_ms: ms(raw.timeout),
            start_period_ms: ms(raw.start_period),
            retries: raw
                .retries
                .and_then(|retries| u32::try_from(retries).ok())
                .filter(|retries| *retries > 0),
        }
    }
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

impl ConfigFile {
    /// The part that decides how a container runs.
    pub(crate) fn into_config(self) -> ImageConfig {
        let raw = self.config;
        ImageConfig {
            env: raw.env,
            entrypoint: raw.entrypoint,
            cmd: raw.cmd,
            workdir: raw.working_dir,
            user: raw.user,
            exposed_ports: raw.exposed_ports.into_keys().collect(),
            volumes: raw.volumes.into_keys().collect(),
            stop_signal: raw.stop_signal,
            labels: raw.labels,
            health: raw.healthcheck.map(Into::into),
        }
    }
}

impl From<&ImageRecord> for Image {
    fn from(record: &ImageRecord) -> Self {
        Self {
            digest: record.digest.to_string(),
            names: record.names.clone(),
            size: Bytes(record.size),
            created_at: record.created_at.clone(),
            platform: record.platform.clone(),
        }
    }
}

/// The time now, RFC 3339, UTC, to the second.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs())
}

/// Days to a date by the proleptic Gregorian calendar, counted from the first of March so that leap days come last.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn a_health_check_is_read_as_docker_writes_it() {
        let health = |check: &str| {
            let text = format!(r#"{{"rootfs":{{"diff_ids":[]}},"config":{{"Healthcheck":{check}}}}}"#);
            serde_json::from_str::<ConfigFile>(&text).unwrap().into_config().health
        };
        let check = r#"{"Test":["CMD-SHELL","wget x || exit 1"],"Interval":5000000000,"Retries":2}"#;
        let expected = HealthSpec {
            test: Some(HealthTest::Shell("wget x || exit 1".into())),
            interval_ms: Some(5000),
            retries: Some(2),
            ..HealthSpec::default()
        };
        assert_eq!(health(check), Some(expected));
        assert_eq!(health("null"), None);
        assert_eq!(health(r#"{"Test":["NONE"]}"#).unwrap().test, Some(HealthTest::None));
        let command = HealthTest::Command(vec!["/check".into(), "-q".into()]);
        assert_eq!(health(r#"{"Test":["CMD","/check","-q"]}"#).unwrap().test, Some(command));
        assert_eq!(
            health(r#"{"Test":["ELSE"],"Interval":-1,"Timeout":0,"Retries":-9}"#),
            Some(HealthSpec::default())
        );
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
