//! The words between Hull's programs and their users: whatever is understood can be said again.

use std::fmt::Debug;

use hull_daemon::network::{egress, wishes};
use hull_daemon::plan;
use hull_image::ImageConfig;
use hull_protocol::units::Bytes;
use hull_protocol::{
    agent, api, control, exec, frame, health, life, mount, network, secret, spec, stream, transfer,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::input::{Input, Script};

/// What these bytes say, if anything; said again it is the same.
fn understood<T: DeserializeOwned + Serialize + Debug + PartialEq>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let again = serde_json::to_vec(&value).expect("what was read can be written");
    let same: T = serde_json::from_slice(&again).expect("what was written can be read");
    assert_eq!(same, value, "it changes on the wire");
    Some(value)
}

/// Both directions between daemon and agent, and the streams beside.
pub(crate) fn agent(data: &[u8]) {
    let mut input = Input(data);
    let prefix = input.u32().to_le_bytes();
    if let Ok(length) = frame::length(prefix) {
        assert_eq!(frame::prefix(length), Ok(prefix));
    }
    let _ = transfer::chunk_length(prefix).map(transfer::chunk_prefix);
    let bytes = input.0;
    understood::<agent::Request>(bytes);
    understood::<agent::Message>(bytes);
    understood::<agent::StreamHello>(bytes);
    understood::<transfer::Query>(bytes);
    understood::<Result<transfer::Answer, agent::AgentError>>(bytes);
}

fn json(prefix: &[u8], value: &impl Serialize) -> Vec<u8> {
    [prefix, &serde_json::to_vec(value).expect("plain data")].concat()
}

/// One of each.
pub(crate) fn agent_seeds() -> Vec<Vec<u8>> {
    use agent::{Command, Event, Message, Request, StreamHello, StreamKind};
    let process = agent::ProcessSpec {
        id: "main".into(),
        args: vec!["sh".into(), "-c".into(), "x".into()],
        env: vec!["A=b".into()],
        workdir: "/".into(),
        user: "0".into(),
        terminal: Some(agent::WindowSize { rows: 24, cols: 80 }),
        stdin: true,
        capabilities: vec!["CHOWN".into()],
        rlimits: vec![agent::Rlimit { name: "nofile".into(), soft: 1, hard: 2 }],
        no_new_privileges: true,
    };
    let setup = agent::Setup {
        time_unix_ns: 1,
        hostname: "a".into(),
        read_only: false,
        data_disk: true,
        hosts: vec![("::1".into(), "a".into())],
        resolv_conf: vec!["nameserver 10.88.0.1".into()],
        interfaces: Vec::new(),
        volumes: vec![agent::VolumeDisk {
            serial: agent::volume_serial(0),
            name: "data".into(),
            read_only: false,
        }],
        mounts: vec![agent::Mount { target: "/data".into(), source: agent::MountSource::Copy(1) }],
        processes_max: Some(100),
    };
    let value = secret::SecretValue::new(b"x".to_vec()).expect("it is short");
    let commands = [
        Command::Setup(Box::new(setup)),
        Command::Grow { serial: agent::volume_serial(0), size: 1 << 30 },
        Command::Secret(Box::new(agent::Secret { number: 0, mode: 0o400, uid: 0, gid: 0, value })),
        Command::Start(Box::new(process)),
        Command::Signal { process: "main".into(), signal: 15, group: true },
        Command::Shutdown { grace_ms: 10 },
    ];
    let prefix = 77_u32.to_le_bytes();
    let mut seeds: Vec<_> =
        (1..).zip(commands).map(|(seq, command)| json(&prefix, &Request { seq, command })).collect();
    let exit = agent::ProcessExit { status: 3, oom_killed: false };
    let state = agent::ProcessState { id: "main".into(), exit: Some(exit), terminal: false };
    let error = agent::AgentError { kind: agent::AgentErrorKind::NotFound, message: "no".into() };
    seeds.extend([
        json(
            &prefix,
            &Message::Ready(agent::Ready { version: 1, kernel: "6.1".into(), processes: vec![state] }),
        ),
        json(&prefix, &Message::Reply { seq: 1, result: Err(error) }),
        json(&prefix, &Message::Event(Event::Exited { process: "main".into(), exit })),
        json(&prefix, &StreamHello { process: "main".into(), stream: StreamKind::Stdout }),
        json(&prefix, &transfer::Query::Stat { path: "/etc".into(), follow: true }),
        json(&prefix, &Ok::<_, agent::AgentError>(transfer::Answer::Ready)),
    ]);
    seeds
}

/// Both directions between daemon and VMM.
pub(crate) fn control(data: &[u8]) {
    understood::<control::Request>(data);
    understood::<control::Message>(data);
}

