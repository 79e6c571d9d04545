//! `cargo xtask test`: every test there is. Unit, property and device tests run here, and so do those of the guest
//! without an operating system, on whatever KVM is here; the other system tests in `tests/` boot Linux, so they run
//! where KVM can do that.

pub mod soak;
mod tally;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::shell::{cargo, need_packages, processors, repository, target};
use crate::{fixtures, images, lab, programs};
use tally::{Ran, Tally, run_counted};

/// The test programs whose guests run on any KVM, or are stood in for.
const BARE: [&str; 11] =
    ["api", "bare", "card", "control", "hostile", "jail", "kill", "life", "many", "network", "tenants"];

/// The test programs that take longest, here and in a lab.
const LONGEST: [&str; 7] = ["network", "tenants", "hostile", "life", "network_guests", "run", "exec"];

/// How many labs a program of system tests may use up.
const LAB_TRIES: u32 = 3;

/// A test program.
struct Program {
    name: String,
    path: PathBuf,
    /// The directory of its crate.
    crate_dir: PathBuf,
    level: Level,
}

/// Where a test program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Here: it needs no KVM.
    Host,
    /// Here, on whatever KVM there is.
    Bare,
    /// Where KVM boots Linux.
    Linux,
}

impl Program {
    /// How it is run on this host, with these tests only where some are named.
    fn command(&self, tests: &[String]) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.crate_dir).env("HULL_FIXTURES", target().join("fixtures"));
        if self.level == Level::Bare {
            command.arg("--test-threads=1");
        }
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        command
    }

    /// The same as a shell's command. What a test says is shown as it comes: it would be lost with the lab.
    fn line(&self, tests: &[String]) -> String {
        let exact = if tests.is_empty() { "" } else { " --exact " };
        format!("{} --test-threads=1 --nocapture{exact}{}", self.path.display(), tests.join(" "))
    }

    fn run(&self, tests: &[String], tally: &mut Tally) -> Result<Ran> {
        match self.level {
            Level::Linux => where_linux_boots(&self.line(tests), &self.name, tally),
            Level::Bare => run_counted(&mut self.command(tests), Some(&self.name), tally),
            Level::Host => run_counted(&mut self.command(tests), None, tally),
        }
    }

    /// Runs it where it belongs; whether its tests passed.
    fn passes(&self, tally: &mut Tally) -> Result<bool> {
        let ran = self.run(&[], tally)?;
        match ran.failed.as_slice() {
            [failed] if !failed.is_empty() => tally.again(failed, |second| self.run(failed, second)),
            // Without a sum it has died.
            [_] => Ok(ran.status == Some(0)),
            _ => Ok(false),
        }
    }
}

