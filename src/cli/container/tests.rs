#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use clap::Parser;
use hull_protocol::units::GIB;

use super::*;

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    container: Container,
}

fn spec(line: &[&str]) -> Result<MicrovmSpec> {
    Line::try_parse_from([&["run"], line].concat())?.container.spec()
}

#[test]
fn everything_after_the_image_belongs_to_the_command() {
    for command in [&["ls", "-l"][..], &["-it", "--rm"], &["--", "x"], &["sh", "-c", "a --name b"], &[]] {
        let spec = spec(&[&["--rm", "busybox"], command].concat()).unwrap();
        assert_eq!(spec.container.image, "busybox");
        assert_eq!(spec.container.command, command);
        assert!(spec.auto_remove && !spec.container.stdin && spec.name.is_none());
    }
    assert!(spec(&["--rm"]).is_err());
}

#[test]
fn flags_make_the_specification() {
    let line = "-it --name n --cpus 3 -m 2g --disk-size 20g --cpu x86-64-v3 --kernel k -u a:b -w /w -h host \
                --read-only -l a=b=c -l d busybox";
    let spec = spec(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
    assert_eq!((spec.name.as_deref(), spec.cpus, spec.kernel.as_deref()), (Some("n"), Some(3), Some("k")));
    assert_eq!((spec.memory, spec.cpu), (Some(Bytes(2 * GIB)), CpuModel::V3));
    assert_eq!(spec.labels, BTreeMap::from([("a".into(), "b=c".into()), ("d".into(), String::new())]));
    let container = spec.container;
    assert_eq!((container.user.as_deref(), container.workdir.as_deref()), (Some("a:b"), Some("/w")));
    assert_eq!((container.hostname.as_deref(), container.disk_size), (Some("host"), Some(Bytes(20 * GIB))));
    assert!(container.stdin && container.terminal.is_some() && container.read_only);
    assert_eq!(container.entrypoint, None);
}

#[test]
fn an_entrypoint_is_replaced_or_cleared() {
    let entrypoint = |value| spec(&["--entrypoint", value, "busybox"]).unwrap().container.entrypoint;
    assert_eq!(entrypoint("/bin/x"), Some(vec!["/bin/x".to_owned()]));
    assert_eq!(entrypoint(""), Some(Vec::new()));
}

#[test]
fn the_environment_is_read_as_docker_reads_it() {
    let lookup = |name: &str| (name == "MINE").then(|| "yes".to_owned());
    let text = "# a comment\n\nA=b c\n  B=#x\nMINE\nNOT\nEMPTY=\n";
    let entries = env_file(text, Path::new("f"), lookup).unwrap();
    assert_eq!(entries, ["A=b c", "B=#x", "MINE=yes", "EMPTY="]);
    assert!(env_file("A B=c", Path::new("f"), lookup).unwrap_err().to_string().contains("f, line 1"));
    assert!(env_entry("=x", lookup).is_err() && env_entry("", lookup).is_err());
}
