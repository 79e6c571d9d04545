//! The actor behind a microVM's handle: obeys commands one by one and watches its run.
//!
//! A task of its own. Invariant: it is the only writer of the record.

use std::sync::Arc;
use std::time::SystemTime;

use hull_protocol::api::{ExitStatus, Microvm as Record, State};
use hull_protocol::health::Health;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::exec::Execs;
use super::health;
use super::output::Output;
use super::run::{Order, Run, Told, chain};
use super::vmm::{Files, Vmm};
use super::{COMMANDS, Command, MicrovmError, Reply};
use crate::admission::{Verdict, admit};
use crate::clock::rfc3339;
use crate::fleet::Host;
use crate::plan::Resolved;

/// A run, as the actor holds it.
struct Handle {
    orders: mpsc::Sender<Order>,
    kill: Arc<Notify>,
    told: mpsc::Receiver<Told>,
    ended: oneshot::Receiver<(ExitStatus, bool)>,
    /// Who waits for the start to come to something.
    starting: Vec<Reply>,
}

pub(super) struct Actor {
    host: Arc<Host>,
    record: Record,
    resolved: Resolved,
    shown: watch::Sender<Record>,
    output: Arc<Output>,
    execs: Arc<Execs>,
    run: Option<Handle>,
    /// Who waits for its removal.
    deleting: Vec<Reply>,
}

enum Happened {
    Told(Told),
    Ended(ExitStatus, bool),
}

impl Handle {
    async fn next(&mut self) -> Happened {
        tokio::select! {
            biased;
            Some(told) = self.told.recv() => Happened::Told(told),
            ended = &mut self.ended => {
                let lost = || ExitStatus { status: 125, error: Some("its run ended in a bug of the daemon's".into()), reason: None, oom_killed: false };
                let (exit, own) = ended.unwrap_or_else(|_| (lost(), false));
                Happened::Ended(exit, own)
            }
        }
    }
}

impl Actor {
    /// An actor at rest, or with a VMM that runs already.
    pub(super) fn new(
        host: Arc<Host>,
        record: Record,
        resolved: Resolved,
        (output, execs): (Arc<Output>, Arc<Execs>),
        adopted: Option<Vmm>,
    ) -> (Self, watch::Receiver<Record>) {
        let (shown, view) = watch::channel(record.clone());
        let mut actor =
            Self { host, record, resolved, shown, output, execs, run: None, deleting: Vec::new() };
        if adopted.is_some() {
            actor.run(adopted, Vec::new());
        }
        (actor, view)
    }

