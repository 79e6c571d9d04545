//! `cargo xtask demo`: from nothing to a stock kernel in a microVM, with the time each step took.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{fixtures, lab, programs};

/// Sets up, builds, and boots.
pub fn run() -> Result<()> {
    let guest = timed("guest kernel and initial RAM disk", fixtures::guest)?;
    timed("hull and hull-vmm", programs::build)?;
    if !lab::host_can_boot() {
        println!(
            "This host's KVM cannot boot Linux: the rest happens on an emulated host, many times slower."
        );
    }
    let file = |name: &str| guest.join(name).display().to_string();
    let (kernel, initrd) = (file("vmlinux"), file("initramfs"));
    let boot = [
        "hull",
        "boot",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        "console=ttyS0 quiet panic=-1",
    ];
    println!("$ {}", boot.join(" "));
    let status = timed("a microVM, from start to power-off", || lab::run(&boot, false))?;
    if status != 0 {
        bail!("the microVM ended with status {status}");
    }
    Ok(())
}

fn timed<T>(step: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    println!("-- {step}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}
