//! Signals to this program, passed on to the process, and the terminal's size with them.

use anyhow::Result;
use hull_protocol::agent::WindowSize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::End;
use crate::client::{Body, Client};
use crate::terminal;

/// So many interrupts end this program, as Docker's does.
const INSIST: u32 = 3;

/// Whom signals are for.
pub(super) struct Target {
    pub(super) client: Client,
    /// The path of whose process it is.
    pub(super) path: String,
    /// Else they end this program.
    pub(super) pass: bool,
    /// Whether the process has a terminal.
    pub(super) resize: bool,
}

/// Passes signals on for as long as the session lasts.
pub(super) async fn pass(target: Target, leave: mpsc::Sender<End>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut user_defined = [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?];
    let mut window = signal(SignalKind::window_change())?;
    let [first, second] = &mut user_defined;
    let mut interrupts = 0;
    loop {
        let (name, number) = tokio::select! {
            Some(()) = interrupt.recv() => ("INT", 2),
            Some(()) = terminate.recv() => ("TERM", 15),
            Some(()) = hangup.recv() => ("HUP", 1),
            Some(()) = quit.recv() => ("QUIT", 3),
            Some(()) = first.recv() => ("USR1", 10),
            Some(()) = second.recv() => ("USR2", 12),
            () = changed(&mut window) => {
                resize(&target).await;
                continue;
            }
        };
        interrupts += u32::from(matches!(number, 2 | 15));
        if !target.pass || interrupts >= INSIST {
            let _session_has_ended = leave.send(End::Interrupted(number)).await;
            return Ok(());
        }
        tell(&target.client, &target.path, name);
    }
}

/// The process's output has no reader any more: it is told as a shell's pipeline would tell it.
pub(super) async fn tell_of_closed_pipe(client: Client, path: String, closed: oneshot::Receiver<()>) {
    if closed.await.is_ok() {
        let _it_has_ended = kill(&client, &path, "PIPE").await;
    }
}

async fn changed(window: &mut Signal) {
    if window.recv().await.is_none() {
        std::future::pending().await
    }
}

/// Does not wait for the answer: the next signal may be on its way.
fn tell(client: &Client, path: &str, name: &'static str) {
    let (client, path) = (client.clone(), path.to_owned());
    tokio::spawn(async move { kill(&client, &path, name).await });
}

async fn kill(client: &Client, path: &str, name: &str) -> Result<()> {
    client.tell(&format!("{path}/kill?signal={name}"), Body::empty()).await
}

async fn resize(target: &Target) {
    let Some(size) = terminal::size().filter(|_| target.resize) else { return };
    // A process that has just ended has no size to set.
    let _it_has_ended = set_size(&target.client, &target.path, size).await;
}

/// Sets the size of the process's terminal.
pub(crate) async fn set_size(client: &Client, path: &str, size: WindowSize) -> Result<()> {
    client.tell(&format!("{path}/resize"), Body::json(&size)?).await
}
