//! Where a process's streams go: to its log, and to every attached client, whole and in order.
//!
//! Owner: shared by the run, which feeds it, and the handlers, which attach to it. Invariants: a client that does
//! not read stops the process as a full pipe would, until it reads or leaves; what is queued for one is bounded.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hull_protocol::api::ExitStatus;
use hull_protocol::stream::Kind;
use tokio::sync::mpsc;

use super::log::Log;

/// How many chunks are queued for one client, and for the process's input.
const QUEUE: usize = 8;

/// What an attached client is sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// Bytes from the process.
    Output(Kind, Bytes),
    /// How it ended; the last.
    Exit(ExitStatus),
}

/// What an attached client sends for the process.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes for its standard input.
    Bytes(Bytes),
    /// There are no more.
    End,
}

/// The hub of one microVM.
pub struct Output {
    /// What was printed.
    pub log: Log,
    clients: Mutex<Vec<mpsc::Sender<Sent>>>,
    input: Mutex<(mpsc::Sender<Input>, Option<mpsc::Receiver<Input>>)>,
}

impl Output {
    /// A hub that nobody is attached to.
    pub fn new(log: Log) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { log, clients: Mutex::default(), input: Mutex::new((sender, Some(receiver))) }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Sent>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a client from here on.
    pub fn attach(&self) -> mpsc::Receiver<Sent> {
        let (client, receiver) = mpsc::channel(QUEUE);
        self.clients().push(client);
        receiver
    }

    /// The way to the process's standard input.
    pub fn input(&self) -> mpsc::Sender<Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The process's end of it; what was sent before the start is in it.
    pub fn take_input(&self) -> mpsc::Receiver<Input> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        match input.1.take() {
            Some(receiver) => receiver,
            None => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                input.0 = sender;
                receiver
            }
        }
    }

    /// Logs and passes on what the process printed.
    pub async fn publish(&self, kind: Kind, bytes: Bytes) {
        self.log.append(kind, &bytes);
        self.pass_on(Sent::Output(kind, bytes)).await;
    }

    /// Tells every client how it ended, and lets them go.
    pub async fn end(&self, exit: ExitStatus) {
        self.pass_on(Sent::Exit(exit)).await;
        self.clients().clear();
    }

    async fn pass_on(&self, sent: Sent) {
        let clients = self.clients().clone();
        for client in &clients {
            // One that has left is dropped below.
            let _left = client.send(sent.clone()).await;
        }
        self.clients().retain(|client| !client.is_closed());
    }
}
