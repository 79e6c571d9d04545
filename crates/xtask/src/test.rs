//! `cargo xtask test`: every test there is. Unit, property and device tests run here; the system tests in
//! `tests/` boot Linux, so they run, all in one boot, where KVM can do that.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, need_packages, target};
use crate::{fixtures, lab, programs};

/// What libtest says at the end of each test program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Sets up, builds and runs all tests; the last line is the sum.
pub fn run() -> Result<()> {
    need_packages(&["acpica-tools", "gcc", "libc6-dev"])?;
    programs::build()?;
    let mut sum = Counts::default();
    println!("== unit, property and device tests, on this host");
    let unit = ["test", "--profile", "lab", "--workspace", "--lib", "--bins", "--no-fail-fast"];
    let host = counted(cargo().args(unit), &mut sum)?;
    let system = system_tests(&mut sum)?;
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if !host || !system || sum.failed > 0 || sum.skipped > 0 {
        bail!("not every test passed");
    }
    Ok(())
}

/// Builds the system tests here and runs them where Linux boots.
fn system_tests(sum: &mut Counts) -> Result<bool> {
    fixtures::guest()?;
    let built = cargo()
        .args([
            "test",
            "--profile",
            "lab",
            "--package",
            "hull",
            "--tests",
            "--no-run",
            "--message-format=json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("building the system tests")?;
    let programs: Vec<String> =
        String::from_utf8_lossy(&built.stdout).lines().filter_map(system_test).collect();
    if programs.is_empty() {
        bail!("there are no system tests");
    }
    let whereabouts =
        if lab::host_can_boot() { "this host" } else { "the lab: this host's KVM cannot boot Linux" };
    println!("== system tests, on {whereabouts}");
    // One after the other: they share two emulated processors, and time limits are real time.
    let script =
        programs.iter().map(|program| format!("{program} --test-threads=1 || failed=1")).collect::<Vec<_>>();
    let script = format!("failed=0; {}; exit $failed", script.join("; "));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "--", "sh", "-c", &script]).env("HULL_FIXTURES", target().join("fixtures"));
    counted(&mut command, sum)
}

/// The program of a test in `tests/`, from one line of cargo's messages.
fn system_test(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let kinds = message.get("target")?.get("kind")?.as_array()?;
    if !kinds.iter().any(|kind| kind == "test") {
        return None;
    }
    Some(message.get("executable")?.as_str()?.to_owned())
}

/// Runs a command, showing what it prints and adding up what its test programs say; whether it succeeded.
fn counted(command: &mut Command, sum: &mut Counts) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("the tests could not be started")?;
    let output = child.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counts) = summary(&line) {
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.skipped += counts.skipped;
        }
    }
    Ok(child.wait()?.success())
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
    fn summaries_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(summary(line), Some(Counts { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(summary("running 3 tests"), None);
    }
}
