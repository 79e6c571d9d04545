//! `cargo xtask bench net`: a network card of Hull's beside QEMU's, on the same tap, with the same guest, in one lab.
//!
//! The guest connects and sends back whatever it is sent. Times are on the lab's clock that counts instructions, the
//! guest's own among them; exits are KVM's counters, system calls a histogram of the kernel's. Each figure is the
//! median of some boots, all of them in turns.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::peer::{self, Guest, Peer};
use super::taken::{Vm, median};
use super::trace;
use crate::shell::{check, need_packages};
use crate::{fixtures, programs};

const USAGE: &str = "usage: cargo xtask bench net [--json] [--rounds N] [--peer NAME=PATH] ...

Each figure is the median of N boots, 3 unless told. PATH is the program of QEMU, Firecracker or another Hull.";

const TAP: &str = "tap0";
const MAC: &str = "02:00:00:00:00:07";
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=k pci=off cryptomgr.notests do=net";

/// Questions asked one after the other, each answered before the next, and their length.
const REQUESTS: u64 = 400;
const REQUEST: usize = 64;
/// What is sent there and back at once.
const STREAM: usize = 16 << 20;
/// Longer than any guest takes to connect.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was measured of one VMM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Figures {
    /// Requests a second.
    requests: u64,
    /// KiB a second, counted once though they went both ways.
    stream: u64,
    /// Per thousand packets of the requests, both ways: exits of the guest.
    request_exits: u64,
    /// The same: system calls of the VMM.
    request_calls: u64,
    /// The same for the stream.
    stream_exits: u64,
    /// The same for the stream.
    stream_calls: u64,
}

/// The figures by name; the last is whether more is better.
type Row = (&'static str, fn(&Figures) -> u64, bool);

const ROWS: [Row; 6] = [
    ("requests a second", |f| f.requests, true),
    ("KiB a second there and back", |f| f.stream, true),
    ("exits per 1000 packets of requests", |f| f.request_exits, false),
    ("system calls per 1000 packets of requests", |f| f.request_calls, false),
    ("exits per 1000 frames of the stream", |f| f.stream_exits, false),
    ("system calls per 1000 frames of the stream", |f| f.stream_calls, false),
];

/// `cargo xtask bench net ARGS`.
pub fn run(args: &[String]) -> Result<()> {
    let (mut json, mut rounds, mut peers) = (false, 3_usize, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--rounds" => {
                rounds = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).context(USAGE)?
            }
            "--peer" => peers.push(Peer::parse(words.next().context(USAGE)?)?),
            _ => bail!("{USAGE}"),
        }
    }
    need_packages(&["qemu-system-x86", "busybox-static", "iproute2"])?;
    let place = programs::build()?;
    let mut vmms = vec![
        Peer { name: "hull".into(), path: place.join("hull") },
        Peer { name: "qemu".into(), path: "/usr/bin/qemu-system-x86_64".into() },
    ];
    vmms.extend(peers);
    let guest = fixtures::guest()?;
    let this = std::env::current_exe()?;
    let output = Command::new(&this)
        .args(["lab", "--count", "--"])
        .arg(&this)
        .args(["bench", "net-in-lab", &rounds.to_string()])
        .args([guest.join("vmlinux"), guest.join("initramfs")])
        .args(vmms.iter().map(Peer::to_string))
        .stderr(Stdio::inherit())
        .output()
        .context("the lab could not be started")?;
    if !output.status.success() {
        bail!("the measurement failed: {}", String::from_utf8_lossy(&output.stdout));
    }
    let measured: Vec<(String, Figures)> =
        serde_json::from_slice(&output.stdout).context("the lab did not hand back a measurement")?;
    if json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        print!("{}", table(&measured));
    }
    Ok(())
}

/// Each figure beside the others', as it is and as a ratio to the first VMM's.
fn table(measured: &[(String, Figures)]) -> String {
    let mut text = String::new();
    let Some((ours, first)) = measured.first() else { return text };
    for (name, value, more_is_better) in ROWS {
        text += &format!("{name:44} {ours} {}", value(first));
        for (peer, figures) in measured.get(1..).unwrap_or_default() {
            let ratio = value(first) as f64 / value(figures).max(1) as f64;
            let good = if more_is_better { ratio >= 1.0 } else { ratio <= 1.0 };
            text += &format!(", {peer} {} ({ratio:.2}{})", value(figures), if good { "" } else { " WORSE" });
        }
        text.push('\n');
    }
    text
}

