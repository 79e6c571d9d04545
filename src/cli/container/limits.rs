//! What a microVM gets of its host, as flags.

use anyhow::{Context, Result};
use clap::Args;
use hull_protocol::life::{DiskLimit, HostLimits};
use hull_protocol::network::Rate;

#[derive(Debug, Args)]
pub(super) struct Limits {
    /// Weight when processors are scarce, 2 to 262144 [default: 1024]
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u32>,
    /// Microseconds of processor time in each 100 ms
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<u64>,
    /// Most processes and threads in the container
    #[arg(long, value_name = "N")]
    pids_limit: Option<u32>,
    /// Limit on what each disk reads and writes together: bytes a second such as 12mb (steps of 1000)
    #[arg(long, value_name = "RATE")]
    disk_rate: Option<String>,
    /// Limit on each disk's requests, a second
    #[arg(long, value_name = "N")]
    disk_iops: Option<u64>,
}

impl Limits {
    pub(super) fn spec(&self) -> Result<HostLimits> {
        let requests = self.disk_iops.map(|per_second| Rate { per_second, burst: None });
        let disk = DiskLimit { bytes: self.disk_rate.as_deref().map(rate).transpose()?, requests };
        Ok(HostLimits {
            cpu_shares: self.cpu_shares.map(TryInto::try_into).transpose()?,
            cpu_quota: self.cpu_quota.map(TryInto::try_into).transpose()?,
            disk: (disk != DiskLimit::default()).then_some(disk),
            processes: self.pids_limit.map(TryInto::try_into).transpose()?,
        })
    }
}

/// Bits or bytes a second.
pub(super) fn rate(text: &str) -> Result<Rate> {
    const UNITS: [(&str, u64, u64); 8] = [
        ("gbit", 1_000_000_000, 8),
        ("mbit", 1_000_000, 8),
        ("kbit", 1000, 8),
        ("bit", 1, 8),
        ("gb", 1_000_000_000, 1),
        ("mb", 1_000_000, 1),
        ("kb", 1000, 1),
        ("b", 1, 1),
    ];
    let lower = text.to_ascii_lowercase();
    let read = || {
        let (unit, times, divisor) = UNITS.iter().find(|(unit, ..)| lower.ends_with(unit))?;
        let number: u64 = lower.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*times).map(|rate| rate / divisor).filter(|rate| *rate > 0)
    };
    let per_second = read().with_context(|| {
        format!("'{text}' is no rate: write bits a second such as 100mbit, or bytes a second such as 12mb")
    })?;
    Ok(Rate { per_second, burst: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_or_bytes() {
        let bytes = |text: &str| rate(text).ok().map(|rate| rate.per_second);
        assert_eq!(bytes("100mbit"), Some(12_500_000));
        assert_eq!(bytes("12MB"), Some(12_000_000));
        assert_eq!(bytes("8bit"), Some(1));
        for bad in ["", "10", "mbit", "-1mbit", "1.5mb", "0mb", "7bit", "99999999999999999999gb"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