/// Sets up, builds and runs all tests; the last line is the sum.
pub fn run() -> Result<()> {
    install()?;
    let all = build()?;
    programs::build_beside_hull()?;
    set_up()?;
    let at = |level| all.iter().filter(move |program| program.level == level);
    let mut tally = Tally::default();
    println!("== unit, property, device, image and agent tests, on this host");
    let mut passed = true;
    for program in at(Level::Host) {
        passed &= program.passes(&mut tally)?;
    }
    passed &= bare_tests(at(Level::Bare).collect(), &mut tally)?;
    passed &= linux_tests(at(Level::Linux).collect(), &mut tally)?;
    for test in &tally.unsteady {
        println!("UNSTEADY: {test} failed, and passed when it was run again by itself");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if !passed || tally.failed > 0 || tally.skipped > 0 {
        bail!("not every test passed");
    }
    Ok(())
}

/// Installs what is needed to build and to test, where it is not there.
fn install() -> Result<()> {
    need_packages(&[
        "acpica-tools",
        "apache2-utils",
        "curl",
        "gcc",
        "iproute2",
        "libc6-dev",
        "nftables",
        "openssl",
        "python3",
        "wrk",
    ])
}

/// Builds every test program, and with them the programs that they start: all in one go, so that nothing is built
/// twice with other features.
fn build() -> Result<Vec<Program>> {
    let built = cargo()
        .args([
            "test",
            "--profile",
            "lab",
            "--workspace",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("building the tests")?;
    if !built.status.success() {
        bail!("the tests do not build");
    }
    let programs: Vec<Program> =
        String::from_utf8_lossy(&built.stdout).lines().filter_map(test_program).collect();
    if !programs.iter().any(|program| program.level == Level::Linux) {
        bail!("there are no system tests");
    }
    Ok(programs)
}

/// What the tests need besides.
fn set_up() -> Result<()> {
    images::images()?;
    fixtures::guest()?;
    fixtures::bare()?;
    fixtures::python()?;
    images::tools()?;
    // The packages of three stock kernels: the guests' own, the lab's, and a newer one.
    fixtures::lab_kernel()?;
    fixtures::newer_kernel()?;
    Ok(())
}

/// Runs the tests of bare guests on this host's KVM, whichever that is, as many programs at once as there are processors:
/// they wait more than they work. Without any they count as skipped.
fn bare_tests(programs: Vec<&Program>, tally: &mut Tally) -> Result<bool> {
    let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
        println!("== tests of bare guests, on this host");
        return side_by_side(programs, processors().min(4), tally);
    };
    println!("== tests of bare guests: skipped, /dev/kvm cannot be opened: {error}");
    for program in programs {
        let listed = program.command(&[]).arg("--list").output().context("the tests could not be listed")?;
        let tests = String::from_utf8_lossy(&listed.stdout);
        tally.skipped += tests.lines().map(|line| u64::from(line.ends_with(": test"))).sum::<u64>();
    }
    Ok(true)
}

/// Runs the tests of Linux guests where Linux boots: in labs, each program in one of its own, as many at once as there are
/// processors. An emulated host has one processor, because several that run at once break guests now and then.
fn linux_tests(programs: Vec<&Program>, tally: &mut Tally) -> Result<bool> {
    let (places, whereabouts) = match lab::host_can_boot() {
        true => (1, "this host".to_owned()),
        false => (lab::places(), format!("{} labs: this host's KVM cannot boot Linux", lab::places())),
    };
    println!("== system tests, on {whereabouts}");
    if places > 1 {
        lab::prepare()?;
    }
    side_by_side(programs, places, tally)
}

/// Runs test programs, so many at once; whether all tests passed.
fn side_by_side(mut programs: Vec<&Program>, places: usize, tally: &mut Tally) -> Result<bool> {
    // What takes longest begins first.
    programs
        .sort_by_key(|program| LONGEST.iter().position(|name| *name == program.name).unwrap_or(usize::MAX));
    let left = Mutex::new(programs.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<(bool, Tally)> {
        let (mut passed, mut tally) = (true, Tally::default());
        while let Some(program) = next() {
            passed &= program.passes(&mut tally)?;
        }
        Ok((passed, tally))
    };
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..places).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    let mut passed = true;
    for done in done {
        let (all, own) = done.map_err(|_| anyhow!("the tests met a bug of their own"))??;
        passed &= all;
        tally.add(own);
    }
    Ok(passed)
}

/// Runs a command line where Linux boots; another lab takes the place of one that was lost.
fn where_linux_boots(line: &str, name: &str, tally: &mut Tally) -> Result<Ran> {
    for attempt in 1.. {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lab", "--", "sh", "-c", line]).env("HULL_FIXTURES", target().join("fixtures"));
        let ran = run_counted(&mut command, Some(name), tally)?;
        if ran.status != Some(i32::from(lab::LOST_STATUS)) {
            return Ok(ran);
        }
        if attempt == LAB_TRIES {
            break;
        }
        println!("LOST: {name} begins anew in another lab (attempt {})", attempt + 1);
    }
    bail!("the emulated host of {name} was lost {LAB_TRIES} times")
}

/// A test program, from one line of cargo's messages.
fn test_program(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if !message.get("profile")?.get("test")?.as_bool()? {
        return None;
    }
    let built = message.get("target")?;
    let name = built.get("name")?.as_str()?;
    let crate_dir = PathBuf::from(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let in_tests = built.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    let level = match in_tests && crate_dir == repository() {
        false => Level::Host,
        true if BARE.contains(&name) => Level::Bare,
        true => Level::Linux,
    };
    let name = name.to_owned();
    Some(Program { name, path: message.get("executable")?.as_str()?.into(), crate_dir, level })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_program_has_its_place() {
        let level = |kind: &str, name: &str, manifest: PathBuf| {
            let message = serde_json::json!({
                "target": {"kind": [kind], "name": name}, "executable": "/deps/x", "manifest_path": manifest,
                "profile": {"test": true},
            });
            test_program(&message.to_string()).map(|program| program.level)
        };
        let (root, inner) = (repository().join("Cargo.toml"), repository().join("crates/image/Cargo.toml"));
        assert_eq!(level("test", "bare", root.clone()), Some(Level::Bare));
        assert_eq!(level("test", "run", root.clone()), Some(Level::Linux));
        assert_eq!(level("bin", "hull", root), Some(Level::Host));
        assert_eq!(level("test", "bare", inner), Some(Level::Host));
        assert!(test_program("Compiling hull").is_none());
    }
}
