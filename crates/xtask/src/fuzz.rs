//! `cargo xtask fuzz`: every parser and every device under libFuzzer, with coverage and the address sanitizer.
//!
//! One program holds all targets (`tests/fuzz`). It is built by the stable compiler with the flags that cargo-fuzz
//! sets, in a target directory of its own: everything in it is instrumented, so nothing is shared with other builds.
//! What a target learns stays in `target/fuzz/corpus/TARGET` and is where the next run begins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, check, need_packages, output, processors, target};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Coverage for libFuzzer (counters, a table of places, comparisons), and the address sanitizer.
const FLAGS: [&str; 8] = [
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
];
/// Bounds on one input: its length in bytes, its time in seconds, what it may allocate at once and hold, in MiB.
const BOUNDS: [&str; 5] =
    ["-max_len=8192", "-timeout=300", "-malloc_limit_mb=600", "-rss_limit_mb=3072", "-detect_leaks=0"];

/// What is asked for.
#[derive(Debug, PartialEq)]
struct Asked {
    /// For each target.
    seconds: u64,
    /// This part of so many, from 1.
    part: (usize, usize),
    /// All, when empty.
    names: Vec<String>,
}

/// What became of one target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    inputs: u64,
}

/// Builds the fuzzer, runs the targets, prints a table; fails when something was found.
pub fn run(args: &[String]) -> Result<()> {
    let asked = parse(args)?;
    need_packages(&["g++"])?;
    let program = build()?;
    let all: Vec<String> = output(&program.display().to_string(), &[])?.lines().map(str::to_owned).collect();
    let chosen = choose(&all, &asked)?;
    println!(
        "{:<12} {:>12} {:>9} {:>7} {:>9} {:>7}  found",
        "target", "executions", "each s", "edges", "features", "inputs"
    );
    let waiting = Mutex::new(chosen.into_iter().rev().collect::<Vec<_>>());
    let found: Mutex<Vec<String>> = Mutex::default();
    let jobs = processors();
    let work = || -> Result<()> {
        loop {
            let Some(name) = waiting.lock().ok().and_then(|mut waiting| waiting.pop()) else { return Ok(()) };
            if let (Some(finding), Ok(mut found)) = (fuzz(&program, &name, asked.seconds)?, found.lock()) {
                found.push(finding);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker ended early")))
    })?;
    let found = found.into_inner().unwrap_or_default();
    if !found.is_empty() {
        bail!("{} targets found something; to see each again:\n{}", found.len(), found.join("\n"));
    }
    Ok(())
}

fn parse(args: &[String]) -> Result<Asked> {
    let mut asked = Asked { seconds: 600, part: (1, 1), names: Vec::new() };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => {
                let minutes: Option<f64> = words.next().and_then(|text| text.parse().ok());
                let minutes = minutes.filter(|minutes| (0.01..=10_000.0).contains(minutes));
                let minutes =
                    minutes.context("--minutes takes how long each target is to run, such as 10 or 0.5")?;
                asked.seconds = (minutes * 60.0).ceil() as u64;
            }
            "--part" => {
                let part = words.next().and_then(|text| text.split_once('/'));
                let part = part.and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
                asked.part = part
                    .filter(|(part, of): &(usize, usize)| (1..=*of).contains(part))
                    .context("--part takes which part of how many, such as 2/9")?;
            }
            name if name.starts_with('-') => bail!("unknown option {name}"),
            name => asked.names.push(name.to_owned()),
        }
    }
    Ok(asked)
}

/// The targets that were asked for.
fn choose(all: &[String], asked: &Asked) -> Result<Vec<String>> {
    if let Some(unknown) = asked.names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let (part, of) = asked.part;
    let mine = all.iter().filter(|name| asked.names.is_empty() || asked.names.contains(name));
    Ok(mine.enumerate().filter(|(at, _)| at % of == part - 1).map(|(_, name)| name.clone()).collect())
}

