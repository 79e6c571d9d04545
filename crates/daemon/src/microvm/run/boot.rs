//! How a run comes to its process: a turn, a VMM, its guest's agent, what the guest is told, the process and its streams.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hull_protocol::agent::{Command, ProcessSpec, Secret, Setup, StreamKind, VolumeDisk, volume_serial};
use hull_protocol::api::{Microvm as Record, VolumeUse};
use hull_protocol::network::PublishedPort;
use hull_protocol::stream::{Kind, PAYLOAD_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{BOOT_WAIT, Run, RunError};
use crate::clock::unix_ns;
use crate::metrics::boot::Phase;
use crate::microvm::agent::{Agent, connect_stream};
use crate::microvm::control::{Control, STATUS};
use crate::microvm::output::{Input, Output};
use crate::microvm::turns::Turn;
use crate::microvm::vmm::{Files, Parts, StartError, Vmm};
use crate::network::guest;
use crate::secrets::Secrets;
use crate::trace;

impl Run {
    /// Waits until it may boot; nothing when it is killed before.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        let (turns, kill) = (self.host.clone(), self.kill.clone());
        let turn = tokio::select! {
            turn = turns.turns.take(&self.record.tenant) => Some(turn),
            () = kill.notified() => None,
        };
        self.reached(Phase::Turn, Instant::now());
        turn
    }

    /// Starts the VMM; the ports of the host that lead to it.
    pub(super) async fn start(&mut self) -> Result<(Vmm, Option<Vec<PublishedPort>>), StartError> {
        let attached = self.host.networks.attach(&self.host.state, &self.record).await?;
        self.reached(Phase::Network, Instant::now());
        let ports = attached.ports.clone();
        self.networks = attached.networks.clone();
        let record = self.record.clone();
        let (host, id, image) = (self.host.clone(), self.id.clone(), self.image.clone());
        let (kernel, resolved) = (self.kernel.clone(), self.resolved.clone());
        let runtime = tokio::runtime::Handle::current();
        let started = trace::spawn_blocking(move || {
            let _watching_needs_it = runtime.enter();
            let parts = Parts { record: &record, resolved: &resolved, attached };
            Vmm::start(&host, &id, &image, kernel.as_deref(), parts)
        });
        let vmm = started.await.unwrap_or_else(|error| {
            Err(StartError::Io("the microVM".into(), std::io::Error::other(error.to_string())))
        })?;
        self.reached(Phase::Prepare, vmm.started().unwrap_or_else(Instant::now));
        Ok((vmm, Some(ports)))
    }

    /// The guest's agent, as soon as it is ready.
    pub(super) async fn meet(&mut self, files: &Files) -> Result<Agent, RunError> {
        let control = self.boot.as_ref().and(self.control.clone());
        let mut connecting = pin!(async {
            let connected = tokio::time::timeout(BOOT_WAIT, Agent::connect(&files.vsock())).await;
            Ok::<_, RunError>(connected.map_err(|_| RunError::Silent(files.last_words()))??)
        });
        let agent = tokio::select! {
            agent = connecting.as_mut() => Some(agent?),
            () = answered(control) => None,
        };
        self.reached(Phase::Vmm, Instant::now());
        let agent = match agent {
            Some(agent) => agent,
            None => connecting.await?,
        };
        self.reached(Phase::Guest, Instant::now());
        self.turn = None;
        Ok(agent)
    }

    /// Sets the guest up and starts its process.
    pub(super) async fn begin(
        &mut self,
        agent: &mut Agent,
        files: &Files,
        process: &ProcessSpec,
    ) -> Result<JoinSet<()>, RunError> {
        agent.request(Command::Setup(Box::new(self.setup()))).await?;
        self.give_secrets(agent).await?;
        self.reached(Phase::Setup, Instant::now());
        let started = agent.ask(Command::Start(Box::new(process.clone()))).await;
        let pumps = self.connect(files, process).await?;
        match started.await {
            Ok(Err(error)) => Err(error.into()),
            _ => {
                self.reached(Phase::Process, Instant::now());
                Ok(pumps)
            }
        }
    }

    /// Hands the container's secrets to the agent.
    async fn give_secrets(&self, agent: &mut Agent) -> Result<(), RunError> {
        let secrets = Secrets::of(&self.host.paths, &self.id);
        for (plan, number) in self.resolved.mounts.secrets.iter().zip(0..) {
            let value = secrets.read(&plan.name)?;
            let secret = Secret { number, mode: plan.mode, uid: plan.uid, gid: plan.gid, value };
            agent.request(Command::Secret(Box::new(secret))).await?;
        }
        Ok(())
    }

    fn setup(&self) -> Setup {
        let (cards, networking) = (&self.record.cards, &self.record.spec.networking);
        Setup {
            time_unix_ns: unix_ns(),
            hostname: self.resolved.hostname.clone(),
            read_only: self.resolved.read_only,
            data_disk: true,
            hosts: guest::hosts(&self.resolved.hostname, cards, networking),
            resolv_conf: guest::resolv_conf(&self.networks, networking),
            interfaces: guest::interfaces(cards, &self.networks),
            volumes: volumes(&self.record),
            mounts: self.resolved.mounts.mounts.clone(),
            processes_max: self.resolved.limits.processes.map(u32::from),
        }
    }

    /// Connects the process's streams; returns the tasks that end with its output.
    pub(super) async fn connect(
        &self,
        files: &Files,
        process: &ProcessSpec,
    ) -> Result<JoinSet<()>, RunError> {
        let vsock = files.vsock();
        let connect = async |kind| connect_stream(&vsock, &process.id, kind).await;
        let mut outward = JoinSet::new();
        if process.terminal.is_some() {
            let (source, sink) = connect(StreamKind::Terminal).await?.into_split();
            outward.spawn(carry_out(source, Kind::Stdout, self.output.clone()));
            tokio::spawn(carry_in(self.output.take_input(), sink));
            return Ok(outward);
        }
        if process.stdin {
            let (source, sink) = connect(StreamKind::Stdin).await?.into_split();
            let input = self.output.take_input();
            tokio::spawn(async move {
                carry_in(input, sink).await;
                drop(source);
            });
        }
        for (kind, shown) in [(StreamKind::Stdout, Kind::Stdout), (StreamKind::Stderr, Kind::Stderr)] {
            let (source, sink) = connect(kind).await?.into_split();
            let output = self.output.clone();
            outward.spawn(async move {
                carry_out(source, shown, output).await;
                drop(sink);
            });
        }
        Ok(outward)
    }
}