    /// Lives until the microVM is removed or the daemon ends.
    pub(super) async fn live(mut self, mut inbox: mpsc::Receiver<(Command, Reply)>) {
        loop {
            let happened = async {
                match &mut self.run {
                    Some(run) => run.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happened = happened => self.note(happened).await,
                asked = inbox.recv() => match asked {
                    Some((command, reply)) => match admit(self.record.state, command.ask()) {
                        Verdict::Refuse(why) => answer(reply, Err(MicrovmError::Refused(why))),
                        Verdict::Done => answer(reply, Ok(())),
                        Verdict::Go => self.obey(command, reply),
                    },
                    // The fleet has let go of it: the daemon ends.
                    None => return,
                },
            }
            if self.run.is_none() && !self.deleting.is_empty() && self.remove() {
                return;
            }
        }
    }

    /// Does what admission has let through.
    fn obey(&mut self, command: Command, reply: Reply) {
        match command {
            Command::Start => self.start(reply),
            Command::Stop(grace) => {
                if self.record.state == State::Starting {
                    // There may be no process yet that could be asked.
                    self.kill();
                }
                self.order(Order::Stop(grace));
                self.record.state = State::Stopping;
                self.remember();
                answer(reply, Ok(()));
            }
            Command::Signal(number) => {
                let (done, outcome) = oneshot::channel();
                self.order(Order::Signal(number, done));
                tokio::spawn(async move {
                    let refused =
                        |error: hull_protocol::agent::AgentError| MicrovmError::Agent(error.to_string());
                    answer(reply, outcome.await.unwrap_or(Ok(())).map_err(refused));
                });
            }
            Command::Resize(size) => {
                self.order(Order::Resize(size));
                answer(reply, Ok(()));
            }
            Command::Delete(_) => {
                self.kill();
                self.deleting.push(reply);
            }
            Command::Attach => answer(reply, Ok(())),
        }
    }

    fn start(&mut self, reply: Reply) {
        self.record.state = State::Starting;
        self.record.exit = None;
        self.record.finished_at = None;
        self.record.health = self.resolved.health.as_ref().map(|_| health::unknown());
        self.remember();
        self.run(None, vec![reply]);
    }

    fn run(&mut self, adopted: Option<Vmm>, starting: Vec<Reply>) {
        let (orders, told_orders) = mpsc::channel(COMMANDS);
        let (told, tells) = mpsc::channel(COMMANDS);
        let (done, ended) = oneshot::channel();
        let kill = Arc::new(Notify::new());
        let run = Run {
            host: self.host.clone(),
            id: self.record.id.clone(),
            image: self.record.image_digest.clone(),
            kernel: self.record.spec.kernel.clone(),
            resolved: self.resolved.clone(),
            record: self.record.clone(),
            networks: Vec::new(),
            output: self.output.clone(),
            execs: self.execs.clone(),
            health: self.record.health.clone(),
            adopted,
            orders: told_orders,
            kill: kill.clone(),
            told,
        };
        tokio::spawn(async move {
            let _the_actor_has_gone = done.send(run.run().await);
        });
        self.run = Some(Handle { orders, kill, told: tells, ended, starting });
    }

    /// Tells the run something. One that takes no more orders is at its end.
    fn order(&self, order: Order) {
        let _at_its_end = self.run.as_ref().map(|run| run.orders.try_send(order));
    }

    fn kill(&self) {
        if let Some(run) = &self.run {
            run.kill.notify_one();
        }
    }

    /// Removes what is left of it; whether that was all.
    fn remove(&mut self) -> bool {
        let files = Files::new(&self.host, &self.record.id);
        let removed = files.remove().map_err(MicrovmError::Files);
        let removed = removed.and_then(|()| Ok(self.host.state.remove(&self.record.id)?));
        let gone = removed.is_ok();
        if let Err(error) = &removed {
            tracing::error!("microVM {} stays: {}", self.record.id, chain(error));
        }
        let mut waiting = std::mem::take(&mut self.deleting).into_iter();
        if let Some(first) = waiting.next() {
            answer(first, removed);
        }
        waiting.for_each(|reply| answer(reply, if gone { Ok(()) } else { Err(MicrovmError::Gone) }));
        gone
    }

    async fn note(&mut self, happened: Happened) {
        match happened {
            Happened::Told(Told::Started(pid, ports)) => {
                self.record.vmm_pid = pid;
                self.record.ports = ports;
                self.record.started_at = Some(rfc3339(SystemTime::now()));
                self.remember();
            }
            Happened::Told(Told::Running(kernel)) => {
                self.record.guest_kernel = Some(kernel);
                if self.record.state == State::Starting {
                    self.record.state = State::Running;
                }
                self.remember();
                self.started();
            }
            Happened::Told(Told::Health(health)) => {
                let status = |health: &Health| health.status;
                let changed = self.record.health.as_ref().map(status) != Some(health.status);
                self.record.health = Some(health);
                // A verdict is worth a write to disk, every check is not.
                if changed { self.remember() } else { self.show() }
            }
            Happened::Ended(exit, own) => {
                self.record.state = if own { State::Stopped } else { State::Failed };
                self.record.exit = Some(exit.clone());
                self.record.finished_at = Some(rfc3339(SystemTime::now()));
                self.record.vmm_pid = None;
                self.record.ports.clear();
                self.remember();
                self.started();
                self.run = None;
                self.output.end(exit).await;
                if self.record.spec.auto_remove && self.deleting.is_empty() {
                    let (reply, _nobody_asked) = oneshot::channel();
                    self.deleting.push(reply);
                }
            }
        }
    }

    /// Those who asked for a start learn that it has come to something.
    fn started(&mut self) {
        let waiting = self.run.as_mut().map(|run| std::mem::take(&mut run.starting));
        waiting.into_iter().flatten().for_each(|reply| answer(reply, Ok(())));
    }

    /// On disk first, then for all to see.
    fn remember(&self) {
        if let Err(error) = self.host.state.update(&self.record) {
            tracing::error!("microVM {}: {}", self.record.id, chain(&error));
        }
        self.show();
    }

    fn show(&self) {
        let _nobody_looks = self.shown.send(self.record.clone());
    }
}

fn answer(reply: Reply, result: Result<(), MicrovmError>) {
    let _asker_has_gone = reply.send(result);
}
