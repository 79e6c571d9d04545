//! The daemon's life: opens its stores, serves the API, and, when it was started on demand, leaves when idle.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::audit::Audit;
use crate::capacity::{Capacity, Overcommit};
use crate::cgroup::Groups;
use crate::door::{self, Door, Entrance, Peers, Tls, TlsError, TlsFiles};
use crate::events::Feeds;
use crate::fleet::{Fleet, Host};
use crate::kernel::Bundles;
use crate::metrics::Metrics;
use crate::microvm::turns::Turns;
use crate::network::HostNetworks;
use crate::notify;
use crate::paths::{Paths, program};
use crate::plan;
use crate::state::{State, StateError};
use crate::tenants::Tenants;
use crate::trust::{Policy, PolicyError};
use crate::volumes::Volumes;

/// How often an idle daemon looks whether it may leave.
const LOOK: Duration = Duration::from_secs(1);

/// How long requests may take that a leaving daemon is still answering.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// How long a daemon that leaves may take.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How a daemon is run.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where its things are.
    pub paths: Paths,
    /// Leave after this long without a client and without a running microVM. None: stay.
    pub on_demand: Option<Duration>,
    /// The socket is somebody else's, who goes on listening when this daemon leaves.
    pub keep_socket: bool,
    /// How much of the host may be promised to microVMs.
    pub overcommit: Overcommit,
    /// Where it serves over TCP, too.
    pub tcp: Option<TcpConfig>,
    /// The file with the image policy; none: anybody may bring any image.
    pub image_policy: Option<PathBuf>,
}

/// The API over TCP.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Host and port.
    pub address: String,
    /// Certificates; none: plain HTTP, on loopback alone.
    pub tls: Option<TlsFiles>,
}

/// Why a daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A program that belongs to Hull is missing.
    #[error("{0} is missing: install hull, hull-vmm and hull-agent in one directory")]
    NoProgram(PathBuf),
    /// Another daemon has the data directory.
    #[error("another hull daemon uses {0}")]
    Taken(PathBuf),
    /// A directory or file of the daemon's cannot be used.
    #[error("{0} cannot be used")]
    Io(PathBuf, #[source] io::Error),
    /// The images cannot be opened.
    #[error(transparent)]
    Images(#[from] hull_image::StoreError),
    /// The kernels cannot be opened.
    #[error(transparent)]
    Kernels(#[from] crate::kernel::KernelError),
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// The image policy cannot be used.
    #[error("the image policy cannot be used")]
    Policy(#[from] PolicyError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody can listen there.
    #[error("the API cannot be served on {0}")]
    Listen(String, #[source] io::Error),
    /// The API cannot be served.
    #[error("the API cannot be served")]
    Serve(#[source] io::Error),
}

/// Serves until it is told to end by SIGTERM or SIGINT, or is idle.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub async fn serve(config: ServeConfig, listener: StdListener) -> Result<(), ServeError> {
    let Paths { data, .. } = &config.paths;
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |error: io::Error| ServeError::Io(path, error)
    };
    // What is in it is the users': images, disks, what containers printed.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io(data))?;
    let _held_to_the_end = take_lock(data)?;
    let state = State::open(&data.join("state.db"))?;
    let host = Host {
        images: hull_image::Store::open(&data.join("images"), hull_image::Limits::default())?,
        kernels: Bundles::new(data.join("kernels"), program("hull-agent").map_err(ServeError::NoProgram)?)?,
        vmm: program("hull-vmm").map_err(ServeError::NoProgram)?,
        tenants: Arc::new(Tenants::load(&state)?),
        policy: config.image_policy.as_deref().map(Policy::load).transpose()?.unwrap_or_default(),
        audit: Audit::open(data).map_err(io(data))?,
        state,
        events: Feeds::default(),
        groups: Groups::of_host(),
        capacity: Capacity::new(config.overcommit, plan::host_memory(), host_cpus()),
        turns: Turns::new(host_cpus()),
        metrics: Metrics::default(),
        networks: HostNetworks::default(),
        volumes: Volumes::new(data),
        paths: config.paths.clone(),
    };
    let host = Arc::new(host);
    host.networks.resolve(&host).await;
    // Held from before any microVM is taken over: one that ends at once gives back only what it has got.
    let mut networks = host.networks.lock().await;
    let fleet = Arc::new(Fleet::load(host.clone(), config.on_demand.is_none())?);
    networks.reconcile(&host.state, &fleet.running()).await;
    drop(networks);
    listener.set_nonblocking(true).map_err(ServeError::Serve)?;
    let mut entrances = vec![Entrance::Unix(UnixListener::from_std(listener).map_err(ServeError::Serve)?)];
    entrances.extend(tcp(config.tcp.as_ref()).await?);
    door::open_for_users(&config.paths, &host.tenants);
    let door = Arc::new(Door::new(fleet.clone(), config.on_demand.is_some()));
    tracing::info!("serving on {}", config.paths.socket().display());
    notify::tell("READY=1");
    let (leaving, left) = watch::channel(false);
    let peers = Peers::default();
    let served = door::serve(door, entrances, peers.clone(), left.clone());
    let leave = async move {
        leave(config.clone(), fleet, peers).await;
        notify::tell("STOPPING=1");
        leaving.send_replace(true);
        // What is left to answer is waited for by the others.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = served => {}
        () = leave => {}
        // Those who follow logs or events would keep it for ever.
        () = overdue(left) => {}
    }
    Ok(())
}

/// The way in over TCP, if one is wanted.
async fn tcp(config: Option<&TcpConfig>) -> Result<Option<Entrance>, ServeError> {
    let Some(TcpConfig { address, tls }) = config else { return Ok(None) };
    let tls = tls.clone().map(Tls::new).transpose()?;
    let entrance = Entrance::tcp(address, tls).await;
    let entrance = entrance.map_err(|error| ServeError::Listen(address.clone(), error))?;
    tracing::info!("serving on {}", entrance.describe());
    Ok(Some(entrance))
}

/// Returns when requests have had their time to end since the daemon began to leave.
async fn overdue(mut left: watch::Receiver<bool>) {
    let _it_leaves = left.wait_for(|left| *left).await;
    tokio::time::sleep(LAST_ANSWERS).await;
}

fn host_cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// The data directory's lock. A daemon that is about to leave is waited for.
fn take_lock(data: &Path) -> Result<File, ServeError> {
    let path = data.join("daemon.lock");
    let lock = File::create(&path).map_err(|error| ServeError::Io(path.clone(), error))?;
    match hull_image::lock_within(LOCK_WAIT, || lock.try_lock()) {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ServeError::Taken(data.to_owned())),
        Err(TryLockError::Error(error)) => Err(ServeError::Io(path, error)),
    }
}

/// Returns when the daemon is to leave; nobody can connect to it any more by then.
async fn leave(config: ServeConfig, fleet: Arc<Fleet>, peers: Peers) {
    let idle = async {
        match config.on_demand {
            Some(limit) => idle(limit, &fleet, &peers).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = idle => tracing::info!("nobody needs this daemon any more"),
        () = told_to_end() => tracing::info!("told to end"),
    }
    if !config.keep_socket {
        // Clients that come now start another daemon.
        let _somebody_elses = fs::remove_file(config.paths.socket());
    }
}

async fn idle(limit: Duration, fleet: &Fleet, peers: &Peers) {
    let mut since = Instant::now();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if peers.count() > 0 || fleet.busy() > 0 {
            since = Instant::now();
        }
        if since.elapsed() < limit {
            continue;
        }
        let host = fleet.host();
        if !host.networks.lends(&host.state).await {
            return;
        }
        since = Instant::now();
    }
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