/// Returns when a VMM has answered for the first time: its machine runs then.
async fn answered(control: Option<Control>) {
    match control {
        Some(control) if control.ask(STATUS).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// The disks of its volumes.
fn volumes(record: &Record) -> Vec<VolumeDisk> {
    let disk = |(place, volume): (usize, &VolumeUse)| VolumeDisk {
        serial: volume_serial(place),
        name: volume.name.clone(),
        read_only: volume.read_only,
    };
    record.volumes.iter().enumerate().map(disk).collect()
}

async fn carry_out(mut source: OwnedReadHalf, kind: Kind, output: Arc<Output>) {
    let mut chunk = vec![0; PAYLOAD_MAX];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        output.publish(kind, Bytes::copy_from_slice(chunk.get(..length).unwrap_or_default())).await;
    }
}

/// Passes input on to a process, to its end or the process's.
pub(in crate::microvm) async fn carry_in(mut input: mpsc::Receiver<Input>, mut sink: OwnedWriteHalf) {
    while let Some(Input::Bytes(bytes)) = input.recv().await {
        if sink.write_all(&bytes).await.is_err() {
            // The process has closed its input; what is still sent is dropped, as a shell's pipe would.
            break;
        }
    }
    let _gone_already = sink.shutdown().await;
    while input.recv().await.is_some() {}
}