fn place() -> PathBuf {
    target().join("fuzz")
}

fn build() -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--package=hull-fuzz",
        "--features=libfuzzer",
        "--profile=fuzz",
        "--target",
        TRIPLE,
    ]);
    // Coverage and sanitizers are options that the stable compiler has and does not show.
    build.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", place()).env("RUSTFLAGS", FLAGS.join(" "));
    check(&mut build).context("building the fuzzer")?;
    Ok(place().join(TRIPLE).join("fuzz/hull-fuzz"))
}

/// Runs one target and prints its line; how to see what it found, if it did.
fn fuzz(program: &Path, name: &str, seconds: u64) -> Result<Option<String>> {
    let folder = |kind: &str| -> Result<PathBuf> {
        let folder = place().join(kind).join(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    };
    let (corpus, seeds, findings) = (folder("corpus")?, folder("seeds")?, folder("findings")?);
    let log = folder("log")?.join("last");
    let status = Command::new(program)
        .args(BOUNDS)
        .args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", findings.display())])
        .args(["-print_final_stats=1".as_ref(), corpus.as_os_str(), seeds.as_os_str()])
        .env("HULL_FUZZ_TARGET", name)
        .env("HULL_FUZZ_SEEDS", &seeds)
        .stdout(File::create(&log)?)
        .stderr(File::options().append(true).open(&log)?)
        .status()
        .context("the fuzzer could not be started")?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let Outcome { executions, per_second, edges, features, inputs } = outcome(&said);
    let verdict = if status.success() { "nothing" } else { "SOMETHING" };
    println!("{name:<12} {executions:>12} {per_second:>9} {edges:>7} {features:>9} {inputs:>7}  {verdict}");
    if status.success() {
        return Ok(None);
    }
    let input = said.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file));
    let again = format!("HULL_FUZZ_TARGET={name} {} {}", program.display(), input.unwrap_or("(no input)"));
    Ok(Some(format!("  {again}\n  what it said: {}", log.display())))
}

/// Reads libFuzzer's last words: `#123 DONE cov: 4 ft: 5 corp: 6/7b ...` and `stat::number_of_executed_units: 123`.
fn outcome(said: &str) -> Outcome {
    let stat = |name: &str| {
        let value = said.lines().rev().find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    let line =
        said.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: ")).unwrap_or_default();
    let field = |name: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name).skip(1);
        words.next().and_then(|value| value.split('/').next()?.parse().ok()).unwrap_or(0)
    };
    Outcome {
        executions: stat("number_of_executed_units"),
        per_second: stat("average_exec_per_sec"),
        edges: field("cov:"),
        features: field("ft:"),
        inputs: field("corp:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_asked_for_is_run_and_in_parts_each_once() -> Result<()> {
        assert_eq!(
            parse(&words("--minutes 0.5 net"))?,
            Asked { seconds: 30, part: (1, 1), names: words("net") }
        );
        for wrong in ["--minutes", "--minutes x", "--part 3/2", "--part 0/2", "--hours 1"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
        let all = words("a b c d e");
        let mut parts = Vec::new();
        for part in ["1/2", "2/2"] {
            parts.extend(choose(&all, &parse(&words(&format!("--part {part}")))?)?);
        }
        parts.sort();
        assert_eq!(parts, all);
        assert!(choose(&all, &parse(&words("f"))?).is_err());
        Ok(())
    }

    #[test]
    fn the_last_words_are_read() {
        let said = "#2\tINITED cov: 1 ft: 1 corp: 1/1b\n#4096\tDONE   cov: 321 ft: 987 corp: 44/9Kb lim: 4 exec/s: 9\n\
                    stat::number_of_executed_units: 4096\nstat::average_exec_per_sec:     819\n";
        let expected = Outcome { executions: 4096, per_second: 819, edges: 321, features: 987, inputs: 44 };
        assert_eq!(outcome(said), expected);
        assert_eq!(outcome("it did not start"), Outcome::default());
    }
}
