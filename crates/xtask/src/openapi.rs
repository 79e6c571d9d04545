//! `cargo xtask openapi` and `cargo xtask api-test`: the API's document, and whether the daemon keeps its word.

use anyhow::{Result, bail};

use crate::shell::{cargo, check, target};
use crate::{fixtures, programs};

/// The most requests for each operation and phase, when nobody says: over 10,000 in all.
const EXAMPLES: &str = "240";
/// What the requests are made from, when nobody says.
const SEED: &str = "1";

/// Writes `resources/openapi.json` anew: by the test that compares it. The whole workspace is built, as it is for all tests:
/// a part of it would be built again, with other features.
pub fn renew() -> Result<()> {
    check(
        cargo()
            .args(["test", "--quiet", "--profile", "lab", "--workspace", "--lib", "--"])
            .args(["--exact", "api::docs::tests::the_committed_document_is_of_these_handlers"])
            .env("HULL_RENEW", "1"),
    )
}

/// Runs the tests of the API against its document, with as many requests as are wanted.
pub fn test(args: &[String]) -> Result<()> {
    let (mut examples, mut seed) = (EXAMPLES, SEED);
    for pair in args.chunks(2) {
        match pair {
            [name, value] if name == "--examples" => examples = value,
            [name, value] if name == "--seed" => seed = value,
            _ => bail!("usage: cargo xtask api-test [--examples N] [--seed N]"),
        }
    }
    check(cargo().args(["build", "--profile", "lab", "--workspace", "--bins", "--examples"]))?;
    programs::build_beside_hull()?;
    fixtures::guest_kernel()?;
    fixtures::python()?;
    check(
        cargo()
            .args(["test", "--profile", "lab", "--workspace", "--test", "api", "--", "--nocapture"])
            .env("HULL_FIXTURES", target().join("fixtures"))
            .env("HULL_API_EXAMPLES", examples)
            .env("HULL_API_SEED", seed),
    )
}
