//! What is counted and measured, as Prometheus reads it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | the phases of a start |
//! | [`present`] | what is true only now: measured when it is asked for, and not kept |
//!
//! Shared by all actors and handlers. Invariant: labels are of bounded kinds (routes, not paths; tenants and microVMs that
//! exist), so that no client can make this grow.

pub(crate) mod boot;
mod present;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use hull_protocol::api::ExitStatus;
use hull_protocol::exit::ExitReason;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::boot::Phase;
pub(crate) use self::present::{Present, TenantNow};

type Labels = Vec<(&'static str, String)>;
type Seconds = Family<Labels, Histogram, fn() -> Histogram>;

/// The counters of one daemon. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Labels, Counter>,
    latencies: Seconds,
    turned_away: Family<Labels, Counter>,
    boots: Histogram,
    phases: Seconds,
    exits: Family<Labels, Counter>,
    restarts: Counter,
}

fn took() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            latencies: Seconds::new_with_constructor(took as fn() -> Histogram),
            turned_away: Family::default(),
            boots: Histogram::new([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]),
            phases: Seconds::new_with_constructor(took as fn() -> Histogram),
            exits: Family::default(),
            restarts: Counter::default(),
        };
        // What did not happen yet has happened no times: an increase is only seen from a number on.
        for one in Phase::ALL {
            drop(metrics.phases.get_or_create(&vec![("phase", one.name().into())]));
        }
        for reason in ExitReason::ALL.into_iter().map(Some).chain([None]) {
            drop(metrics.exits.get_or_create(&vec![("reason", name(reason))]));
        }
        Self { registry: Arc::new(metrics.registered()), ..metrics }
    }
}

/// A reason as the API writes it.
fn name(reason: Option<ExitReason>) -> String {
    let written = serde_json::to_value(reason).ok();
    written.as_ref().and_then(|written| written.as_str()).unwrap_or("unknown").to_owned()
}

/// A method as a label: those of a client's own invention are one kind.
fn known(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => known,
        _ => "other",
    }
}

impl Metrics {
    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("hull");
        registry.register("http_requests", "Requests to the API that were answered", self.requests.clone());
        let help = "Time from a request's head to its answer's";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, self.latencies.clone());
        let help = "Connections given up before a request was read, by the status that says why";
        registry.register("connections_refused", help, self.turned_away.clone());
        let help = "Time from the request to start a microVM to its running process";
        registry.register_with_unit("boot_duration", help, Unit::Seconds, self.boots.clone());
        let help = "Time that each phase of a start took";
        registry.register_with_unit("boot_phase_duration", help, Unit::Seconds, self.phases.clone());
        registry.register("microvm_exits", "Ends of microVMs, by reason", self.exits.clone());
        let help = "Starts of microVMs by their restart policy";
        registry.register("microvm_restarts", help, self.restarts.clone());
        registry
    }

    /// A request has been answered; `route`: one of a known few.
    pub(crate) fn answered(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let (method, route) = (known(method).to_owned(), route.to_owned());
        let labels: Labels =
            vec![("method", method), ("route", route.clone()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.latencies.get_or_create(&vec![("route", route)]).observe(took.as_secs_f64());
    }

    /// A connection has been given up before a request was read.
    pub(crate) fn turned_away(&self, status: u16) {
        self.turned_away.get_or_create(&vec![("status", status.to_string())]).inc();
    }

    /// A microVM's process runs.
    pub(crate) fn booted(&self, took: Duration) {
        self.boots.observe(took.as_secs_f64());
    }

    /// A microVM's start has a phase behind it.
    pub(crate) fn phase(&self, phase: Phase, took: Duration) {
        self.phases.get_or_create(&vec![("phase", phase.name().into())]).observe(took.as_secs_f64());
    }

    /// A microVM has ended.
    pub(crate) fn ended(&self, exit: &ExitStatus) {
        self.exits.get_or_create(&vec![("reason", name(exit.reason))]).inc();
    }

    /// A restart policy has started a microVM.
    pub(crate) fn restarted(&self) {
        self.restarts.inc();
    }

    /// Everything as text, OpenMetrics 1.0.
    ///
    /// # Errors
    /// Never: text can be written.
    pub(crate) fn text(&self, present: &Present<'_>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &present.registry())?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
