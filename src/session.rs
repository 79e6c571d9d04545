//! A session: this program's standard streams and signals, tied to a microVM's process.
//!
//! Owner: one verb (`run`, `start --attach`, `attach`, `exec`), on its one thread; standard input is read and output
//! written by a thread each, because both may block. Invariant: neither direction waits for the other, and
//! signals go beside the stream, so that a process that reads nothing can still be interrupted.

mod input;
mod output;
mod signals;

use std::future::Future;

use anyhow::{Context, Result, bail};
use hull_protocol::api::ExitStatus;
use hull_protocol::stream::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::stream::Attached;
use crate::terminal::Raw;

pub(crate) use input::DetachKeys;
pub(crate) use signals::set_size;

/// What a session ties together.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The path of whose process it is: a microVM's, or an exec's.
    pub(crate) path: String,
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
    /// Whether signals are passed on.
    pub(crate) signals: bool,
    /// What the user types to leave a terminal.
    pub(crate) keys: DetachKeys,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process ended.
    Exit(ExitStatus),
    /// The user left with the detach keys; the process runs on.
    Detached,
    /// The user insisted on leaving with a third signal, or signals are not passed on.
    Interrupted(i32),
}

impl Session {
    /// Attaches to the microVM's streams.
    pub(crate) async fn attach(&self) -> Result<Attached> {
        self.client.attach(&format!("{}/attach?stdin={}", self.path, self.stdin)).await
    }

    /// Passes everything on until the process ends. `start` is done meanwhile: what the process says before
    /// that is answered is not kept waiting.
    pub(crate) async fn run(
        self,
        attached: Attached,
        start: impl Future<Output = Result<()>>,
    ) -> Result<End> {
        let _raw = if self.terminal && self.stdin { Raw::enter()? } else { None };
        let Attached { mut frames, input } = attached;
        let (leave, mut left) = mpsc::channel(4);
        let keys = self.terminal.then(|| self.keys.clone());
        let writer = self.stdin.then(|| tokio::spawn(input::pass(input, keys, leave.clone())));
        let watcher = tokio::spawn(signals::pass(self.signal_target(), leave));
        let (output, closed) = output::Output::new();
        let pipes =
            tokio::spawn(signals::tell_of_closed_pipe(self.client.clone(), self.path.clone(), closed));
        let receive = async {
            while let Some((kind, payload)) = frames.next().await? {
                match kind {
                    Kind::Stdout | Kind::Stderr => output.write(kind, payload).await?,
                    Kind::Exit => {
                        let status = serde_json::from_slice(&payload);
                        let status = status.context("the daemon's exit status is not understood")?;
                        output.finish().await?;
                        return Ok(End::Exit(status));
                    }
                    Kind::Stdin | Kind::Resize | Kind::Signal | Kind::Detach => {
                        bail!("the daemon sent a frame meant for it")
                    }
                }
            }
            bail!(
                "the daemon ended the session: the microVM may still run ('hull ps' and 'hull attach' show it)"
            )
        };
        let leaves = async {
            match left.recv().await {
                Some(end) => end,
                // Nobody is left who could say so.
                None => std::future::pending().await,
            }
        };
        let end = together(receive, start, leaves).await;
        writer.iter().for_each(JoinHandle::abort);
        watcher.abort();
        pipes.abort();
        end
    }

    fn signal_target(&self) -> signals::Target {
        signals::Target {
            client: self.client.clone(),
            path: self.path.clone(),
            pass: self.signals,
            resize: self.terminal,
        }
    }
}

/// Ends with the stream, with a start that failed, or when the user leaves.
async fn together(
    receive: impl Future<Output = Result<End>>,
    start: impl Future<Output = Result<()>>,
    left: impl Future<Output = End>,
) -> Result<End> {
    tokio::pin!(receive, start, left);
    let mut starting = true;
    loop {
        tokio::select! {
            biased;
            started = &mut start, if starting => {
                started?;
                starting = false;
            }
            end = &mut receive => {
                // A stream that broke before the start was answered: why the start failed says more.
                if end.is_err() && starting {
                    start.await?;
                }
                return end;
            }
            end = &mut left => return Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use std::future::{pending, ready};

    use anyhow::anyhow;

    use super::*;

    fn exit() -> Result<End> {
        Ok(End::Exit(ExitStatus { status: 3, error: None, reason: None, oom_killed: false }))
    }

    fn ended<T>(session: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(session)
    }

    #[test]
    fn a_session_ends_with_the_process_or_the_user() {
        let end = ended(together(ready(exit()), pending(), pending()));
        assert!(matches!(end, Ok(End::Exit(ExitStatus { status: 3, .. }))), "{end:?}");
        let end = ended(together(ready(exit()), ready(Ok(())), pending()));
        assert!(matches!(end, Ok(End::Exit(_))), "{end:?}");
        let end = ended(together(pending(), ready(Ok(())), ready(End::Detached)));
        assert!(matches!(end, Ok(End::Detached)), "{end:?}");
    }

    #[test]
    fn why_a_start_failed_is_what_the_user_hears() {
        let failed = || ready(Err(anyhow!("no kernel")));
        for end in [
            ended(together(pending(), failed(), pending())),
            ended(together(ready(Err(anyhow!("ended"))), failed(), pending())),
            ended(together(
                ready(Err(anyhow!("ended"))),
                async {
                    tokio::task::yield_now().await;
                    failed().await
                },
                pending(),
            )),
        ] {
            assert_eq!(end.unwrap_err().to_string(), "no kernel");
        }
        let end = ended(together(ready(Err(anyhow!("ended"))), ready(Ok(())), pending()));
        assert_eq!(end.unwrap_err().to_string(), "ended");
    }
}
