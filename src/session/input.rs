//! Standard input, passed on to the process; ctrl-p ctrl-q on a terminal leaves it.

use std::io::{self, Read};

use anyhow::Result;
use hull_protocol::stream::{Kind, PAYLOAD_MAX};
use tokio::sync::mpsc;

use super::End;
use crate::stream::FrameWriter;

const CTRL_P: u8 = 16;
const CTRL_Q: u8 = 17;

/// Passes standard input on to its end, which is passed on, too.
pub(super) async fn pass(mut writer: FrameWriter, terminal: bool, leave: mpsc::Sender<End>) -> Result<()> {
    let mut chunks = chunks();
    let mut keys = DetachKeys::default();
    while let Some(chunk) = chunks.recv().await {
        let (chunk, detached) = if terminal { keys.filter(&chunk) } else { (chunk, false) };
        if !chunk.is_empty() {
            writer.send(Kind::Stdin, &chunk).await?;
        }
        if detached {
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

/// Looks for ctrl-p ctrl-q.
#[derive(Default)]
struct DetachKeys {
    begun: bool,
}

impl DetachKeys {
    /// What of `typed` is for the process, and whether the user leaves. A ctrl-p is kept back until the next key.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut kept = Vec::with_capacity(typed.len() + 1);
        for key in typed {
            match (self.begun, *key) {
                (true, CTRL_Q) => return (kept, true),
                (true, CTRL_P) => kept.push(CTRL_P),
                (true, key) => {
                    self.begun = false;
                    kept.extend([CTRL_P, key]);
                }
                (false, CTRL_P) => self.begun = true,
                (false, key) => kept.push(key),
            }
        }
        (kept, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_p_ctrl_q_leaves_and_everything_else_arrives() {
        for (chunks, arrives, leaves) in [
            (&[&b"ab"[..], b"c"][..], &b"abc"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"a\x10", b"b"], b"a\x10b", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11\x10x"], b"\x11\x10x", false),
        ] {
            let mut keys = DetachKeys::default();
            let (mut all, mut left) = (Vec::new(), false);
            for chunk in chunks {
                let (kept, now) = keys.filter(chunk);
                all.extend(kept);
                left |= now;
            }
            assert_eq!((&all[..], left), (arrives, leaves), "{chunks:?}");
        }
    }
}
