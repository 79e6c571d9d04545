#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeSet;

use hull_protocol::api::{Amounts, Capacity, Microvm, Resource, State};
use hull_protocol::life::{NetUse, Stats};
use hull_protocol::units::Bytes;

use super::boot::Boot;
use super::*;
use crate::state::tests::microvm;

const GIB: u64 = 1 << 30;

fn stats(id: &str, net: Option<NetUse>) -> Stats {
    Stats {
        id: id.into(),
        name: "a".into(),
        time_unix_ns: 0,
        state: State::Running,
        cpus: 1,
        cpu_ns: 1_500_000_000,
        guest_cpu_ns: 0,
        throttled_ns: net.map(|_| 250_000_000),
        memory: Bytes::mib(1),
        guest_memory: Bytes::mib(1),
        memory_limit: None,
        threads: 1,
        disk_read: Bytes(0),
        disk_written: Bytes(7),
        net,
    }
}

/// What a daemon gives that has done a bit of everything.
fn sample() -> String {
    let metrics = Metrics::default();
    let took = Duration::from_millis(3);
    metrics.answered(&Method::GET, "/v1/microvms/{id}", 200, took);
    metrics.answered(&Method::from_bytes(b"BREW").unwrap(), "refused", 401, took);
    metrics.answered(&Method::OPTIONS, "refused", 401, took);
    metrics.turned_away(431);
    metrics.booted(took);
    let mut boot = Boot::begin(&metrics);
    let then = std::time::Instant::now();
    boot.done(Phase::Network, then);
    boot.done(Phase::Prepare, then + Duration::from_millis(40));
    // A clock that went back is no time.
    boot.done(Phase::Vmm, then);
    let exit = ExitStatus { status: 0, error: None, reason: Some(ExitReason::PowerOff), oom_killed: false };
    metrics.ended(&exit);
    metrics.ended(&ExitStatus { reason: None, ..exit });
    metrics.restarted();
    let of = |id: &str, tenant: &str, state| Microvm { state, tenant: tenant.into(), ..microvm(id, "a") };
    let microvms =
        [of("1", "default", State::Running), of("2", "acme", State::Running), of("3", "acme", State::Failed)];
    let tenant = |name: &str, running, quotas| TenantNow { name: name.into(), running, quotas };
    let running = Amounts::from([(Resource::Memory, GIB), (Resource::Cpus, 2)]);
    let quotas = Amounts::from([(Resource::Memory, 4 * GIB), (Resource::Cpus, 8), (Resource::Disk, 1)]);
    let tenants = [tenant("default", Amounts::new(), Amounts::new()), tenant("acme", running, quotas)];
    let net = NetUse { received: Bytes(1000), received_packets: 10, sent: Bytes(200), sent_packets: 2 };
    let capacity = Capacity { memory: Bytes(GIB), memory_limit: Bytes(9 * GIB), cpus: 2, cpus_limit: 64 };
    let stats = [stats("1", None), stats("2", Some(net))];
    let present = Present { microvms: &microvms, tenants: &tenants, capacity: &capacity, stats: &stats };
    metrics.text(&present).unwrap()
}

/// The names of all samples.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

/// Every name of a metric that a text has.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("hull_")).collect()
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let text = sample();
    for line in [
        r#"hull_http_requests_total{method="GET",route="/v1/microvms/{id}",status="200"} 1"#,
        r#"hull_http_requests_total{method="other",route="refused",status="401"} 2"#,
        r#"hull_http_request_duration_seconds_bucket{le="0.005",route="/v1/microvms/{id}"} 1"#,
        r#"hull_connections_refused_total{status="431"} 1"#,
        r#"hull_boot_phase_duration_seconds_count{phase="network"} 1"#,
        r#"hull_boot_phase_duration_seconds_bucket{le="0.025",phase="prepare"} 0"#,
        r#"hull_boot_phase_duration_seconds_bucket{le="0.05",phase="prepare"} 1"#,
        r#"hull_boot_phase_duration_seconds_sum{phase="vmm"} 0.0"#,
        r#"hull_boot_phase_duration_seconds_count{phase="guest"} 0"#,
        r#"hull_microvm_exits_total{reason="power-off"} 1"#,
        r#"hull_microvm_exits_total{reason="unknown"} 1"#,
        r#"hull_microvm_exits_total{reason="forbidden"} 0"#,
        "hull_microvm_restarts_total 1",
        r#"hull_microvms{state="running",tenant="acme"} 1"#,
        r#"hull_microvms{state="failed",tenant="acme"} 1"#,
        r#"hull_microvms{state="running",tenant="default"} 1"#,
        r#"hull_microvms{state="created",tenant="default"} 0"#,
        "hull_host_memory_promised_bytes 1073741824",
        "hull_host_cpus_limit 64",
        r#"hull_tenant_memory_promised_bytes{tenant="acme"} 1073741824"#,
        r#"hull_tenant_cpus_promised{tenant="default"} 0"#,
        r#"hull_tenant_cpus_limit{tenant="acme"} 8"#,
        r#"hull_microvm_cpu_seconds_total{id="1",name="a",tenant="default"} 1.5"#,
        r#"hull_microvm_throttled_seconds_total{id="2",name="a",tenant="acme"} 0.25"#,
        r#"hull_microvm_memory_bytes{id="1",name="a",tenant="default"} 1048576"#,
        r#"hull_microvm_disk_written_bytes_total{id="1",name="a",tenant="default"} 7"#,
        r#"hull_microvm_network_receive_bytes_total{id="2",name="a",tenant="acme"} 1000"#,
        r#"hull_microvm_network_receive_packets_total{id="2",name="a",tenant="acme"} 10"#,
        r#"hull_microvm_network_transmit_bytes_total{id="2",name="a",tenant="acme"} 200"#,
        r#"hull_microvm_network_transmit_packets_total{id="2",name="a",tenant="acme"} 2"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for missing in [
        r#"hull_microvm_network_receive_bytes_total{id="1""#,
        r#"hull_microvm_throttled_seconds_total{id="1""#,
        r#"hull_tenant_cpus_limit{tenant="default""#,
    ] {
        assert!(!text.contains(missing), "{missing} is in\n{text}");
    }
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let text = sample();
    let dashboard = include_str!("../../../../resources/grafana/hull.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 10));
    let known = names(&text);
    let unknown: Vec<&str> = named(dashboard).into_iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn the_documentation_lists_what_there_is() {
    let text = sample();
    // A histogram is listed by the name of all its samples.
    let families: BTreeSet<&str> = (names(&text).into_iter())
        .map(|name| {
            ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
        })
        .collect();
    assert_eq!(named(include_str!("../../../../docs/metrics.md")), families);
}