/// `net-in-lab ROUNDS KERNEL INITRD NAME=PATH ...`: prints the figures as JSON.
pub fn run_in_lab(args: &[String]) -> Result<()> {
    let [rounds, kernel, initrd, peers @ ..] = args else { bail!("the lab is given what to measure") };
    let rounds: usize = rounds.parse()?;
    let guest = Guest { kernel: kernel.into(), initrd: initrd.into() };
    let peers: Vec<Peer> = peers.iter().map(|text| Peer::parse(text)).collect::<Result<_>>()?;
    for words in [
        &["tuntap", "add", TAP, "mode", "tap", "vnet_hdr"][..],
        &["addr", "add", "10.77.0.1/24", "dev", TAP],
        &["link", "set", TAP, "up"],
    ] {
        check(Command::new("ip").args(words))?;
    }
    let listener = TcpListener::bind(("10.77.0.1", 7001))?;
    let mut taken: Vec<Vec<Figures>> = vec![Vec::new(); peers.len()];
    for round in 1..=rounds {
        for (peer, taken) in peers.iter().zip(&mut taken) {
            eprintln!("bench: {} {round}", peer.name);
            taken.push(measure(peer, &guest, &listener).with_context(|| format!("measuring {}", peer.name))?);
        }
    }
    let measured: Vec<_> =
        peers.into_iter().zip(&taken).map(|(peer, taken)| (peer.name, medians(taken))).collect();
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// One boot: first the times, then the counts, so that counting does not slow what is timed.
fn measure(peer: &Peer, guest: &Guest, listener: &TcpListener) -> Result<Figures> {
    let mut vmm = command(peer, guest)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let stream = accept(listener, &mut vmm)?;
    stream.set_nodelay(true)?;
    ask(&stream, REQUESTS / 10)?;
    let start = Instant::now();
    ask(&stream, REQUESTS)?;
    let requests = start.elapsed();
    let start = Instant::now();
    echo(&stream)?;
    let streamed = start.elapsed();
    let vm = Vm::only()?;
    let (request_exits, request_calls) = count(&vm, || ask(&stream, REQUESTS))?;
    let (stream_exits, stream_calls) = count(&vm, || echo(&stream))?;
    drop(stream);
    let status = vmm.wait()?;
    if !status.success() {
        bail!("the VMM ended with {status}");
    }
    let per_second = |count: u64, time: Duration| (count as f64 / time.as_secs_f64()) as u64;
    Ok(Figures {
        requests: per_second(REQUESTS, requests),
        stream: per_second(STREAM as u64 >> 10, streamed),
        request_exits,
        request_calls,
        stream_exits,
        stream_calls,
    })
}

/// How each is told to boot the guest on the tap.
fn command(peer: &Peer, guest: &Guest) -> Result<Command> {
    let mut command = Command::new(&peer.path);
    match peer.path.file_name().map(|name| name.to_string_lossy()).as_deref() {
        Some("hull") => {
            command.args(["boot", "--memory", "256m", "--cmdline", CMDLINE]);
            command.args(["--net", &format!("tap={TAP},mac={MAC},ip=10.77.0.2")]);
            command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
        }
        Some(name) if name.starts_with("qemu-system") => {
            command.args(["-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on"]);
            command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "256"]);
            command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
            command.args(["-serial", "stdio", "-append", CMDLINE]);
            command.arg("-netdev").arg(format!("tap,id=net,ifname={TAP},script=no,downscript=no"));
            command.arg("-device").arg(format!("virtio-net-device,netdev=net,mac={MAC}"));
            command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
        }
        Some(name) if name.starts_with("firecracker") => {
            let config = peer::firecracker(&guest.kernel, &guest.initrd, CMDLINE, &[(TAP, MAC)])?;
            command.arg("--no-api").arg("--config-file").arg(config);
        }
        _ => bail!("nobody knows how {} boots a guest on a tap", peer.path.display()),
    }
    Ok(command)
}

/// The guest's connection, once it has booted.
fn accept(listener: &TcpListener, vmm: &mut Child) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            return Ok(stream);
        }
        if let Some(status) = vmm.try_wait()? {
            bail!("the VMM ended before its guest connected: {status}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    vmm.kill()?;
    bail!("the guest does not connect")
}

fn ask(mut stream: &TcpStream, count: u64) -> Result<()> {
    let mut answer = [0; REQUEST];
    for _ in 0..count {
        stream.write_all(&[7; REQUEST])?;
        stream.read_exact(&mut answer)?;
    }
    Ok(())
}

fn echo(stream: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let chunk = vec![7; 1 << 18];
            let mut stream = stream;
            (0..STREAM / chunk.len()).try_for_each(|_| stream.write_all(&chunk))
        });
        let (mut back, mut stream) = (vec![0; 1 << 18], stream);
        (0..STREAM / back.len()).try_for_each(|_| stream.read_exact(&mut back))?;
        sending.join().map_err(|_| anyhow::anyhow!("sending failed"))??;
        Ok(())
    })
}

/// Exits and system calls for a thousand packets of some work.
fn count(vm: &Vm, work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let exits = || -> Result<u64> { Ok(vm.counters()?.get("exits").copied().unwrap_or(0)) };
    let (packets_before, exits_before) = (packets()?, exits()?);
    trace::count_calls()?;
    work()?;
    let calls = trace::calls()?;
    let (exits, packets) = (exits()? - exits_before, (packets()? - packets_before).max(1));
    Ok((exits * 1000 / packets, of_process(&calls, vm.process)? * 1000 / packets))
}

/// The calls of all a process's threads.
fn of_process(calls: &BTreeMap<String, u64>, process: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.file_name().to_string_lossy().into_owned();
        sum += calls.get(&thread).copied().unwrap_or(0);
    }
    Ok(sum)
}

/// What went over the tap, both ways.
fn packets() -> Result<u64> {
    let statistics = Path::new("/sys/class/net").join(TAP).join("statistics");
    ["rx_packets", "tx_packets"]
        .iter()
        .try_fold(0, |sum, name| Ok(sum + fs::read_to_string(statistics.join(name))?.trim().parse::<u64>()?))
}

fn medians(taken: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> u64| median(taken.iter().map(figure).collect());
    Figures {
        requests: of(|f| f.requests),
        stream: of(|f| f.stream),
        request_exits: of(|f| f.request_exits),
        request_calls: of(|f| f.request_calls),
        stream_exits: of(|f| f.stream_exits),
        stream_calls: of(|f| f.stream_calls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_is_better() {
        let ours = Figures { requests: 300, request_exits: 50, ..Figures::default() };
        let theirs = Figures { requests: 200, request_exits: 40, ..Figures::default() };
        let text = table(&[("hull".into(), ours), ("qemu".into(), theirs)]);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        assert!(line("requests").is_some_and(|line| line.ends_with("hull 300, qemu 200 (1.50)")), "{text}");
        assert!(line("exits").is_some_and(|line| line.ends_with("qemu 40 (1.25 WORSE)")), "{text}");
    }
}
