//! What the daemon logs, for people or for programs.
//!
//! Owner: the daemon's tracing, from any thread. Invariant: what happens is one line of at most [`LINE_MAX`] bytes, without
//! control characters, whatever a client or a guest has written into it.

use std::borrow::Cow;
use std::io::{self, Write};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use serde_json::Value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::bounded_log::BoundedLog;

/// Sets the format where no flag does.
const VARIABLE: &str = "HULL_LOG_FORMAT";
/// The most bytes of a line.
const LINE_MAX: usize = 16 << 10;
/// The most bytes of a text in a line of JSON that is too long.
const TEXT_MAX: usize = 1 << 10;

/// How the daemon's log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// A line for people
    #[default]
    Human,
    /// An object of JSON on each line
    Json,
}

impl LogFormat {
    /// The format that a flag says, else the environment.
    pub(super) fn chosen(flag: Option<Self>) -> Result<Self> {
        match (flag, std::env::var(VARIABLE)) {
            (Some(format), _) => Ok(format),
            (None, Ok(text)) => Self::from_str(&text, false)
                .map_err(|_| anyhow!("{VARIABLE} is '{text}', which is no format: write human or json")),
            (None, Err(_)) => Ok(Self::default()),
        }
    }

    /// Has all that is logged from now on written so.
    pub(super) fn install(self, filter: EnvFilter, log: BoundedLog) {
        let lines = Lines { format: self, log };
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_ansi(false);
        match self {
            Self::Human => log.init(),
            // Of the spans the innermost is enough: it has the trace.
            Self::Json => log.json().flatten_event(true).with_span_list(false).init(),
        }
    }

    /// A line as it may be written.
    fn tamed(self, line: &str) -> Cow<'_, str> {
        let body = line.strip_suffix('\n').unwrap_or(line);
        if body.len() < LINE_MAX && !body.contains(char::is_control) {
            return line.into();
        }
        match self {
            Self::Human => {
                let mut tame = String::new();
                for c in body.chars() {
                    let escaped = c.is_control().then(|| c.escape_default().to_string());
                    match escaped {
                        Some(escaped) => tame.push_str(&escaped),
                        None => tame.push(c),
                    }
                }
                (cut(&tame, LINE_MAX - "…\n".len()) + "\n").into()
            }
            Self::Json => {
                let mut event: Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
                shorten(&mut event);
                format!("{event}\n").into()
            }
        }
    }
}

/// The beginning of a text that is too long.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let kept = (0..=max).rev().find_map(|end| text.get(..end)).unwrap_or_default();
    format!("{kept}…")
}

/// Cuts every text: how many there are is ours to say.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            text.retain(|c| !c.is_control() || c == '\n');
            *text = cut(text, TEXT_MAX);
        }
        Value::Array(all) => all.iter_mut().for_each(shorten),
        Value::Object(all) => all.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Writes line by line, as tracing does.
#[derive(Clone)]
struct Lines {
    format: LogFormat,
    log: BoundedLog,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.write_all(self.format.tamed(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log.flush()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_stays_one_line_of_bounded_length() {
        let human = |line: &str| LogFormat::Human.tamed(line).into_owned();
        assert_eq!(human("grüße\n"), "grüße\n");
        assert_eq!(human("a\u{1b}[31m\nfake\u{85}\n"), "a\\u{1b}[31m\\nfake\\u{85}\n");
        let long = human(&"ä".repeat(LINE_MAX));
        assert!(long.len() <= LINE_MAX && long.ends_with("ä…\n"), "{}", long.len());
    }

    #[test]
    fn a_line_of_json_stays_json() {
        let line = format!("{}\n", json!({"message": "x".repeat(LINE_MAX), "span": {"trace": "\u{9b}1"}}));
        let tamed = LogFormat::Json.tamed(&line).into_owned();
        let event: Value = serde_json::from_str(&tamed).unwrap();
        assert_eq!(event["message"].as_str().unwrap().len(), TEXT_MAX + '…'.len_utf8());
        assert_eq!(event["span"]["trace"], "1");
        assert!(tamed.ends_with("}\n") && !tamed.trim_end().contains(char::is_control));
        let short = "{\"message\":\"a\\nb\"}\n";
        assert_eq!(LogFormat::Json.tamed(short), short);
    }
}
