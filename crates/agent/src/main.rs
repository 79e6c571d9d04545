//! `hull-agent`: PID 1 of a container's guest, and, started again by itself, the stage before a container's
//! process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use hull_agent::server::{Guest, STREAM_WAIT, Server};
use hull_agent::{boot, kmsg, setup, stage};
use hull_protocol::agent::{CONTROL_PORT, STREAM_PORT};
use hull_protocol::transfer::TRANSFER_PORT;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(stage::ARGUMENT) {
        return stage::run();
    }
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        eprintln!("hull-agent is the first process of a guest: there is nothing to run it for by hand");
        return ExitCode::from(2);
    }
    // A panic of PID 1 would be a panic of the kernel with less to read: say it, then power off.
    std::panic::set_hook(Box::new(|panic| {
        kmsg::log(&panic.to_string());
        setup::power_off();
    }));
    if let Err(error) = serve() {
        kmsg::log(&format!("cannot go on: {error}"));
    }
    setup::power_off();
    ExitCode::FAILURE
}

fn serve() -> std::io::Result<()> {
    // A container sees the child that is to join it before that is another program: it may not look into it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    boot::prepare()?;
    let server = Server::new(Guest {
        setup: setup::run,
        shut_down: setup::shut_down,
        stage: PathBuf::from("/proc/self/exe"),
        cgroups: boot::CGROUPS.into(),
        stream_wait: STREAM_WAIT,
    });
    let control = boot::listen(CONTROL_PORT)?;
    let streams = boot::listen(STREAM_PORT)?;
    let transfers = boot::listen(TRANSFER_PORT)?;
    boot::tell_host();
    Arc::new(server).serve(control, streams, transfers)
}
