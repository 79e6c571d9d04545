//! Standard input, passed on to the process; the detach keys on a terminal leave it.

use std::io::{self, Read};
use std::str::FromStr;

use anyhow::{Result, bail};
use hull_protocol::stream::{Kind, PAYLOAD_MAX};
use tokio::sync::mpsc;

use super::End;
use crate::stream::FrameWriter;

/// Passes standard input on to its end, which is passed on, too. On a terminal it looks for `keys`.
pub(super) async fn pass(
    mut writer: FrameWriter,
    mut keys: Option<DetachKeys>,
    leave: mpsc::Sender<End>,
) -> Result<()> {
    let mut chunks = chunks();
    while let Some(chunk) = chunks.recv().await {
        let (chunk, detached) = match &mut keys {
            Some(keys) => keys.filter(&chunk),
            None => (chunk, false),
        };
        if !chunk.is_empty() {
            writer.send(Kind::Stdin, &chunk).await?;
        }
        if detached {
            writer.send(Kind::Detach, &[]).await?;
            let _session_has_ended = leave.send(End::Detached).await;
            return Ok(());
        }
    }
    writer.send(Kind::Stdin, &[]).await?;
    // The connection stays open for output.
    std::future::pending().await
}

/// Reads in a thread, which ends with the program: a read cannot be interrupted.
fn chunks() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut bytes = vec![0; PAYLOAD_MAX];
        loop {
            let length = match io::stdin().read(&mut bytes) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_terminal_has_gone) => return,
            };
            let chunk = bytes.get(..length).unwrap_or_default().to_vec();
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What the user types to leave a terminal, and how much of it has been typed. None leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    sequence: Vec<u8>,
    typed: usize,
}

impl Default for DetachKeys {
    /// Ctrl-p ctrl-q.
    fn default() -> Self {
        Self { sequence: vec![16, 17], typed: 0 }
    }
}

impl FromStr for DetachKeys {
    type Err = anyhow::Error;

    /// As Docker writes them: `ctrl-p,ctrl-q`, `a,ctrl-]`; nothing for none.
    fn from_str(text: &str) -> Result<Self> {
        let sequence = text.split(',').filter(|_| !text.is_empty()).map(key).collect::<Result<_>>()?;
        Ok(Self { sequence, typed: 0 })
    }
}

/// The byte that a key sends.
fn key(name: &str) -> Result<u8> {
    match (name.strip_prefix("ctrl-"), name.as_bytes()) {
        (Some(key), _) => match key.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
            [b'@'] => Ok(0),
            [b'['] => Ok(27),
            [b'\\'] => Ok(28),
            [b']'] => Ok(29),
            [b'^'] => Ok(30),
            [b'_'] => Ok(31),
            _ => bail!("'{name}' is no key: write ctrl- and a letter or one of @ [ \\ ] ^ _"),
        },
        (None, [key @ b' '..=b'~']) => Ok(*key),
        _ => bail!("'{name}' is no key: write one character, or ctrl- and one, such as ctrl-p,ctrl-q"),
    }
}

impl DetachKeys {
    /// What of `typed` is for the process, and whether the user leaves. The beginning of the keys is kept back until
    /// the next one.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut kept = Vec::with_capacity(typed.len() + self.typed);
        for key in typed {
            // As much of what was kept back as is no beginning any more is for the process.
            while self.typed > 0 && self.sequence.get(self.typed) != Some(key) {
                kept.extend(self.sequence.first());
                self.typed = self.shorter();
            }
            if self.sequence.get(self.typed) != Some(key) {
                kept.push(*key);
                continue;
            }
            self.typed += 1;
            if self.typed == self.sequence.len() {
                return (kept, true);
            }
        }
        (kept, false)
    }

    /// How much of the keys is still typed when the first of what was typed is given up.
    fn shorter(&self) -> usize {
        let typed = self.sequence.get(..self.typed).unwrap_or_default();
        (0..self.typed)
            .rev()
            .find(|length| typed.ends_with(self.sequence.get(..*length).unwrap_or_default()))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn the_detach_keys_leave_and_everything_else_arrives() {
        let default = DetachKeys::default();
        let same: DetachKeys = "ctrl-p,ctrl-q".parse().unwrap();
        assert_eq!(default, same);
        let cases = [
            ("ctrl-p,ctrl-q", &[&b"ab"[..], b"c"][..], &b"abc"[..], false),
            ("ctrl-p,ctrl-q", &[b"a\x10\x11b"], b"a", true),
            ("ctrl-p,ctrl-q", &[b"a\x10", b"\x11"], b"a", true),
            ("ctrl-p,ctrl-q", &[b"a\x10", b"b"], b"a\x10b", false),
            ("ctrl-p,ctrl-q", &[b"\x10\x10\x11"], b"\x10", true),
            ("ctrl-p,ctrl-q", &[b"\x11\x10x"], b"\x11\x10x", false),
            ("a,a,b", &[b"aaa", b"ab"], b"aa", true),
            ("a,a,b", &[b"aacaab"], b"aac", true),
            ("~,.", &[b"x~~."], b"x~", true),
            ("", &[b"\x10\x11"], b"\x10\x11", false),
        ];
        for (keys, chunks, arrives, leaves) in cases {
            let mut keys: DetachKeys = keys.parse().unwrap();
            let (mut all, mut left) = (Vec::new(), false);
            for chunk in chunks {
                let (kept, now) = keys.filter(chunk);
                all.extend(kept);
                left |= now;
            }
            assert_eq!((&all[..], left), (arrives, leaves), "{chunks:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["ctrl-", "ctrl-pq", "ctrl-1", "ab", "a,,b", "\u{e9}"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
        assert_eq!("ctrl-@,ctrl-],z".parse::<DetachKeys>().unwrap().sequence, [0, 29, b'z']);
    }
}