/// One of each command, and what is said to it.
pub(crate) fn control_seeds() -> Vec<Vec<u8>> {
    use control::{Command, Event, Message, Reply, Request, VmmStatus};
    let commands = [
        Command::Status,
        Command::NetStats { net: 0 },
        Command::Pause,
        Command::PowerButton,
        Command::GrowDisk { disk: 2, size: Bytes::gib(1) },
        Command::VsockAnswer { offer: 9 },
    ];
    let mut seeds: Vec<_> =
        (1..).zip(commands).map(|(seq, command)| json(b"", &Request { seq, command })).collect();
    let status = VmmStatus { paused: false, cpus: 2, memory: Bytes::mib(256) };
    let net = Some(control::NetStats::default());
    seeds.push(json(b"", &Message::Reply(Reply { seq: 1, result: Ok(status), net })));
    seeds.push(json(b"", &Message::Reply(Reply { seq: 1, result: Err("no".into()), net: None })));
    seeds.push(json(b"", &Message::Event(Event::VsockRequest { offer: 1, port: 2 })));
    seeds
}

/// The frames of an attached stream, one after the other.
pub(crate) fn attached(data: &[u8]) {
    let mut input = Input(data);
    while input.more() {
        let mut header = [0; stream::HEADER_LEN];
        header.iter_mut().zip(input.bytes(stream::HEADER_LEN)).for_each(|(to, from)| *to = *from);
        let Ok((kind, length)) = stream::parse(header) else { return };
        assert!(length <= stream::PAYLOAD_MAX);
        assert_eq!(stream::header(kind, length), Ok(header));
        let payload = input.bytes(length);
        if kind == stream::Kind::Exit {
            understood::<api::ExitStatus>(payload);
        }
    }
}

