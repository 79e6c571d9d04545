//! Sizes with their unit in the type, parsed and printed the way Docker does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Parsed from `512`, `512k`, `512m`, `2g`, `1t` (powers of 1024, case-insensitive, an
/// optional trailing `b` or `ib`); serialized as a plain number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// One KiB, in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// The smallest disk of a container or volume: its journal and tables leave about half of it.
pub const DISK_MIN: Bytes = Bytes::mib(16);
/// The largest disk of a container or volume: every file system of a host can have such a file.
pub const DISK_MAX: Bytes = Bytes::gib(8 << 10);

impl Bytes {
    /// `n` MiB. Saturates at the largest number of bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(MIB))
    }

    /// `n` GiB. Saturates at the largest number of bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n.saturating_mul(GIB))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why a text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a size: write a whole number with an optional unit k, m, g or t, such as 512m")]
pub struct ParseBytesError(String);

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseBytesError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits_end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
        let (digits, unit) = lower.split_at(digits_end);
        let number: u64 = digits.parse().map_err(|_| bad())?;
        let shift = match unit {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
            if self.0 >= unit {
                let whole = self.0 / unit;
                let tenth = (self.0 % unit) * 10 / unit;
                return if tenth == 0 {
                    write!(f, "{whole} {name}")
                } else {
                    write!(f, "{whole}.{tenth} {name}")
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!("512m".parse(), Ok(Bytes::mib(512)));
        assert_eq!("2GiB".parse(), Ok(Bytes::gib(2)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        for bad in ["", "m", "-1", "1.5g", "12q", "99999999999999999999", "18446744073709551615k"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn sizes_print_short() {
        assert_eq!(Bytes(1).to_string(), "1 B");
        assert_eq!(Bytes::mib(1536).to_string(), "1.5 GiB");
    }
}
