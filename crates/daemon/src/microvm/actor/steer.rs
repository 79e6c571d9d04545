//! What an actor does when it is told to start, stop, pause or change its microVM.
//!
//! Part of [`super::Actor`], in its task. Invariant: a start has the host's promise of room before anything is done.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use hull_protocol::agent::volume_serial;
use hull_protocol::api::{ExitStatus, HOST_TENANT, State, VolumeUse};
use hull_protocol::control::Command as Vm;
use hull_protocol::life::MicrovmPatch;
use hull_protocol::secret::SecretValue;
use hull_protocol::units::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::change::patched;
use super::super::health;
use super::super::restart;
use super::super::run::{Order, chain};
use super::super::vmm::{Vmm, limits};
use super::super::{MicrovmError, NoRoom, Reply};
use super::{Actor, answer};
use crate::clock::rfc3339;
use crate::secrets::{SecretError, Secrets};
use crate::tenants::quota;

/// Its VMM has gone, and its run is about to say so.
const ENDING: &str = "it has just ended: start it again";

/// How long after the grace of a stop its VM is ended, whatever it says.
const LAST_WAIT: Duration = Duration::from_secs(40);
/// How long a guest that is removed may take to write its volumes out.
const WRITE_OUT: Duration = Duration::from_secs(15);
/// How long a guest may take to grow a file system: a large one has many groups.
const GROW_WAIT: Duration = Duration::from_secs(120);

impl Actor {
    /// Starts it because somebody asks for it.
    pub(super) fn start(&mut self, reply: Reply) {
        let before = (self.record.restarts, self.row, self.record.stop_requested, self.record.trace);
        (self.record.restarts, self.row, self.record.stop_requested) = (0, 0, false);
        self.record.trace = reply.trace;
        if let Err(error) = self.begin() {
            (self.record.restarts, self.row, self.record.stop_requested, self.record.trace) = before;
            return answer(reply, Err(error));
        }
        if let Some(run) = &mut self.run {
            run.starting.push(reply);
        }
    }

    fn secrets(&self) -> Secrets {
        Secrets::of(&self.host.paths, &self.record.id)
    }

    /// Gives a secret a value, or takes it.
    pub(super) fn set_secret(&self, name: String, value: Option<&SecretValue>) -> Result<(), SecretError> {
        if !self.record.spec.container.secrets.iter().any(|secret| secret.name == name) {
            return Err(SecretError::Unknown(name));
        }
        match value {
            Some(value) => self.secrets().keep(&name, value),
            None => self.secrets().forget(&name),
        }
    }

    /// Starts it, if it has its secrets and the host has room.
    fn begin(&mut self) -> Result<(), MicrovmError> {
        self.secrets().check(&self.record.spec.container.secrets)?;
        // How much room there is is the host's own tenant's business.
        let told = |why: NoRoom| if self.record.tenant == HOST_TENANT { why } else { NoRoom::Full };
        crate::space::check(&self.host.paths.data).map_err(|full| told(full.into()))?;
        let who = (self.record.id.as_str(), self.record.name.as_str());
        let claim = self.host.volumes.holders().claim(who, &self.record.volumes).map_err(NoRoom::from)?;
        let wanted = quota::of_running(&self.record.spec);
        let tally = self.host.tenants.start(&self.record.tenant, wanted).map_err(NoRoom::from)?;
        let promise = self.host.capacity.promise(self.share()).map_err(|over| told(over.into()))?;
        self.next_start = None;
        self.record.state = State::Starting;
        self.record.exit = None;
        self.record.finished_at = None;
        self.record.health = self.resolved.health.as_ref().map(|_| health::unknown());
        self.remember();
        self.run(None, (promise, tally, claim));
        Ok(())
    }

    /// Starts it because its policy says so; tries again later when the host has no room.
    pub(super) async fn start_again(&mut self) {
        self.record.restarts = self.record.restarts.saturating_add(1);
        self.host.metrics.restarted();
        let Err(error) = self.begin() else { return };
        tracing::warn!("the microVM is not restarted now: {}", chain(&error));
        if let MicrovmError::Secret(error) = error {
            return self.give_up(&error).await;
        }
        self.row = self.row.saturating_add(1);
        self.next_start = Some(Instant::now() + restart::wait(self.row));
        self.remember();
    }

    /// Leaves it failed: without its user no later try would do better.
    async fn give_up(&mut self, error: &SecretError) {
        let exit = ExitStatus { status: 125, error: Some(chain(error)), reason: None, oom_killed: false };
        self.next_start = None;
        self.record.state = State::Failed;
        self.record.finished_at = Some(rfc3339(SystemTime::now()));
        self.record.exit = Some(exit.clone());
        self.remember();
        self.tell("die", &[("exit_status", exit.status.to_string())]);
        self.output.end(exit).await;
    }

    /// Has it stop: by its agent, which is asked; the run takes care of the rest.
    pub(super) async fn stop(&mut self, grace: Duration) {
        let known = std::mem::replace(&mut self.record.stop_requested, true);
        self.next_start = None;
        match self.record.state {
            State::Stopped | State::Failed if known => return,
            State::Stopped | State::Failed => return self.remember(),
            // There may be no process yet that could be asked.
            State::Starting => self.kill(),
            // One that stands still cannot be asked.
            State::Paused => {
                let stands = self.unpause().await.is_err();
                if stands {
                    self.kill();
                }
            }
            _ => {}
        }
        self.order_stop(grace);
        self.record.state = if self.run.is_some() { State::Stopping } else { State::Stopped };
        self.remember();
        self.tell("stop", &[]);
    }

