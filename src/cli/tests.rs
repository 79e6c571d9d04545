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
        "hull exec web",
        "hull exec --detach-keys ctrl-1 web sh",
        "hull run --health-interval soon busybox",
        "hull run --restart sometimes busybox",
        "hull events --since 1 --after 2",
        "hull volume create --size lots data",
        "hull volume resize data",
        "hull volume rm",
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
        "hull exec -it -e A=b -u 1:2 -w /tmp --detach-keys ctrl-a,d web sh -c ls",
        "hull exec -d web touch /x",
        "hull run --health-cmd true --health-interval 1m30s --health-retries 2 busybox",
        "hull run --no-healthcheck busybox",
        "hull cp -aL web:/etc/. -",
        "hull top --no-trunc web",
        "hull logs -f -n 10 web",
        "hull logs --tail all web",
        "hull stop -t 3 a b",
        "hull kill -s HUP a",
        "hull import - rootfs --type rootfs",
        "hull kernel import --deb x.deb --name y --default",
        "hull kernel import",
        "hull kernel ls --format json",
        "hull run -d --restart on-failure:3 -c 512 --cpu-quota 50000 busybox",
        "hull pause a b",
        "hull unpause a",
        "hull restart -t 3 a",
        "hull rename a b",
        "hull update --restart always --label-rm x -l y=z a b",
        "hull stats --no-stream --format json a",
        "hull events --since 10m --until now --filter action=die --format json",
        "hull system df --format json",
        "hull system prune -a --volumes",
        "hull run -v data:/d -v /etc/x:/y:ro --mount type=tmpfs,dst=/t --tmpfs /run busybox",
        "hull volume create -s 1g -l a=b data",
        "hull volume create",
        "hull volume ls -q",
        "hull volume inspect a b",
        "hull volume resize data 2g",
        "hull volume rm a b",
        "hull volume prune --format json",
        "hull logs --since 10m --until now -t a",
        "hull serve --listen-stdin",
    ] {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert_eq!(parsed.is_ok(), !line.contains("help-me-not"), "{line}");
    }
}

#[test]
fn every_shell_can_complete_and_every_verb_has_a_page() {
    for shell in ["bash", "zsh", "fish"] {
        let shell = shell.parse::<clap_complete::Shell>().unwrap();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "hull", &mut script);
        assert!(String::from_utf8(script).unwrap().contains("detach-keys"), "{shell}");
    }
    let pages = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), pages.path()).unwrap();
    let text = std::fs::read_to_string(pages.path().join("hull-run.1")).unwrap();
    assert!(text.contains("publish"), "{text}");
}
