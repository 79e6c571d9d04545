#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use hull_protocol::spec::ContainerSpec;

use super::*;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: words(&["/entry"]),
        cmd: words(&["default"]),
        env: words(&["PATH=/bin", "A=1"]),
        user: "web".into(),
        ..Default::default()
    }
}

fn resolved(container: ContainerSpec) -> Result<Resolved, PlanError> {
    let spec = MicrovmSpec { container, ..Default::default() };
    resolve("0123456789abcdef", &spec, &image(), Bytes::gib(8))
}

#[test]
fn sizes_are_checked_at_their_borders() {
    assert_eq!(cpus(1), Ok(1));
    assert_eq!(cpus(64), Ok(64));
    for wrong in [0, 65, 10_000, u32::MAX] {
        assert_eq!(cpus(wrong), Err(PlanError::Cpus(wrong)));
    }
    let host = Bytes::gib(8);
    assert_eq!(memory(Bytes::mib(32), host), Ok(Bytes::mib(32)));
    assert_eq!(memory(Bytes(MIB * 100 + 1), host), Ok(Bytes::mib(101)));
    assert_eq!(memory(Bytes::mib(1), host), Err(PlanError::MemoryTooSmall(Bytes::mib(1), MEMORY_MIN)));
    assert_eq!(memory(Bytes::gib(9), host), Err(PlanError::MemoryTooLarge(Bytes::gib(9), host)));
}

#[test]
fn command_and_entrypoint_combine_as_in_docker() {
    let args = |container| resolved(container).unwrap().process.args;
    assert_eq!(args(ContainerSpec::default()), ["/entry", "default"]);
    assert_eq!(args(ContainerSpec { command: words(&["x"]), ..Default::default() }), ["/entry", "x"]);
    let own = ContainerSpec { entrypoint: Some(words(&["/own"])), ..Default::default() };
    assert_eq!(args(own), ["/own"]);
    let cleared = ContainerSpec { entrypoint: Some(vec![]), ..Default::default() };
    assert_eq!(resolved(cleared), Err(PlanError::NoCommand));
}

#[test]
fn the_users_words_go_over_the_images() {
    let container =
        ContainerSpec { env: words(&["A=2", "B=3=4"]), user: Some("0:0".into()), ..Default::default() };
    let resolved = resolved(container).unwrap();
    assert_eq!(resolved.process.env, ["PATH=/bin", "A=2", "B=3=4"]);
    assert_eq!(resolved.process.user, "0:0");
    assert_eq!((resolved.hostname.as_str(), resolved.stop_signal), ("0123456789ab", 15));
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    for container in [
        ContainerSpec { env: words(&["novalue"]), ..Default::default() },
        ContainerSpec { workdir: Some("relative".into()), ..Default::default() },
        ContainerSpec { hostname: Some("a b".into()), ..Default::default() },
        ContainerSpec { command: words(&["nul\0byte"]), ..Default::default() },
        ContainerSpec { disk_size: Some(Bytes(1)), ..Default::default() },
        ContainerSpec { command: vec!["x".repeat(WORDS_MAX)], ..Default::default() },
    ] {
        assert!(resolved(container.clone()).is_err(), "{container:?}");
    }
}

#[test]
fn signals_are_known_by_name_and_number() {
    for (name, number) in [("", 15), ("SIGQUIT", 3), ("9", 9), ("rtmin+3", 37), ("Int", 2)] {
        assert_eq!(stop_signal(name), Ok(number));
    }
    for wrong in ["SIGNAL", "0", "65", "RTMIN+99"] {
        assert!(stop_signal(wrong).is_err());
    }
}
