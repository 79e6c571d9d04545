//! The actor behind a microVM's handle: obeys commands one by one and watches its run.
//!
//! A task of its own. Invariant: it is the only writer of the record.

mod steer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hull_protocol::api::{ExitStatus, Microvm as Record, State};
use hull_protocol::health::Health;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::control::Control;
use super::exec::Execs;
use super::output::Output;
use super::restart::{self, GOOD_RUN};
use super::run::{Order, Run, Told, chain};
use super::vmm::{Files, Vmm};
use super::{COMMANDS, Command, MicrovmError, Reply};
use crate::admission::{Verdict, admit};
use crate::capacity::{Promise, Share};
use crate::clock::rfc3339;
use crate::fleet::Host;
use crate::metrics::boot::Boot;
use crate::plan::Resolved;
use crate::secrets::Secrets;
use crate::tenants::{Tally, quota};
use crate::trace;
use crate::volumes::holders::Claim;

/// How long one that an earlier daemon was stopping may take from now on.
const STOP_AGAIN: Duration = Duration::from_secs(10);

/// What a run has to have before it begins, and gives back at its end: what the host has promised it, what it counts
/// against its tenant's quotas, its claim on its volumes.
type Room = (Promise, Tally, Claim);

/// A run, as the actor holds it.
struct Handle {
    orders: mpsc::Sender<Order>,
    kill: Arc<Notify>,
    /// Its VMM, once it runs.
    control: Option<Control>,
    paused: watch::Sender<bool>,
    began: Instant,
    /// Whether its process has run.
    ran: bool,
    _room: Room,
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
    /// When it is started again by its policy, and how many short runs there were in a row.
    next_start: Option<Instant>,
    row: u32,
    /// Who waits for it to stop and be started again.
    again: Vec<Reply>,
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
        let mut actor = Self {
            host,
            record,
            resolved,
            shown,
            output,
            execs,
            run: None,
            next_start: None,
            row: 0,
            again: Vec::new(),
            deleting: Vec::new(),
        };
        actor.take_up(adopted);
        (actor, view)
    }

    /// Goes on where an earlier daemon left off.
    fn take_up(&mut self, adopted: Option<Vmm>) {
        if adopted.is_some() {
            let promise = self.host.capacity.count(self.share());
            let tally = self.host.tenants.runs(&self.record.tenant, quota::of_running(&self.record.spec));
            let who = (self.record.id.as_str(), self.record.name.as_str());
            let claim = self.host.volumes.holders().count(who, &self.record.volumes);
            self.run(adopted, (promise, tally, claim));
            if self.record.state == State::Stopping {
                self.order_stop(STOP_AGAIN);
            }
            return;
        }
        if self.record.state == State::Restarting {
            self.next_start = Some(Instant::now() + restart::wait(0));
        }
        self.forget_if_wanted();
    }

    fn share(&self) -> Share {
        Share::of(self.resolved.memory, self.resolved.cpus)
    }

    /// Lives until the microVM is removed or the daemon ends.
    pub(super) async fn live(mut self, mut inbox: mpsc::Receiver<(Command, Reply)>) {
        loop {
            if self.run.is_none() && !self.deleting.is_empty() && self.remove(&mut inbox) {
                return;
            }
            let span = self.span();
            let happened = async {
                match &mut self.run {
                    Some(run) => run.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happened = happened => self.note(happened).instrument(span).await,
                () = at(self.next_start) => self.start_again().instrument(span).await,
                asked = inbox.recv() => match asked {
                    Some((command, reply)) => match admit(self.record.state, command.ask()) {
                        Verdict::Refuse(why) => answer(reply, Err(MicrovmError::Refused(why))),
                        Verdict::Done => answer(reply, Ok(())),
                        Verdict::Go => {
                            let span = trace::of_microvm(&self.record.id, reply.trace);
                            self.obey(command, reply).instrument(span).await;
                        }
                    },
                    // The fleet has let go of it: the daemon ends.
                    None => return,
                },
            }
        }
    }

    /// What its run does is in the trace of the request that started it.
    fn span(&self) -> Span {
        trace::of_microvm(&self.record.id, self.record.trace)
    }

    /// Does what admission has let through.
    async fn obey(&mut self, command: Command, reply: Reply) {
        match command {
            Command::Start => self.start(reply),
            Command::Stop(grace) => {
                let overtaken = || Err(MicrovmError::Refused("it was told to stop meanwhile"));
                self.again.drain(..).for_each(|reply| answer(reply, overtaken()));
                self.stop(grace).await;
                answer(reply, Ok(()));
            }
            Command::Restart(grace) => self.restart(grace, reply).await,
            Command::Pause => answer(reply, self.pause().await),
            Command::Unpause => answer(reply, self.unpause().await),
            Command::Update(patch, revision) => answer(reply, self.update(&patch, revision).await),
            Command::Signal(number) => {
                if number == 9 || number == self.resolved.stop_signal {
                    self.record.stop_requested = true;
                    self.remember();
                }
                self.tell("kill", &[("signal", number.to_string())]);
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
            Command::Secret(name, value) => {
                let set = self.set_secret(name, value.as_ref());
                answer(reply, set.map_err(MicrovmError::Secret));
            }
            Command::Grow(volume, size) => self.grow(&volume, size, reply).await,
            Command::Delete(_) => {
                self.next_start = None;
                self.deleting.push(reply);
                self.end_at_once().await;
            }
            Command::Attach => answer(reply, Ok(())),
        }
    }

    fn run(&mut self, adopted: Option<Vmm>, room: Room) {
        let adopted_ran = adopted.is_some() && self.record.state != State::Starting;
        let (orders, told_orders) = mpsc::channel(COMMANDS);
        let (told, tells) = mpsc::channel(COMMANDS);
        let (done, ended) = oneshot::channel();
        let kill = Arc::new(Notify::new());
        let paused = watch::Sender::new(self.record.state == State::Paused);
        let run = Run {
            host: self.host.clone(),
            id: self.record.id.clone(),
            image: self.record.image_digest.clone(),
            kernel: self.record.spec.kernel.clone(),
            resolved: self.resolved.clone(),
            record: self.record.clone(),
            networks: Vec::new(),
            boot: adopted.is_none().then(|| Boot::begin(&self.host.metrics)),
            output: self.output.clone(),
            execs: self.execs.clone(),
            health: self.record.health.clone(),
            adopted,
            orders: told_orders,
            kill: kill.clone(),
            paused: paused.subscribe(),
            told,
            control: None,
            turn: None,
        };
        let whole = async move {
            let _the_actor_has_gone = done.send(run.run().await);
        };
        tokio::spawn(whole.instrument(self.span()));
        let (began, ran) = (Instant::now(), adopted_ran);
        self.run = Some(Handle {
            orders,
            kill,
            control: None,
            paused,
            began,
            ran,
            _room: room,
            told: tells,
            ended,
            starting: Vec::new(),
        });
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
    fn remove(&mut self, inbox: &mut mpsc::Receiver<(Command, Reply)>) -> bool {
        let asked = self.deleting.first().and_then(|reply| reply.trace);
        let _logged_so = trace::of_microvm(&self.record.id, asked).entered();
        let files = Files::new(&self.host, &self.record.id);
        // Forgotten first: what a daemon that dies in between leaves is nobody's, and the next one clears it away.
        let forgotten = self.host.state.remove(&self.record.id).map_err(MicrovmError::State);
        let gone = forgotten.is_ok();
        if gone {
            // Nobody finds or counts it any more by the time that its removal is answered.
            inbox.close();
            self.tell("destroy", &[]);
        }
        let secrets = Secrets::of(&self.host.paths, &self.record.id);
        let removed = forgotten.and_then(|()| {
            let secrets = secrets.remove();
            files.remove().and(secrets).map_err(MicrovmError::Files)
        });
        if let Err(error) = &removed {
            tracing::error!("the microVM is not removed: {}", chain(error));
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
            Happened::Told(Told::Started { pid, control, ports }) => {
                self.record.vmm_pid = pid.or(self.record.vmm_pid);
                // None: it was started by an earlier daemon.
                if let Some(ports) = ports {
                    self.record.ports = ports;
                    self.record.started_at = Some(rfc3339(SystemTime::now()));
                }
                if let Some(run) = &mut self.run {
                    run.control = control;
                }
                self.remember();
            }
            Happened::Told(Told::Running(kernel)) => {
                self.record.guest_kernel = Some(kernel);
                let run = self.run.as_mut();
                let took = run.map(|run| {
                    run.ran = true;
                    run.began.elapsed()
                });
                let starts = self.record.state == State::Starting;
                if starts {
                    self.record.state = State::Running;
                    let took = took.unwrap_or_default();
                    self.host.metrics.booted(took);
                    tracing::info!(took_ms = took.as_millis(), "microVM started");
                }
                self.remember();
                if starts {
                    self.tell("start", &[]);
                }
                self.started();
            }
            Happened::Told(Told::Health(health)) => {
                let status = |health: &Health| health.status;
                let changed = self.record.health.as_ref().map(status) != Some(health.status);
                self.record.health = Some(health);
                // A verdict is worth a write to disk, every check is not.
                if changed { self.remember() } else { self.show() }
            }
            Happened::Ended(exit, own) => self.ended(exit, own).await,
        }
    }

    /// Its run is over: it stays so, or is started again.
    async fn ended(&mut self, exit: ExitStatus, own: bool) {
        let (ran, lasted) =
            self.run.as_ref().map_or((false, Duration::ZERO), |run| (run.ran, run.began.elapsed()));
        if lasted >= GOOD_RUN {
            self.row = 0;
        }
        let ended = restart::Ended {
            status: exit.status,
            ran,
            asked: self.record.stop_requested || !self.deleting.is_empty(),
            restarts: self.record.restarts,
            row: self.row,
        };
        let wait = restart::after_end(self.record.spec.restart, ended);
        self.record.state = match wait {
            Some(_) => State::Restarting,
            None if own => State::Stopped,
            None => State::Failed,
        };
        let reason = exit.reason.map(tracing::field::display);
        tracing::info!(status = exit.status, reason, oom_killed = exit.oom_killed, "microVM ended");
        self.record.exit = Some(exit.clone());
        self.record.finished_at = Some(rfc3339(SystemTime::now()));
        self.record.vmm_pid = None;
        self.record.ports.clear();
        self.remember();
        self.host.metrics.ended(&exit);
        let status = ("exit_status", exit.status.to_string());
        if exit.oom_killed {
            self.tell("oom", std::slice::from_ref(&status));
        }
        self.tell("die", &[status]);
        self.started();
        self.run = None;
        if let Some(wait) = wait {
            self.row = self.row.saturating_add(1);
            self.next_start = Some(Instant::now() + wait);
            self.tell("restart", &[("wait_ms", wait.as_millis().to_string())]);
        }
        self.output.end(exit).await;
        let again = std::mem::take(&mut self.again);
        if !self.deleting.is_empty() {
            again.into_iter().for_each(|reply| answer(reply, Err(MicrovmError::Gone)));
        } else if let Some(first) = again.into_iter().reduce(|first, other| {
            // One start answers all: the others learn that it has been asked for.
            answer(other, Ok(()));
            first
        }) {
            self.start(first);
        }
        self.forget_if_wanted();
    }

    /// One that is to be removed when it has stopped asks for that itself.
    fn forget_if_wanted(&mut self) {
        let over = matches!(self.record.state, State::Stopped | State::Failed);
        if over && self.record.spec.auto_remove && self.deleting.is_empty() {
            let (to, _nobody_asked) = oneshot::channel();
            self.deleting.push(Reply { to, trace: self.record.trace });
        }
    }

    /// Tells those who follow events.
    fn tell(&self, action: &str, more: &[(&str, String)]) {
        self.host.events.microvm(&self.record, action, more);
    }

    /// Those who asked for a start learn that it has come to something.
    fn started(&mut self) {
        let waiting = self.run.as_mut().map(|run| std::mem::take(&mut run.starting));
        waiting.into_iter().flatten().for_each(|reply| answer(reply, Ok(())));
    }

    /// On disk first, then for all to see.
    fn remember(&mut self) {
        self.record.revision = self.record.revision.saturating_add(1);
        if let Err(error) = self.host.state.update(&self.record) {
            tracing::error!("the microVM's record is not kept: {}", chain(&error));
        }
        self.show();
    }

    fn show(&self) {
        let _nobody_looks = self.shown.send(self.record.clone());
    }
}

/// Sleeps until then; for ever when there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn answer(reply: Reply, result: Result<(), MicrovmError>) {
    let _asker_has_gone = reply.to.send(result);
}
