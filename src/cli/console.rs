//! `hull console`: what a microVM's guest has written on its serial console.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::logs::{Tail, tail};
use crate::client::{Client, Host, microvm_path};

/// Show what a microVM's guest kernel has written on its console
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal, control characters are shown escaped: a guest chooses what it writes. Elsewhere every byte is as it was.")]
pub(super) struct Console {
    /// Go on with what it writes from now on
    #[arg(short, long)]
    follow: bool,
    /// So many lines from the end, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Id, name or beginning of an id
    microvm: String,
}

impl Console {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut query = format!("/console?follow={}", self.follow);
        if let Tail(Some(lines)) = self.tail {
            query.push_str(&format!("&tail={lines}"));
        }
        let mut pieces = client.download(&microvm_path(&self.microvm, &query)).await?;
        let (mut stdout, mut harmless) = (io::stdout(), Harmless::default());
        let seen = stdout.is_terminal();
        while let Some(piece) = pieces.next().await.context("the daemon went away")? {
            let piece = if seen { harmless.shown(&piece).into() } else { piece };
            // Nothing else goes on meanwhile: a write may block.
            match stdout.write_all(&piece).and_then(|()| stdout.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                other => other.context("the console cannot be written")?,
            }
        }
        if seen {
            let _terminal_has_gone = stdout.write_all(harmless.end().as_bytes());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes what somebody else wrote harmless to a terminal, piece by piece: printable characters, newlines and tabs are
/// kept, everything else is escaped.
#[derive(Default)]
struct Harmless {
    /// The beginning of a character or of a line's end: three bytes at most.
    rest: Vec<u8>,
}

impl Harmless {
    fn shown(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let whole = bytes.len().saturating_sub(unfinished(&bytes));
        self.rest = bytes.split_off(whole);
        escaped(&bytes)
    }

    /// What was not finished.
    fn end(&mut self) -> String {
        escaped(&std::mem::take(&mut self.rest))
    }
}

/// How many bytes at the end may have another meaning with what follows.
fn unfinished(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        _ if bytes.ends_with(b"\r") => 1,
        Some(last) if !last.invalid().is_empty() => match std::str::from_utf8(last.invalid()) {
            // None: more bytes could make it a character.
            Err(error) if error.error_len().is_none() => last.invalid().len(),
            _ => 0,
        },
        _ => 0,
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\n' | '\t' | '\\' | '\'' | '"' => shown.push(c),
                // As serial consoles end lines.
                '\r' if characters.peek() == Some(&'\n') => {}
                // Leaves what can be printed as it is.
                c => shown.extend(c.escape_debug()),
            }
        }
        chunk.invalid().iter().for_each(|byte| shown.push_str(&format!("\\x{byte:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut harmless = Harmless::default();
        let mut all: String = pieces.iter().map(|piece| harmless.shown(piece)).collect();
        all.push_str(&harmless.end());
        all
    }

    #[test]
    fn what_can_be_printed_is_kept_and_the_rest_is_escaped() {
        assert_eq!(
            shown(&["[    0.0] \"grüße\" \\ 'x'\t日本\r\n".as_bytes()]),
            "[    0.0] \"grüße\" \\ 'x'\t日本\n"
        );
        assert_eq!(
            shown(&[b"\x1b]0;owned\x07\x1b[2J\rover\x7f\0"]),
            "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\rover\\u{7f}\\0"
        );
        // Control characters beyond ASCII, text that runs backwards, and what is no UTF-8 at all.
        assert_eq!(shown(&["\u{9b}31m\u{202e}".as_bytes(), b"\xff\xc3"]), "\\u{9b}31m\\u{202e}\\xff\\xc3");
    }

    #[test]
    fn characters_may_come_in_pieces() {
        let text = "ä\r\n日\u{1f600}\r".as_bytes();
        let pieces: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(shown(&pieces), "ä\n日\u{1f600}\\r");
        assert_eq!(shown(&[b"\xe6\x97", b"x"]), "\\xe6\\x97x");
        assert_eq!(shown(&[b"\xe6", b"\x1b"]), "\\xe6\\u{1b}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_reaches_the_terminal_that_it_would_obey(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let text = shown(&pieces);
            proptest::prop_assert!(!text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')));
            proptest::prop_assert_eq!(text, shown(&[pieces.concat().as_slice()]));
        }
    }
}
