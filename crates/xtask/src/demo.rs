//! `cargo xtask demo`: from nothing to a container in a microVM of its own, with the time each step took.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::shell::{need_packages, repository, target};
use crate::{fixtures, images, lab, programs};

/// Sets up, builds, and runs a container.
pub fn run() -> Result<()> {
    timed("hull, hull-vmm and hull-agent", programs::build)?;
    let kernel = timed("a stock kernel", fixtures::guest_kernel)?;
    let image = timed("a small image", images::busybox)?;
    need_packages(&["e2fsprogs"])?;
    if !lab::host_can_boot() {
        println!(
            "This host's KVM cannot boot Linux: the rest happens on an emulated host, many times slower."
        );
    }
    let text = |path: std::path::PathBuf| path.display().to_string();
    let script = text(repository().join("resources/lab/demo"));
    let (kernel, image, place) = (text(kernel.package()), text(image), text(target().join("demo")));
    let status =
        timed("all of it", || lab::run(&["sh", "-eu", &script, &kernel, &image, &place], lab::Host::Any))?;
    if status != 0 {
        bail!("the demonstration ended with status {status}");
    }
    Ok(())
}

fn timed<T>(step: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    println!("-- {step}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}
