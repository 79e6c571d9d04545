//! What is counted and measured, as Prometheus reads it.
//!
//! Shared by all actors and handlers. Invariant: labels are of bounded kinds (routes, not paths), so that no client
//! can make this grow; what belongs to one microVM is measured when it is asked for and not kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hull_protocol::api::{Capacity, ExitStatus, State};
use hull_protocol::life::Stats;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, String)>;
type Seconds = Family<Labels, Histogram, fn() -> Histogram>;

/// The states in the order they are shown.
const STATES: [State; 8] = [
    State::Created,
    State::Starting,
    State::Running,
    State::Paused,
    State::Stopping,
    State::Restarting,
    State::Stopped,
    State::Failed,
];

/// The counters of one daemon. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Labels, Counter>,
    latencies: Seconds,
    boots: Histogram,
    exits: Family<Labels, Counter>,
    restarts: Counter,
}

fn latency() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hull");
        let requests = Family::<Labels, Counter>::default();
        let latencies = Seconds::new_with_constructor(latency as fn() -> Histogram);
        let boots = Histogram::new([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]);
        let exits = Family::<Labels, Counter>::default();
        let restarts = Counter::default();
        registry.register("http_requests", "Requests to the API", requests.clone());
        let help = "Time from a request's head to its answer's";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, latencies.clone());
        let help = "Time from the request to start a microVM to its running process";
        registry.register_with_unit("boot_duration", help, Unit::Seconds, boots.clone());
        registry.register("microvm_exits", "Ends of microVMs, by reason", exits.clone());
        registry.register("microvm_restarts", "Starts of microVMs by their restart policy", restarts.clone());
        Self { registry: Arc::new(registry), requests, latencies, boots, exits, restarts }
    }
}

impl Metrics {
    /// A request has been answered.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels: Labels =
            vec![("method", method.into()), ("route", route.into()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.latencies.get_or_create(&vec![("route", route.into())]).observe(took.as_secs_f64());
    }

    /// A microVM's process runs.
    pub(crate) fn booted(&self, took: Duration) {
        self.boots.observe(took.as_secs_f64());
    }

    /// A microVM has ended.
    pub(crate) fn ended(&self, exit: &ExitStatus) {
        let reason = match exit.reason {
            Some(reason) => format!("{reason:?}").to_lowercase(),
            None => "unknown".into(),
        };
        self.exits.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// A restart policy has started a microVM.
    pub(crate) fn restarted(&self) {
        self.restarts.inc();
    }

    /// Everything as text, OpenMetrics 1.0; what is true only now is passed in.
    ///
    /// # Errors
    /// Never: text can be written.
    pub(crate) fn text(
        &self,
        states: &[State],
        capacity: &Capacity,
        stats: &[Stats],
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &now(states, capacity, stats))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// What is measured when it is asked for.
fn now(states: &[State], capacity: &Capacity, stats: &[Stats]) -> Registry {
    let mut registry = Registry::with_prefix("hull");
    let count = Family::<Labels, Gauge>::default();
    for state in STATES {
        let number = states.iter().filter(|one| **one == state).count();
        let gauge = count.get_or_create_owned(&vec![("state", state.name().to_owned())]);
        gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
    }
    registry.register("microvms", "MicroVMs, by state", count);
    let promised = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    let set = |resource: &str, kind: &str, value: f64| {
        let labels = vec![("resource", resource.to_owned()), ("kind", kind.to_owned())];
        promised.get_or_create_owned(&labels).set(value);
    };
    set("memory_bytes", "promised", capacity.memory.get() as f64);
    set("memory_bytes", "limit", capacity.memory_limit.get() as f64);
    set("cpus", "promised", capacity.cpus as f64);
    set("cpus", "limit", capacity.cpus_limit as f64);
    registry.register("capacity", "What running microVMs were promised, and may be", promised);
    one_by_one(&mut registry, stats);
    registry
}

/// What each microVM that runs uses.
fn one_by_one(registry: &mut Registry, stats: &[Stats]) {
    let cpu = Family::<Labels, Counter<f64, AtomicU64>>::default();
    let throttled = Family::<Labels, Counter<f64, AtomicU64>>::default();
    let memory = Family::<Labels, Gauge>::default();
    let read = Family::<Labels, Counter>::default();
    let written = Family::<Labels, Counter>::default();
    for one in stats {
        let labels = vec![("id", one.id.clone()), ("name", one.name.clone())];
        let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
        cpu.get_or_create_owned(&labels).inc_by(seconds(one.cpu_ns));
        throttled.get_or_create_owned(&labels).inc_by(seconds(one.throttled_ns.unwrap_or(0)));
        memory.get_or_create_owned(&labels).set(i64::try_from(one.memory.get()).unwrap_or(i64::MAX));
        read.get_or_create_owned(&labels).inc_by(one.disk_read.get());
        written.get_or_create_owned(&labels).inc_by(one.disk_written.get());
    }
    registry.register_with_unit("microvm_cpu", "Processor time of a VMM", Unit::Seconds, cpu);
    let help = "Time a VMM was kept from running by its quota";
    registry.register_with_unit("microvm_throttled", help, Unit::Seconds, throttled);
    let help = "Host memory that a VMM holds, its guest's included";
    registry.register_with_unit("microvm_memory", help, Unit::Bytes, memory);
    registry.register_with_unit("microvm_disk_read", "Read from the host's disks", Unit::Bytes, read);
    registry.register_with_unit("microvm_disk_written", "Written to the host's disks", Unit::Bytes, written);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::exit::ExitReason;
    use hull_protocol::units::Bytes;

    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.answered("GET", "/v1/microvms/{id}", 200, Duration::from_millis(3));
        metrics.ended(&ExitStatus {
            status: 0,
            error: None,
            reason: Some(ExitReason::PowerOff),
            oom_killed: false,
        });
        metrics.restarted();
        let one = Stats {
            id: "1".into(),
            name: "a".into(),
            time_unix_ns: 0,
            state: State::Running,
            cpus: 1,
            cpu_ns: 1_500_000_000,
            guest_cpu_ns: 0,
            throttled_ns: None,
            memory: Bytes::mib(1),
            guest_memory: Bytes::mib(1),
            memory_limit: None,
            threads: 1,
            disk_read: Bytes(0),
            disk_written: Bytes(7),
        };
        let text = metrics.text(&[State::Running, State::Failed], &Capacity::default(), &[one]).unwrap();
        for line in [
            r#"hull_http_requests_total{method="GET",route="/v1/microvms/{id}",status="200"} 1"#,
            r#"hull_http_request_duration_seconds_bucket{le="0.005",route="/v1/microvms/{id}"} 1"#,
            r#"hull_microvm_exits_total{reason="poweroff"} 1"#,
            "hull_microvm_restarts_total 1",
            r#"hull_microvms{state="running"} 1"#,
            r#"hull_microvms{state="created"} 0"#,
            r#"hull_microvm_cpu_seconds_total{id="1",name="a"} 1.5"#,
            r#"hull_microvm_memory_bytes{id="1",name="a"} 1048576"#,
            r#"hull_microvm_disk_written_bytes_total{id="1",name="a"} 7"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }
}
