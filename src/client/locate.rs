//! Which daemon is meant: `-H`, then `HULL_HOST`, then the user's own.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The socket the user has chosen, or none: then it is the user's own daemon, started on demand.
pub(super) fn host(flag: Option<&str>) -> Result<Option<PathBuf>> {
    let variable = std::env::var("HULL_HOST").ok();
    match flag.or(variable.as_deref()).filter(|host| !host.is_empty()) {
        Some(host) => parse(host).map(Some),
        None => Ok(None),
    }
}

fn parse(host: &str) -> Result<PathBuf> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => bail!("the host '{host}' is not understood: write unix:///path/to/hull.sock"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn hosts_are_unix_sockets() {
        assert_eq!(parse("unix:///run/x.sock").unwrap(), PathBuf::from("/run/x.sock"));
        for bad in ["tcp://1.2.3.4:5", "unix://", "unix://relative", "/run/x.sock"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
