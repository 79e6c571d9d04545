//! `hull serve`: the daemon itself.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_daemon::capacity::Overcommit;
use hull_daemon::door::TlsFiles;
use hull_daemon::paths::Paths;
use hull_daemon::serve::{ServeConfig, TcpConfig, serve};
use tracing_subscriber::EnvFilter;

use super::bounded_log::BoundedLog;
use super::serve_log::LogFormat;
use crate::client::bind;

/// How long a daemon that was started on demand stays without anything to do.
const IDLE: Duration = Duration::from_secs(30);

/// Run the daemon in the foreground
#[derive(Debug, Args)]
#[command(after_help = "\
Other verbs start a daemon of their own when none runs; it leaves when nobody needs it. HULL_LOG sets what is
logged, such as HULL_LOG=debug.")]
pub(super) struct Serve {
    /// Where images, kernels and disks are [default: /var/lib/hull, or ~/.local/share/hull]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where sockets are [default: /run/hull, or $XDG_RUNTIME_DIR/hull]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Leave when no microVM runs and nobody asks for anything
    #[arg(long)]
    on_demand: bool,
    /// Memory that may be promised to running microVMs, in percent of the host's
    #[arg(long, value_name = "PERCENT", default_value_t = Overcommit::default().memory_percent)]
    memory_overcommit: u32,
    /// Virtual CPUs that may be promised to running microVMs, for each of the host's
    #[arg(long, value_name = "N", default_value_t = Overcommit::default().cpus_each)]
    cpu_overcommit: u32,
    /// Serve over TCP, too, such as on 0.0.0.0:2376; whoever comes there needs a token
    #[arg(long, value_name = "HOST:PORT", requires = "encryption")]
    listen: Option<String>,
    /// The daemon's certificate, and those up to its root, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"], group = "encryption")]
    tls_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Roots, in PEM, of the certificates that clients must have besides a token
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// No TLS on --listen: tokens can be read on the way, so only on loopback
    #[arg(long, requires = "listen", group = "encryption")]
    plain_http: bool,
    /// Which images tenants may bring, and whose signatures they need; see docs/images.md
    #[arg(long, value_name = "FILE")]
    image_policy: Option<PathBuf>,
    /// How the log is written [default: $HULL_LOG_FORMAT, or human]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Standard input is the listening socket
    #[arg(long, hide = true)]
    listen_stdin: bool,
}

impl Serve {
    /// Where it is to serve over TCP.
    fn tcp(&self) -> Option<TcpConfig> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls =
            files.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: self.client_ca.clone() });
        Some(TcpConfig { address: self.listen.clone()?, tls })
    }

    pub(super) fn run(self) -> Result<ExitCode> {
        let (mut paths, tcp) = (Paths::of_user(), self.tcp());
        paths.data = self.data_dir.unwrap_or(paths.data);
        paths.run = self.run_dir.unwrap_or(paths.run);
        let format = LogFormat::chosen(self.log_format)?;
        let filter = EnvFilter::try_from_env("HULL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        // One that was started on demand writes into its own file, which it keeps short.
        let log = (self.on_demand && self.listen_stdin).then(|| paths.log());
        format.install(filter, BoundedLog::new(log));
        let listener = if self.listen_stdin { inherited()? } else { own(&paths)? };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let overcommit =
            Overcommit { memory_percent: self.memory_overcommit, cpus_each: self.cpu_overcommit };
        let on_demand = self.on_demand.then_some(IDLE);
        // A service manager keeps its sockets; a client's is its daemon's.
        let keep_socket = self.listen_stdin && !self.on_demand;
        let image_policy = self.image_policy;
        let config = ServeConfig { paths, on_demand, keep_socket, overcommit, tcp, image_policy };
        runtime.context("starting the runtime")?.block_on(serve(config, listener))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The socket that whoever started this daemon has bound, and a life apart from that one's terminal.
fn inherited() -> Result<UnixListener> {
    // Fails only where this is a session of its own already.
    let _already_apart = rustix::process::setsid();
    let socket = io::stdin().as_fd().try_clone_to_owned().context("taking the listening socket")?;
    let nothing = std::fs::File::open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(nothing).context("letting go of standard input")?;
    let listener = UnixListener::from(socket);
    listener.local_addr().context("standard input is no socket")?;
    Ok(listener)
}

fn own(paths: &Paths) -> Result<UnixListener> {
    match bind(paths)? {
        Some(listener) => Ok(listener),
        None => bail!("a daemon already serves {}", paths.socket().display()),
    }
}
