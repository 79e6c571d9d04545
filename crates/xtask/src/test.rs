//! `cargo xtask test`: every test there is. Unit, property and device tests run here, and so do those of the guest
//! without an operating system, on whatever KVM is here; the other system tests in `tests/` boot Linux, so they run,
//! all in one boot, where KVM can do that.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, need_packages, repository, target};
use crate::{fixtures, images, lab, programs};

/// The test programs whose guests run on any KVM, or are stood in for.
const BARE: [&str; 10] =
    ["api", "bare", "card", "control", "hostile", "jail", "kill", "life", "network", "tenants"];

/// How many labs the system tests may use up.
const LAB_TRIES: usize = 3;

/// A test program.
struct Program {
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

/// What libtest says at the end of each test program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Sets up, builds and runs all tests; the last line is the sum.
pub fn run() -> Result<()> {
    need_packages(&[
        "acpica-tools",
        "curl",
        "gcc",
        "iproute2",
        "libc6-dev",
        "nftables",
        "openssl",
        "python3",
        "wrk",
    ])?;
    let all = build()?;
    programs::build_beside_hull()?;
    set_up()?;
    let at = |level| all.iter().filter(move |program| program.level == level);
    let mut sum = Counts::default();
    println!("== unit, property, device, image and agent tests, on this host");
    let mut passed = true;
    for program in at(Level::Host) {
        passed &= counted(Command::new(&program.path).current_dir(&program.crate_dir), &mut sum)?;
    }
    passed &= bare_tests(at(Level::Bare), &mut sum)?;
    passed &= linux_tests(at(Level::Linux), &mut sum)?;
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if !passed || sum.failed > 0 || sum.skipped > 0 {
        bail!("not every test passed");
    }
    Ok(())
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
    fixtures::net()?;
    fixtures::python()?;
    // The packages of three stock kernels: the guests' own, the lab's, and a newer one.
    fixtures::lab_kernel()?;
    fixtures::newer_kernel()?;
    Ok(())
}

/// Runs the tests of bare guests on this host's KVM, whichever that is. Without any they count as skipped.
fn bare_tests<'a>(programs: impl Iterator<Item = &'a Program>, sum: &mut Counts) -> Result<bool> {
    let there = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &there {
        println!("== tests of bare guests: skipped, /dev/kvm cannot be opened: {error}");
    } else {
        println!("== tests of bare guests, on this host");
    }
    let mut passed = true;
    for program in programs {
        let mut command = Command::new(&program.path);
        command.env("HULL_FIXTURES", target().join("fixtures"));
        if there.is_ok() {
            passed &= counted(command.arg("--test-threads=1"), sum)?;
        } else {
            let listed = command.arg("--list").output().context("the tests could not be listed")?;
            let tests = String::from_utf8_lossy(&listed.stdout);
            sum.skipped += tests.lines().map(|line| u64::from(line.ends_with(": test"))).sum::<u64>();
        }
    }
    Ok(passed)
}

/// Runs the tests of Linux guests where Linux boots.
fn linux_tests<'a>(programs: impl Iterator<Item = &'a Program>, sum: &mut Counts) -> Result<bool> {
    let whereabouts =
        if lab::host_can_boot() { "this host" } else { "the lab: this host's KVM cannot boot Linux" };
    println!("== system tests, on {whereabouts}");
    let mut left: Vec<&Program> = programs.collect();
    let mut passed = true;
    for attempt in 0..LAB_TRIES {
        let (ended, status) = in_lab(&left, sum)?;
        left.drain(..ended.min(left.len()));
        if status != Some(i32::from(lab::LOST_STATUS)) {
            return Ok(passed && status == Some(0));
        }
        println!("LOST: {} of the test programs go on in a new lab (attempt {})", left.len(), attempt + 2);
        passed &= sum.failed == 0;
    }
    bail!("the emulated host was lost {LAB_TRIES} times")
}

/// Runs test programs in one lab; how many came to their end, and the lab's status.
fn in_lab(programs: &[&Program], sum: &mut Counts) -> Result<(usize, Option<i32>)> {
    // One after the other: they share two emulated processors, and time limits are real time. What a test says is shown
    // as it comes: it would be lost with the lab.
    let script: Vec<String> = programs
        .iter()
        .map(|program| format!("{} --test-threads=1 --nocapture || failed=1", program.path.display()))
        .collect();
    let script = format!("failed=0; {}; exit $failed", script.join("; "));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "--", "sh", "-c", &script]).env("HULL_FIXTURES", target().join("fixtures"));
    run_counted(&mut command, sum)
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
    Some(Program { path: message.get("executable")?.as_str()?.into(), crate_dir, level })
}

/// Runs a command, showing what it prints and adding up what its test programs say; whether it succeeded.
fn counted(command: &mut Command, sum: &mut Counts) -> Result<bool> {
    Ok(run_counted(command, sum)?.1 == Some(0))
}

/// The same; how many test programs came to their end, and the command's status.
fn run_counted(command: &mut Command, sum: &mut Counts) -> Result<(usize, Option<i32>)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("the tests could not be started")?;
    let output = child.stdout.take().context("the tests have no output")?;
    let mut ended = 0;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counts) = summary(&line) {
            ended += 1;
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.skipped += counts.skipped;
        }
    }
    Ok((ended, child.wait()?.code()))
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn summary(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let count = |what: &str| {
        let words: Vec<&str> = rest.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        words.windows(2).find(|pair| pair.get(1) == Some(&what)).and_then(|pair| pair.first()?.parse().ok())
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
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

    #[test]
    fn summaries_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(summary(line), Some(Counts { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(summary("running 3 tests"), None);
    }
}
