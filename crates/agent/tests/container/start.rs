//! What starts, what does not, and how it ends.

use std::fs;

use hull_protocol::agent::AgentErrorKind;

use crate::host::{Agent, process, shell};
use crate::image::write_program;

fn refused(name: &str, args: &[&str]) -> (AgentErrorKind, String) {
    let agent = Agent::with_image(name, |root| {
        fs::write(root.join("bin/secret"), "#!/bin/sh\n").unwrap();
        write_program(&root.join("bin/lost"), "#!/bin/nowhere\n");
        write_program(&root.join("bin/noise"), "\u{7f}ELF and nothing else\n");
    });
    let error = agent.refusal(process(args));
    (error.kind, error.message)
}

#[test]
fn a_missing_command_is_not_found() {
    assert_eq!(
        refused("missing", &["foo"]),
        (AgentErrorKind::NotFound, "exec: \"foo\": executable file not found in $PATH".into())
    );
    assert_eq!(
        refused("missing-path", &["/bin/foo"]),
        (AgentErrorKind::NotFound, "exec: \"/bin/foo\": no such file or directory".into())
    );
    assert_eq!(refused("missing-shebang", &["/bin/lost"]).0, AgentErrorKind::NotFound);
    assert_eq!(refused("missing-name", &[""]).0, AgentErrorKind::NotFound);
}

#[test]
fn what_cannot_be_executed_is_so_called() {
    assert_eq!(
        refused("mode", &["/bin/secret"]),
        (AgentErrorKind::NotExecutable, "exec: \"/bin/secret\": permission denied".into())
    );
    assert_eq!(
        refused("directory", &["/etc"]),
        (AgentErrorKind::NotExecutable, "exec: \"/etc\": is a directory".into())
    );
    assert_eq!(
        refused("noise", &["/bin/noise"]),
        (AgentErrorKind::NotExecutable, "exec: \"/bin/noise\": exec format error".into())
    );
}

#[test]
fn no_command_is_invalid() {
    assert_eq!(refused("nothing", &[]).0, AgentErrorKind::Invalid);
}

#[test]
fn a_failed_start_may_be_tried_again() {
    let agent = Agent::new("again");
    let mut control = agent.ready();
    for _ in 0..3 {
        let error = agent.start(&mut control, process(&["foo"])).err().unwrap();
        assert_eq!(error.kind, AgentErrorKind::NotFound);
    }
    let outcome = agent.start(&mut control, process(&["echo", "ran"])).unwrap().finish(&mut control);
    assert_eq!(outcome.stdout, "ran\n");
}

#[test]
fn the_working_directory_is_made_or_refused() {
    let mut spec = shell("pwd");
    spec.workdir = "/srv/new/place".into();
    assert_eq!(Agent::new("workdir").run(spec.clone()).stdout, "/srv/new/place\n");
    for (name, bad) in [("workdir-file", "/etc/passwd"), ("workdir-relative", "srv")] {
        spec.workdir = bad.into();
        let error = Agent::new(name).refusal(spec.clone());
        assert_eq!(error.kind, AgentErrorKind::Invalid);
        assert!(error.message.contains(bad), "{error}");
    }
}

#[test]
fn a_bad_user_capability_or_limit_is_refused() {
    let mut spec = shell("true");
    spec.user = "nobody".into();
    let error = Agent::new("nobody").refusal(spec);
    assert_eq!(error.kind, AgentErrorKind::Invalid);
    assert!(error.message.contains("nobody"), "{error}");
    let mut spec = shell("true");
    spec.capabilities.push("EVERYTHING".into());
    assert_eq!(Agent::new("everything").refusal(spec).kind, AgentErrorKind::Invalid);
    let mut spec = shell("true");
    spec.rlimits.push(hull_protocol::agent::Rlimit { name: "files".into(), soft: 1, hard: 1 });
    assert_eq!(Agent::new("limit-name").refusal(spec).kind, AgentErrorKind::Invalid);
}

#[test]
fn the_environment_is_what_was_given_and_what_is_usual() {
    let mut spec = process(&["env"]);
    spec.env = vec!["A=b=c".into(), "HOME=/elsewhere".into(), "A=d".into()];
    let outcome = Agent::new("environment").run(spec);
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=d", "HOME=/elsewhere", "HOSTNAME=environment", path]);
}

#[test]
fn the_program_is_looked_up_in_the_given_path() {
    let mut spec = process(&["tool", "argument"]);
    spec.env = vec!["PATH=/nowhere:/opt".into()];
    let agent = Agent::with_image("path", |root| {
        fs::create_dir(root.join("opt")).unwrap();
        write_program(&root.join("opt/tool"), "#!/bin/sh\necho $0 $1\n");
    });
    assert_eq!(agent.run(spec).stdout, "/opt/tool argument\n");
}

#[test]
fn nothing_of_the_agents_reaches_the_process() {
    // Descriptor 3 is the directory that ls reads.
    assert_eq!(Agent::new("stray").run(process(&["ls", "/proc/self/fd"])).stdout, "0\n1\n2\n3\n");
    let outcome =
        Agent::new("signals").run(process(&["grep", "-E", "Sig(Blk|Ign)|Umask", "/proc/self/status"]));
    let lines: Vec<_> = outcome.stdout.split_whitespace().collect();
    let zero = "0000000000000000";
    assert_eq!(lines, ["Umask:", "0022", "SigBlk:", zero, "SigIgn:", zero]);
}
