#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_plain_vm_is_asked_for_as_any_other_verb() {
    BootAlone::command().debug_assert();
    let words: Vec<_> = "hull boot --kernel k --cpus 2".split(' ').map(OsString::from).collect();
    let (alone, among_all) = (Cli::read(&words).unwrap(), Cli::try_parse_from(&words).unwrap());
    assert_eq!(format!("{alone:?}"), format!("{among_all:?}"));
}

#[test]
fn every_verb_says_what_it_is_for() {
    for verb in Cli::command().get_subcommands() {
        assert!(verb.get_about().is_some(), "{}", verb.get_name());
    }
}

#[test]
fn flags_nobody_knows_are_refused() {
    for line in [
        "hull boot --kernel k --bogus",
        "hull boot --kernel k --cpu pentium",
        "hull boot --kernel k --memory lots",
        "hull boot",
        "hull run",
        "hull run --bogus busybox",
        "hull run --cpus many busybox",
        "hull ps busybox",
        "hull kill",
        "hull serve --listen-stdin",
    ] {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        assert!(Cli::read(&words).is_err(), "{line}");
    }
}

#[test]
fn verbs_are_understood() {
    for line in [
        "hull -H unix:///x.sock ps -aq --no-trunc",
        "hull run -it --rm busybox sh",
        "hull run -h name -e A=b -eC -m 1g -l x=y -u 1:2 -w /tmp busybox",
        "hull run --help-me-not busybox",
        "hull logs -f -n 10 web",
        "hull logs --tail all web",
        "hull stop -t 3 a b",
        "hull kill -s HUP a",
        "hull import - rootfs --type rootfs",
        "hull kernel import --deb x.deb --name y --default",
        "hull kernel import",
        "hull kernel ls --format json",
    ] {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert_eq!(parsed.is_ok(), !line.contains("help-me-not"), "{line}");
    }
}