/// Some output, then an end.
pub(crate) fn attached_seeds() -> Vec<Vec<u8>> {
    let part = |kind, payload: &[u8]| {
        [&stream::header(kind, payload.len()).expect("a short frame")[..], payload].concat()
    };
    vec![
        [part(stream::Kind::Stdout, b"hello\n"), part(stream::Kind::Exit, br#"{"status":0}"#)].concat(),
        [part(stream::Kind::Resize, &[0, 24, 0, 80]), part(stream::Kind::Stdin, b"")].concat(),
    ]
}

/// Bodies of requests to the REST API, through what is checked before anything is done.
pub(crate) fn bodies(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.u8() % 12;
    let bytes = input.0;
    let understood = match kind {
        0 => understood::<spec::MicrovmSpec>(bytes).map(|spec| microvm(&spec)),
        1 => understood::<exec::ExecSpec>(bytes).map(|spec| process(&spec)),
        2 => understood::<api::NetworkSpec>(bytes).map(|spec| drop(wishes::network(&spec))),
        3 => understood::<network::EgressPolicy>(bytes).map(|policy| drop(egress::ranges(&policy))),
        4 => understood::<api::PullRequest>(bytes).map(drop),
        5 => understood::<life::MicrovmPatch>(bytes).map(drop),
        6 => understood::<health::HealthSpec>(bytes).map(drop),
        7 => understood::<life::PruneRequest>(bytes).map(drop),
        8 => understood::<api::Microvm>(bytes).map(|record| drop(plan::resolve_without_image(&record))),
        9 => understood::<network::Attachment>(bytes).map(drop),
        10 => understood::<api::VolumeSpec>(bytes).map(drop),
        _ => understood::<api::VolumePatch>(bytes).map(drop),
    };
    std::hint::black_box(understood);
}

/// What becomes of a request for a microVM.
fn microvm(spec: &spec::MicrovmSpec) {
    let image = ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() };
    // Either verdict will do, as long as there is one.
    std::hint::black_box((
        wishes::networking(&spec.networking).is_ok(),
        wishes::attachments(&spec.networking).is_ok(),
    ));
    let Ok(resolved) = plan::resolve("0123456789abcdef", spec, &image, Bytes::gib(64)) else { return };
    assert!(resolved.memory <= Bytes::gib(64) && resolved.cpus >= 1 && !resolved.process.args.is_empty());
}

fn process(spec: &exec::ExecSpec) {
    let minimal = serde_json::json!({"image": "a", "command": ["sh"]});
    let spec_of = spec::MicrovmSpec {
        container: serde_json::from_value(minimal).expect("a container"),
        ..spec::MicrovmSpec::default()
    };
    let image = ImageConfig::default();
    let resolved = plan::resolve("0123456789abcdef", &spec_of, &image, Bytes::gib(64)).expect("a plan");
    if let Ok(process) = plan::exec_process("x".into(), spec, &resolved.process) {
        assert!(!process.args.is_empty(), "a process without a program");
    }
}

/// A body of each kind.
pub(crate) fn bodies_seeds() -> Vec<Vec<u8>> {
    let health =
        health::HealthSpec { test: Some(health::HealthTest::Shell("true".into())), ..Default::default() };
    let rules = vec![
        network::EgressRule { cidr: Some("10.0.0.0/8".into()), port: Some(80), ..Default::default() },
        network::EgressRule { name: Some("*.example.org".into()), ..Default::default() },
    ];
    let egress = network::EgressPolicy { default: network::Verdict::Deny, rules };
    let publish = vec![network::PublishedPort {
        host_ip: None,
        host_port: Some(8080),
        port: 80,
        transport: network::Transport::Tcp,
    }];
    let attachment = network::Attachment {
        network: "default".into(),
        ip: Some([10, 88, 0, 7].into()),
        aliases: vec!["web".into()],
        ..Default::default()
    };
    let container = spec::ContainerSpec {
        image: "busybox".into(),
        command: vec!["sh".into(), "-c".into(), "x".into()],
        env: vec!["A=b".into()],
        workdir: Some("/tmp".into()),
        user: Some("1000:1000".into()),
        disk_size: Some(Bytes::gib(1)),
        health: Some(health.clone()),
        mounts: vec![
            mount::MountSpec::Volume {
                source: "data".into(),
                target: "/data".into(),
                read_only: false,
                size: Some(Bytes::gib(1)),
                no_copy: true,
            },
            mount::MountSpec::Tmpfs { target: "/tmp".into(), size: None, mode: Some(0o700), exec: false },
            mount::MountSpec::Bind { source: "/etc/hosts".into(), target: "/h".into(), read_only: true },
        ],
        secrets: vec![secret::SecretSpec { name: "db".into(), mode: Some(0o400), ..Default::default() }],
        ..Default::default()
    };
    let microvm = spec::MicrovmSpec {
        name: Some("web".into()),
        cpus: Some(2),
        memory: Some(Bytes::mib(256)),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        networking: network::NetworkingSpec {
            networks: Some(vec![attachment.clone()]),
            publish,
            dns: vec![[192, 0, 2, 1].into()],
            egress: Some(egress.clone()),
            ..Default::default()
        },
        container,
        ..Default::default()
    };
    let exec = exec::ExecSpec { command: vec!["sh".into()], env: vec!["A=b".into()], ..Default::default() };
    let made =
        api::NetworkSpec { name: "net1".into(), subnet: Some("10.7.0.0/24".into()), ..Default::default() };
    let pull = api::PullRequest {
        reference: "busybox".into(),
        platform: Some("linux/amd64".into()),
        ..Default::default()
    };
    let patch = life::MicrovmPatch { name: Some("other".into()), ..Default::default() };
    vec![
        json(&[0], &microvm),
        json(&[1], &exec),
        json(&[2], &made),
        json(&[3], &egress),
        json(&[4], &pull),
        json(&[5], &patch),
        json(&[6], &health),
        json(&[7], &life::PruneRequest::default()),
        json(&[9], &attachment),
        json(&[10], &api::VolumeSpec { name: Some("data".into()), ..Default::default() }),
        json(&[11], &api::VolumePatch { size: Bytes::gib(1) }),
    ]
}

/// Packets of the name resolver: a guest's query, and an answer from outside.
pub(crate) fn names(data: &[u8]) {
    let mut input = Input(data);
    let query = input.block();
    if let Some([datagram, whole]) = hull_daemon::resolver::fuzz::conversation(query, input.0) {
        assert!(datagram.len() <= 1232.max(whole.len()) && whole.len() <= 65_535);
        assert_eq!(datagram.get(..2), query.get(..2), "an answer to another's question");
    }
    hull_daemon::resolver::fuzz::servers(&String::from_utf8_lossy(input.0));
}

/// Queries with and without EDNS, and answers with aliases.
pub(crate) fn names_seeds() -> Vec<Vec<u8>> {
    let name = b"\x03web\x07example\x00";
    let head = |flags: u16, counts: [u16; 4]| {
        let words = [[0x1234, flags].as_slice(), &counts].concat();
        words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>()
    };
    let question = [&name[..], &[0, 1, 0, 1]].concat();
    let edns = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    let alias = [&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4][..], b"\x01b\xc0\x10"].concat();
    let address = [&[0xc0, 42, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &[192, 0, 2, 1]].concat();
    let query = [head(0x0100, [1, 0, 0, 0]), question.clone()].concat();
    let extended = [&head(0x0100, [1, 0, 0, 1])[..], &question, &edns].concat();
    let answer = [&head(0x8180, [1, 2, 0, 0])[..], &question, &alias, &address].concat();
    let refusal = head(0x8181, [0; 4]);
    let one = |query: &[u8], answer: &[u8]| Script::default().block(query).bytes(answer).0;
    vec![
        one(&query, &answer),
        one(&extended, &answer),
        one(&extended, &refusal),
        one(&query, b"nameserver 192.0.2.1\nnameserver fe80::1%eth0\n"),
    ]
}
