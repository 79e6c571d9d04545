//! Tables for people: aligned columns, sizes, ages and shortened ids, as Docker's.
//!
//! Owner: the verb that lists. Invariant: what a table shows is one line a row, whatever names hold.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Spaces between columns.
const GAP: usize = 3;

/// Rows under a headline.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headline: &[&str]) -> Self {
        Self { rows: vec![headline.iter().map(|title| (*title).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(line, "{cell:<width$}{:GAP$}", "");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The first twelve digits of an id or digest, or all of them.
pub(crate) fn short(id: &str, all: bool) -> String {
    if all {
        return id.to_owned();
    }
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits).to_owned()
}

/// At most `most` characters, the last one `…` where something was left out.
pub(crate) fn cut(text: &str, most: usize, all: bool) -> String {
    if all || text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A terminal must not take orders from a name.
fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How long ago an RFC 3339 time was, in words; the time itself when it is not understood.
pub(crate) fn ago(time: &str) -> String {
    since(time).map_or_else(|| time.to_owned(), |seconds| format!("{} ago", duration(seconds)))
}

/// How long something that began then has lasted, in words.
pub(crate) fn lasting(time: &str) -> String {
    since(time).map_or_else(|| format!("since {time}"), duration)
}

fn since(time: &str) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(unix_seconds(time)?))
}

/// Docker's words for a number of seconds.
fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Seconds since 1970 of an RFC 3339 time. None for what is none, or before 1970.
fn unix_seconds(time: &str) -> Option<u64> {
    let (date, rest) = time.split_once(['T', 't', ' '])?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let mut clock = clock.split('.').next()?.split(':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds =
                hours.parse::<i64>().ok()?.checked_mul(3600)? + minutes.parse::<i8>().ok()? as i64 * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second - offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_stay_lines() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(vec!["a-longer-name".into(), "1 MiB".into()]);
        table.row(vec!["e\u{1b}[31m\n".into(), String::new()]);
        assert_eq!(table.render(), "NAME            SIZE\na-longer-name   1 MiB\ne\u{fffd}[31m\u{fffd}\n");
    }

    #[test]
    fn ids_and_words_are_cut() {
        assert_eq!(short("sha256:0123456789abcdef", false), "0123456789ab");
        assert_eq!(short("sha256:0123456789abcdef", true), "sha256:0123456789abcdef");
        assert_eq!(short("ab", false), "ab");
        assert_eq!(cut("sleep infinity", 6, false), "sleep…");
        assert_eq!(cut("sleep", 5, false), "sleep");
    }

    #[test]
    fn times_are_read() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2000-02-29T12:30:15.123456789Z"), Some(951_827_415));
        assert_eq!(unix_seconds("2025-11-21T07:41:00+01:00"), Some(1_763_707_260));
        for bad in ["", "yesterday", "2025-13-01T00:00:00Z", "2025-01-01T00:00:00", "2025-01-01", "1-1-1TZ"] {
            assert_eq!(unix_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn ages_are_dockers() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (600, "10 minutes"),
            (3700, "About an hour"),
            (86_400, "24 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 100, "3 months"),
            (86_400 * 1000, "2 years"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }
}
