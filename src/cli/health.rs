//! The flags of `run` and `create` for health checks.

use clap::Args;
use hull_protocol::health::{HealthSpec, HealthTest};

/// How a container's health is checked.
#[derive(Debug, Args)]
pub(super) struct HealthFlags {
    /// Command line that says whether the container is healthy, run by its shell
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    health_cmd: Option<String>,
    /// Time between checks, such as 1m30s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "no_healthcheck")]
    health_interval: Option<u64>,
    /// Time a check may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "no_healthcheck")]
    health_timeout: Option<u64>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "no_healthcheck")]
    health_retries: Option<u32>,
    /// Time after the start in which failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "no_healthcheck")]
    health_start_period: Option<u64>,
    /// Leave out the image's health check
    #[arg(long)]
    no_healthcheck: bool,
}

impl HealthFlags {
    /// What they ask for; none when they say nothing.
    pub(super) fn spec(&self) -> Option<HealthSpec> {
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (_, true) => Some(HealthTest::None),
            (Some(line), false) => Some(HealthTest::Shell(line.clone())),
            (None, false) => None,
        };
        let spec = HealthSpec {
            test,
            interval_ms: self.health_interval,
            timeout_ms: self.health_timeout,
            start_period_ms: self.health_start_period,
            retries: self.health_retries,
        };
        (spec != HealthSpec::default()).then_some(spec)
    }
}

/// A time as Docker writes it, `1h`, `1m30s`, `500ms`, `0`, in milliseconds.
fn milliseconds(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let wrong = || format!("'{text}' is no time: write it as 30s, 1m30s or 500ms");
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut sum) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        sum = number.checked_mul(*factor).and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_writes_them() {
        for (text, ms) in [
            ("0", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h1ms", 3_600_001),
        ] {
            assert_eq!(milliseconds(text), Ok(ms), "{text}");
        }
        for bad in ["", "s", "10", "1d", "-1s", "1.5s", "s1", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }
}
