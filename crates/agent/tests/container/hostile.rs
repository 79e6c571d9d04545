//! Images made to lead the agent astray.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use hull_protocol::agent::AgentErrorKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::host::{Agent, process, shell};

fn fifo(path: &Path) {
    let _was_none = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
}

#[test]
fn a_user_file_that_is_a_fifo_is_no_file() {
    let agent = Agent::with_image("fifo", |root| {
        fifo(&root.join("etc/passwd"));
        fifo(&root.join("etc/group"));
    });
    // A program that looks itself up would wait for ever.
    assert_eq!(agent.run(shell("echo $HOME")).stdout, "/\n");
    let agent = Agent::with_image("fifo-name", |root| fifo(&root.join("etc/passwd")));
    let mut spec = shell("true");
    spec.user = "web".into();
    assert_eq!(agent.refusal(spec).kind, AgentErrorKind::Invalid);
}

#[test]
fn a_huge_user_file_is_read_in_part() {
    let agent = Agent::with_image("huge", |root| {
        for name in ["passwd", "group"] {
            let file = fs::OpenOptions::new().write(true).open(root.join("etc").join(name)).unwrap();
            file.set_len(1 << 30).unwrap();
        }
    });
    let mut spec = shell("grep Uid /proc/self/status");
    spec.user = "web".into();
    assert_eq!(agent.run(spec).stdout, "Uid:\t33\t33\t33\t33\n");
}

#[test]
fn user_files_full_of_separators_are_only_files() {
    let agent = Agent::with_image("separators", |root| {
        fs::write(root.join("etc/passwd"), ":".repeat(5 << 20)).unwrap();
        fs::write(root.join("etc/group"), ",".repeat(5 << 20)).unwrap();
    });
    assert_eq!(agent.run(shell("echo $HOME")).stdout, "/\n");
}

#[test]
fn user_files_that_are_links_stay_inside() {
    let agent = Agent::with_image("passwd-link", |root| {
        fs::remove_file(root.join("etc/passwd")).unwrap();
        symlink("/../../../../etc/shadow", root.join("etc/passwd")).unwrap();
    });
    assert_eq!(agent.run(shell("id -u; echo $HOME")).stdout, "0\n/\n");
}

#[test]
fn links_for_the_mount_points_are_refused() {
    for (name, link, target) in
        [("dev-link", "dev", "/tmp"), ("proc-link", "proc", "/etc"), ("sys-link", "sys", "../../..")]
    {
        let agent = Agent::with_image(name, |root| symlink(target, root.join(link)).unwrap());
        let devices = || ["null", "zero", "ptmx"].map(|device| Path::new("/tmp").join(device).exists());
        let before = devices();
        let error = agent.refusal(shell("true"));
        assert_eq!(error.kind, AgentErrorKind::Failed);
        assert!(error.message.contains(&format!("/{link}")), "{error}");
        // Nothing was made where the link leads outside.
        assert_eq!(devices(), before);
    }
}

#[test]
fn a_file_for_a_mount_point_is_refused() {
    let agent = Agent::with_image("dev-file", |root| fs::write(root.join("dev"), "x").unwrap());
    assert_eq!(agent.refusal(shell("true")).kind, AgentErrorKind::Failed);
}

#[test]
fn an_image_of_one_program_is_enough() {
    let agent = Agent::with_image("scratch", |root| {
        for directory in ["etc", "tmp", "root", "home", "var", "usr", "sbin"] {
            fs::remove_dir_all(root.join(directory)).unwrap();
        }
    });
    let mut spec = process(&["/bin/busybox", "id", "-u"]);
    spec.user = "65534".into();
    spec.workdir = "/app".into();
    assert_eq!(agent.run(spec).stdout, "65534\n");
}

#[test]
fn working_directories_lead_nowhere_else() {
    let agent = Agent::with_image("workdir-link", |root| symlink("../../../..", root.join("out")).unwrap());
    let mut spec = shell("pwd -P; ls -d bin");
    spec.workdir = "/out".into();
    assert_eq!(agent.run(spec).stdout, "/\nbin\n");
    let mut spec = shell("pwd -P");
    spec.workdir = "/proc/self/fd/3".into();
    assert_eq!(Agent::new("workdir-descriptor").refusal(spec).kind, AgentErrorKind::Invalid);
}
