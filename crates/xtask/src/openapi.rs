//! `cargo xtask openapi` and `cargo xtask api-test`: the API's document, and whether the daemon keeps its word.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, check, need_packages, repository, target};
use crate::{fixtures, programs};

/// The release that the test is written for.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// The most requests for each operation and phase, when nobody says: some 10,000 in all.
const EXAMPLES: &str = "80";
/// What the requests are made from, when nobody says.
const SEED: &str = "1";

/// Writes `resources/openapi.json` anew: by the test that compares it.
pub fn renew() -> Result<()> {
    check(
        cargo()
            .args(["test", "--quiet", "--profile", "lab", "--package", "hull-daemon", "--lib", "--"])
            .args(["--exact", "api::docs::tests::the_committed_document_is_of_these_handlers"])
            .env("HULL_RENEW", "1"),
    )
}

/// Asks a daemon whatever the document allows and forbids, by schemathesis, in a network namespace of its own.
pub fn test(args: &[String]) -> Result<()> {
    let (mut examples, mut seed) = (EXAMPLES, SEED);
    for pair in args.chunks(2) {
        match pair {
            [name, value] if name == "--examples" => examples = value,
            [name, value] if name == "--seed" => seed = value,
            _ => bail!("usage: cargo xtask api-test [--examples N] [--seed N]"),
        }
    }
    need_packages(&["iproute2", "nftables", "python3-venv"])?;
    let schemathesis = schemathesis()?;
    check(cargo().args(["build", "--profile", "lab", "--package", "hull", "--bins", "--examples"]))?;
    let built = programs::build_beside_hull()?;
    let package = fixtures::guest_kernel()?.package();
    check(
        Command::new("unshare")
            .args(["--net", "python3"])
            .arg(repository().join("tests/api/run.py"))
            .args([built, package, schemathesis])
            .args([examples, seed]),
    )
}

/// The program, of an environment of its own.
fn schemathesis() -> Result<PathBuf> {
    let place = target().join("tools/schemathesis");
    let run = |program: PathBuf, args: &[&str]| check(Command::new(program).args(args));
    if !place.join("bin/pip").exists() {
        let to = place.to_str().context("the target directory has a name that is no text")?;
        run("python3".into(), &["-m", "venv", to])?;
    }
    run(place.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS])?;
    Ok(place.join("bin/st"))
}
