//! Points in time as users write them: RFC 3339, seconds since 1970, `now`, or how long ago.
//!
//! Pure but for the clock. Invariant: what is returned is a time that the API reads, as seconds with a fraction or as
//! it was written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// A time for the API.
pub(crate) fn moment(text: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if text == "now" {
        return Ok(seconds(now));
    }
    if text.contains(['-', ':', 'T']) || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok(text.to_owned());
    }
    let ago = ago(text).with_context(|| {
        format!("'{text}' is no time: write 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, such as 1h30m")
    })?;
    Ok(seconds(now.saturating_sub(ago)))
}

fn seconds(time: Duration) -> String {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

/// `1h30m`, `10s`, `2d`.
pub(crate) fn ago(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = behind.chars().next()?;
        let each = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(each)?)?;
        rest = behind.get(1..)?;
    }
    (!text.is_empty()).then(|| Duration::from_secs(sum))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn times_are_understood() {
        assert_eq!(moment("2026-01-31T12:00:00Z").unwrap(), "2026-01-31T12:00:00Z");
        assert_eq!(moment("1763707260.5").unwrap(), "1763707260.5");
        assert_eq!(ago("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(ago("2d1s"), Some(Duration::from_secs(172_801)));
        let now: f64 = moment("now").unwrap().parse().unwrap();
        let before: f64 = moment("10m").unwrap().parse().unwrap();
        assert!((now - before - 600.0).abs() < 5.0);
        for bad in ["", "soon", "10", "m", "1x", "99999999999999999999s"] {
            assert_eq!(ago(bad), None, "{bad}");
        }
    }
}
