//! `cargo xtask soak`: tests of every run, at lengths that not every run can wait for.

use anyhow::{Result, bail};

use super::{Level, Program, build, install, set_up, where_linux_boots};
use crate::programs;
use crate::test::tally::{Tally, run_counted};

/// A test at its full length.
struct Proof {
    name: &'static str,
    program: &'static str,
    /// One test of the program; all of them where there is none.
    test: Option<&'static str>,
    level: Level,
    /// What tells it how long it is to be, or that its microVMs are to be real ones.
    told: &'static [(&'static str, &'static str)],
}

const PROOFS: [Proof; 5] = [
    Proof {
        name: "kill",
        program: "kill",
        test: None,
        level: Level::Bare,
        told: &[("HULL_KILL_ROUNDS", "2000")],
    },
    Proof {
        name: "flood",
        program: "life",
        test: Some("ends::a_flooded_log_is_bounded_and_others_do_not_feel_it"),
        level: Level::Bare,
        told: &[("HULL_FLOOD", "120")],
    },
    Proof {
        name: "real-kill",
        program: "kill",
        test: None,
        level: Level::Linux,
        told: &[("HULL_REAL", "1"), ("HULL_KILL_ROUNDS", "20")],
    },
    Proof {
        name: "real-many",
        program: "many",
        test: None,
        level: Level::Linux,
        told: &[("HULL_REAL", "1"), ("HULL_MANY", "24")],
    },
    Proof {
        name: "network",
        program: "network_guests",
        test: Some("guests_reach_the_outside_under_the_hosts_address"),
        level: Level::Linux,
        told: &[("HULL_ALL_MIB", "1")],
    },
];

/// Runs those that are named, or all.
pub fn run(names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !PROOFS.iter().any(|proof| proof.name == **name)) {
        let known = PROOFS.map(|proof| proof.name).join(", ");
        bail!("there is no proof '{unknown}'; there are {known}");
    }
    install()?;
    let programs = build()?;
    programs::build_beside_hull()?;
    set_up()?;
    let mut tally = Tally::default();
    let mut passed = true;
    for proof in PROOFS.iter().filter(|proof| names.is_empty() || names.iter().any(|name| name == proof.name))
    {
        println!("== {}", proof.name);
        passed &= proof.passes(&programs, &mut tally)?;
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if !passed || tally.failed > 0 || tally.skipped > 0 {
        bail!("not every proof holds");
    }
    Ok(())
}

impl Proof {
    fn passes(&self, programs: &[Program], tally: &mut Tally) -> Result<bool> {
        let Some(program) = programs.iter().find(|program| program.name == self.program) else {
            bail!("there is no test program '{}'", self.program);
        };
        let tests: Vec<String> = self.test.iter().map(|&test| test.to_owned()).collect();
        let ran = if self.level == Level::Linux {
            let told: Vec<String> = self.told.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let line = format!("env {} {}", told.join(" "), program.line(&tests));
            where_linux_boots(&line, self.name, tally)?
        } else {
            let mut command = program.command(&tests);
            run_counted(command.arg("--nocapture").envs(self.told.iter().copied()), None, tally)?
        };
        Ok(ran.status == Some(0))
    }
}
