//! Points in time as the API shows them: RFC 3339 text, in UTC.
//!
//! Pure; called from any thread. Invariant: texts of the same length order as their times do.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;

/// Now, in nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// `time` to the second, such as `2026-02-28T23:59:59Z` (RFC 3339 section 5.6). Times before 1970 read as
/// its first second.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The nanoseconds since the Unix epoch of an RFC 3339 time, or of a number of seconds since then, both with a fraction
/// if wanted. None for what is neither.
pub fn parse(text: &str) -> Option<u64> {
    let (whole, fraction, offset) = match text.split_once(['T', 't', ' ']) {
        None => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            (digits(whole)?, fraction, 0)
        }
        Some((date, rest)) => {
            let (clock, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
            let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
            let [hour, minute, second] = parts(clock, ':')?;
            let [year, month, day] = parts(date, '-')?;
            let valid = (1970..=9999).contains(&year)
                && (1..=12).contains(&month)
                && (1..=31).contains(&day)
                && hour < 24
                && minute < 60
                && second <= 60;
            if !valid {
                return None;
            }
            let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
            (seconds, fraction, zone_offset(zone)?)
        }
    };
    let nanoseconds = match fraction {
        "" => 0,
        fraction => {
            let kept = fraction.get(..9).unwrap_or(fraction);
            digits(kept)? * 10_u64.pow(9 - u32::try_from(kept.len()).ok()?)
        }
    };
    whole.checked_sub_signed(offset)?.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// `time` to the nanosecond, from nanoseconds since the Unix epoch.
pub fn rfc3339_nanos(time: u64) -> String {
    let seconds = rfc3339(UNIX_EPOCH + std::time::Duration::from_nanos(time));
    format!("{}.{:09}Z", seconds.trim_end_matches('Z'), time % 1_000_000_000)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn parts(text: &str, between: char) -> Option<[u64; 3]> {
    let mut words = text.split(between).map(digits);
    let parts = [words.next()??, words.next()??, words.next()??];
    words.next().is_none().then_some(parts)
}

/// Seconds that a zone's clocks are ahead.
fn zone_offset(zone: &str) -> Option<i64> {
    let (sign, rest) = zone.split_at_checked(1)?;
    if matches!(sign, "Z" | "z") {
        return rest.is_empty().then_some(0);
    }
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = i64::try_from(hours * 3600 + minutes * 60).ok()?;
    Some(if sign == "-" { -ahead } else { ahead })
}

/// Days from 1970-01-01 to a Gregorian date, in years that begin in March.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let shifted = if month > 2 { year } else { year.saturating_sub(1) };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    (365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year).saturating_sub(719_468)
}

/// The Gregorian date of a day counted from 1970-01-01. Years are taken to start in March, so that the leap
/// day comes last and the months before it have a regular rhythm of 153 days in five.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, time) in [
            ("0", 0),
            ("1763707260", 1_763_707_260_000_000_000),
            ("1.5", 1_500_000_000),
            ("1.1234567891", 1_123_456_789),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2025-11-21T07:41:00.25+01:00", 1_763_707_260_250_000_000),
            ("2025-11-21 05:41:00-01:00", 1_763_707_260_000_000_000),
        ] {
            assert_eq!(parse(text), Some(time), "{text}");
        }
        for bad in [
            "",
            "now",
            "-1",
            "1.x",
            "2025-13-01T00:00:00Z",
            "2025-01-01",
            "2025-01-01T00:00Z",
            "1-1-1T1:1:1+1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(rfc3339_nanos(1_500_000_001), "1970-01-01T00:00:01.500000001Z");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(time in 0..4_000_000_000_000_000_000_u64) {
            proptest::prop_assert_eq!(parse(&rfc3339_nanos(time)), Some(time));
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "[-0-9TZ:.+ ]{0,40}") {
            let _judged = parse(&text);
        }
    }

    #[test]
    fn known_times_read_as_they_should() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
    }
}