    /// Has its run stop it, and kill it when it has not ended by then.
    pub(super) fn order_stop(&self, grace: Duration) {
        self.order(Order::Stop(grace));
        if let Some(run) = &self.run {
            // One that an earlier daemon started may not listen to orders yet.
            let kill = run.kill.clone();
            tokio::spawn(async move {
                tokio::time::sleep(grace.saturating_add(LAST_WAIT)).await;
                kill.notify_one();
            });
        }
    }

    pub(super) async fn restart(&mut self, grace: Duration, reply: Reply) {
        if self.run.is_none() {
            return self.start(reply);
        }
        // One that could not be started again goes on.
        if let Err(error) = self.secrets().check(&self.record.spec.container.secrets) {
            return answer(reply, Err(error.into()));
        }
        self.stop(grace).await;
        self.again.push(reply);
    }

    /// Has its VMM obey.
    async fn tell_vmm(&self, command: Vm) -> Result<(), MicrovmError> {
        let control = self.run.as_ref().and_then(|run| run.control.as_ref());
        let control = control.ok_or(MicrovmError::Refused(ENDING))?;
        match control.ask(command).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(MicrovmError::Refused(ENDING))
            }
            Err(error) => Err(MicrovmError::Vmm(error)),
        }
    }

    pub(super) async fn pause(&mut self) -> Result<(), MicrovmError> {
        self.tell_vmm(Vm::Pause).await?;
        if let Some(run) = &self.run {
            run.paused.send_replace(true);
        }
        self.record.state = State::Paused;
        self.remember();
        self.tell("pause", &[]);
        Ok(())
    }

    pub(super) async fn unpause(&mut self) -> Result<(), MicrovmError> {
        self.tell_vmm(Vm::Resume).await?;
        if let Some(run) = &self.run {
            run.paused.send_replace(false);
        }
        self.order(Order::Resumed);
        self.record.state = State::Running;
        self.remember();
        self.tell("unpause", &[]);
        Ok(())
    }

    /// Ends it for a removal. Its own disk goes with it; what it wrote to a volume stays, so that its guest has a
    /// moment to write it out.
    pub(super) async fn end_at_once(&mut self) {
        let writes = self.record.volumes.iter().any(|volume| !volume.read_only);
        if !writes || !matches!(self.record.state, State::Running | State::Paused | State::Stopping) {
            return self.kill();
        }
        self.stop(Duration::ZERO).await;
        if let Some(run) = &self.run {
            let kill = run.kill.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WRITE_OUT).await;
                kill.notify_one();
            });
        }
    }

    /// Has VMM and guest see that a volume is larger now.
    pub(super) async fn grow(&mut self, volume: &str, size: Bytes, reply: Reply) {
        let Some(disk) = Vmm::disk_of(&self.record, volume) else { return answer(reply, Ok(())) };
        // What it writes may count as memory of its VMM's.
        if crate::space::in_memory(&self.host.paths.data) {
            let limits = limits(&self.host, &self.record, &self.resolved);
            if let Err(error) = self.host.groups.group(&self.record.id).limit(&limits) {
                tracing::warn!("the microVM's limits stay: {error}");
            }
        }
        if let Err(error) = self.tell_vmm(Vm::GrowDisk { disk, size }).await {
            return answer(reply, Err(error));
        }
        let writable = |(place, own): (usize, &VolumeUse)| {
            (own.id == volume && !own.read_only).then(|| volume_serial(place))
        };
        // Only who writes can grow the file system.
        let Some(serial) = self.record.volumes.iter().enumerate().find_map(writable) else {
            return answer(reply, Ok(()));
        };
        let (done, outcome) = oneshot::channel();
        self.order(Order::Grow(serial, size.get(), done));
        tokio::spawn(async move {
            let silent = || Err(MicrovmError::Agent("its guest has not grown the file system yet".into()));
            let answered = match tokio::time::timeout(GROW_WAIT, outcome).await {
                Ok(Ok(result)) => result.map_err(|error| MicrovmError::Agent(error.to_string())),
                Ok(Err(_)) => Err(MicrovmError::Refused(ENDING)),
                Err(_) => silent(),
            };
            answer(reply, answered);
        });
    }

    pub(super) async fn update(
        &mut self,
        patch: &MicrovmPatch,
        revision: Option<u64>,
    ) -> Result<(), MicrovmError> {
        if revision.is_some_and(|revision| revision != self.record.revision) {
            return Err(MicrovmError::Changed(self.record.revision));
        }
        if let Some(name) = &patch.name {
            crate::fleet::check_name(name)?;
        }
        let mut new = patched(&self.record, patch);
        new.revision = new.revision.saturating_add(1);
        // The database decides who has a name.
        self.host.state.update(&new)?;
        let renamed = new.name != self.record.name;
        let old = std::mem::replace(&mut self.record, new);
        let _nobody_looks = self.shown.send(self.record.clone());
        if renamed {
            self.host.volumes.holders().rename(&self.record.id, &self.record.name);
            self.host.networks.rename(&self.record).await;
            self.tell("rename", &[("old_name", old.name)]);
        }
        self.tell("update", &[]);
        self.resolved.limits = self.record.spec.limits;
        if self.run.is_some() && old.spec.limits != self.record.spec.limits {
            let limits = limits(&self.host, &self.record, &self.resolved);
            self.host.groups.group(&self.record.id).limit(&limits).map_err(MicrovmError::Limit)?;
        }
        Ok(())
    }
}
