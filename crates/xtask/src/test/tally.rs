//! What test programs say of their tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The sum of what test programs said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed, at the latest when they were run again.
    pub passed: u64,
    /// Tests that did not.
    pub failed: u64,
    /// Tests that were not run.
    pub skipped: u64,
    /// Those that passed only when they were run again.
    pub unsteady: Vec<String>,
}

/// What a command that ran test programs came to.
#[derive(Debug)]
pub struct Ran {
    /// The tests that failed in each program that came to its end, in the order of these.
    pub failed: Vec<Vec<String>>,
    /// The command's exit status.
    pub status: Option<i32>,
}

impl Tally {
    /// Adds another's sums.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.unsteady.extend(other.unsteady);
    }

    /// Runs tests that failed once more, by themselves: many of them keep limits of time, and a machine may be busy with
    /// others. Whether all of them passed; those that did are named at the end, because something is wrong with them.
    pub fn again(&mut self, tests: &[String], run: impl FnOnce(&mut Self) -> Result<Ran>) -> Result<bool> {
        println!("AGAIN, by themselves: {}", tests.join(" "));
        let mut second = Self::default();
        let ran = run(&mut second)?;
        self.failed = self.failed.saturating_sub(second.passed);
        self.passed += second.passed;
        let failed = ran.failed.concat();
        self.unsteady.extend(tests.iter().filter(|test| !failed.contains(test)).cloned());
        Ok(ran.status == Some(0) && second.passed == tests.len() as u64)
    }
}

/// Runs a command, showing what it prints, after its name if others run beside it, and adding up what its test programs say.
pub fn run_counted(command: &mut Command, name: Option<&str>, tally: &mut Tally) -> Result<Ran> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("the tests could not be started")?;
    let output = child.stdout.take().context("the tests have no output")?;
    let (mut failed, mut names) = (Vec::new(), Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line?;
        match name {
            Some(name) => println!("{name:>14} | {line}"),
            None => println!("{line}"),
        }
        match read(&line) {
            Some(Said::Failures) => names.clear(),
            Some(Said::Failed(name)) => names.push(name.to_owned()),
            Some(Said::Sum { passed, failed: count, skipped }) => {
                tally.passed += passed;
                tally.failed += count;
                tally.skipped += skipped;
                // A sum without failures has no list, and what looked like one was said by a test.
                names.truncate(usize::try_from(count).unwrap_or(usize::MAX));
                failed.push(std::mem::take(&mut names));
            }
            None => {}
        }
    }
    Ok(Ran { failed, status: child.wait()?.code() })
}

/// What a line of libtest's says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// A list of failed tests begins, or what they said.
    Failures,
    /// One of the list.
    Failed(&'a str),
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
    Sum { passed: u64, failed: u64, skipped: u64 },
}

fn read(line: &str) -> Option<Said<'_>> {
    if line == "failures:" {
        return Some(Said::Failures);
    }
    if let Some(name) = line.strip_prefix("    ") {
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        return is_name.then_some(Said::Failed(name));
    }
    let rest = line.trim().strip_prefix("test result: ")?;
    let count = |what: &str| {
        let words: Vec<&str> = rest.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        words.windows(2).find(|pair| pair.get(1) == Some(&what)).and_then(|pair| pair.first()?.parse().ok())
    };
    Some(Said::Sum { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A program that says this.
    fn said(tests: &str) -> Command {
        let mut command = Command::new("printf");
        command.arg(tests);
        command
    }

    #[test]
    fn summaries_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(read(line), Some(Said::Sum { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(read("running 3 tests"), None);
        assert_eq!(read("    0: core::result::unwrap_failed"), None);
    }

    #[test]
    fn what_passes_the_second_time_is_named_and_what_does_not_has_failed() {
        let first = "running 3 tests\nfailures:\n\n---- one stdout ----\n    said\n\nfailures:\n    one\n    a::two\n\n\
                     test result: FAILED. 1 passed; 2 failed; 0 ignored\n\
                     test result: ok. 4 passed; 0 failed; 0 ignored\n";
        let mut tally = Tally::default();
        let ran = run_counted(&mut said(first), None, &mut tally).unwrap();
        assert_eq!(ran.failed, [vec!["one".to_owned(), "a::two".to_owned()], vec![]]);
        assert_eq!((tally.passed, tally.failed), (5, 2));
        let second = "failures:\n    one\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let all =
            tally.again(&ran.failed.concat(), |tally| run_counted(&mut said(second), None, tally)).unwrap();
        assert!(!all);
        assert_eq!((tally.passed, tally.failed, tally.unsteady), (6, 1, vec!["a::two".to_owned()]));
    }

    #[test]
    fn a_program_that_dies_has_not_passed() {
        let mut tally = Tally::default();
        assert!(
            !tally.again(&["one".to_owned()], |tally| run_counted(&mut said("died\n"), None, tally)).unwrap()
        );
    }
}
