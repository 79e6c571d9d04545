//! What is true only now, as metrics.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hull_protocol::api::{Amounts, Capacity, Microvm, Resource, State};
use hull_protocol::life::Stats;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::Labels;

type Sizes = Family<Labels, Gauge<u64, AtomicU64>>;
type Counts = Family<Labels, Counter>;
type Times = Family<Labels, Counter<f64, AtomicU64>>;

/// A tenant that exists.
pub(crate) struct TenantNow {
    pub(crate) name: String,
    /// What its running microVMs have.
    pub(crate) running: Amounts,
    /// The most it may have.
    pub(crate) quotas: Amounts,
}

/// Everything there is.
pub(crate) struct Present<'a> {
    pub(crate) microvms: &'a [Microvm],
    pub(crate) tenants: &'a [TenantNow],
    pub(crate) capacity: &'a Capacity,
    /// Of those that run.
    pub(crate) stats: &'a [Stats],
}

impl Present<'_> {
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("hull");
        self.count(&mut registry);
        self.promised(&mut registry);
        self.promised_to_tenants(&mut registry);
        self.used(&mut registry);
        self.carried(&mut registry);
        registry
    }

    /// How many there are of each kind.
    fn count(&self, registry: &mut Registry) {
        let count = Sizes::default();
        let of = |state: State, tenant: &str| {
            count.get_or_create_owned(&vec![("state", state.name().into()), ("tenant", tenant.into())])
        };
        for tenant in self.tenants {
            State::ALL.into_iter().for_each(|state| drop(of(state, &tenant.name)));
        }
        for microvm in self.microvms {
            of(microvm.state, &microvm.tenant).inc();
        }
        registry.register("microvms", "MicroVMs, by state and tenant", count);
    }

    /// What the host has promised.
    fn promised(&self, registry: &mut Registry) {
        let gauge = |value: u64| {
            let gauge = Gauge::<u64, AtomicU64>::default();
            gauge.set(value);
            gauge
        };
        let Capacity { memory, memory_limit, cpus, cpus_limit } = *self.capacity;
        let help = "Memory promised to running microVMs and their VMMs";
        bytes(registry, "host_memory_promised", help, gauge(memory.get()));
        let help = "Memory that may be promised";
        bytes(registry, "host_memory_limit", help, gauge(memory_limit.get()));
        registry.register("host_cpus_promised", "Virtual CPUs promised to running microVMs", gauge(cpus));
        registry.register("host_cpus_limit", "Virtual CPUs that may be promised", gauge(cpus_limit));
    }

    /// What each tenant's running microVMs have, and may have where it has a quota.
    fn promised_to_tenants(&self, registry: &mut Registry) {
        let of = |amount: fn(&TenantNow, Resource) -> Option<u64>, resource: Resource| {
            let family = Sizes::default();
            for tenant in self.tenants {
                if let Some(amount) = amount(tenant, resource) {
                    family.get_or_create_owned(&vec![("tenant", tenant.name.clone())]).set(amount);
                }
            }
            family
        };
        let running = |one: &TenantNow, of| Some(one.running.get(&of).copied().unwrap_or(0));
        let quota = |one: &TenantNow, of| one.quotas.get(&of).copied();
        let help = "Memory of a tenant's running microVMs";
        bytes(registry, "tenant_memory_promised", help, of(running, Resource::Memory));
        let help = "Memory that a tenant's running microVMs may have";
        bytes(registry, "tenant_memory_limit", help, of(quota, Resource::Memory));
        let help = "Virtual CPUs of a tenant's running microVMs";
        registry.register("tenant_cpus_promised", help, of(running, Resource::Cpus));
        let help = "Virtual CPUs that a tenant's running microVMs may have";
        registry.register("tenant_cpus_limit", help, of(quota, Resource::Cpus));
    }

    /// Each one that runs, with its labels.
    fn each(&self) -> impl Iterator<Item = (&Stats, Labels)> {
        let tenants: HashMap<&str, &str> =
            self.microvms.iter().map(|one| (one.id.as_str(), one.tenant.as_str())).collect();
        self.stats.iter().map(move |one| {
            let tenant = tenants.get(one.id.as_str()).copied().unwrap_or_default();
            (one, vec![("id", one.id.clone()), ("name", one.name.clone()), ("tenant", tenant.to_owned())])
        })
    }

    /// What each one that runs uses of its host.
    fn used(&self, registry: &mut Registry) {
        let (cpu, throttled) = (Times::default(), Times::default());
        let (memory, read, written) = (Sizes::default(), Counts::default(), Counts::default());
        for (one, labels) in self.each() {
            let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
            cpu.get_or_create_owned(&labels).inc_by(seconds(one.cpu_ns));
            if let Some(time) = one.throttled_ns {
                throttled.get_or_create_owned(&labels).inc_by(seconds(time));
            }
            memory.get_or_create_owned(&labels).set(one.memory.get());
            read.get_or_create_owned(&labels).inc_by(one.disk_read.get());
            written.get_or_create_owned(&labels).inc_by(one.disk_written.get());
        }
        registry.register_with_unit("microvm_cpu", "Processor time of a VMM", Unit::Seconds, cpu);
        let help = "Time a VMM was kept from running by its quota";
        registry.register_with_unit("microvm_throttled", help, Unit::Seconds, throttled);
        bytes(registry, "microvm_memory", "Host memory that a VMM holds, its guest's included", memory);
        bytes(registry, "microvm_disk_read", "Read from the host's disks", read);
        bytes(registry, "microvm_disk_written", "Written to the host's disks", written);
    }

    /// What each one that runs and has a card has received and sent.
    fn carried(&self, registry: &mut Registry) {
        let [received, received_packets, sent, sent_packets] = [(); 4].map(|()| Counts::default());
        for (one, labels) in self.each() {
            let Some(net) = one.net else { continue };
            received.get_or_create_owned(&labels).inc_by(net.received.get());
            received_packets.get_or_create_owned(&labels).inc_by(net.received_packets);
            sent.get_or_create_owned(&labels).inc_by(net.sent.get());
            sent_packets.get_or_create_owned(&labels).inc_by(net.sent_packets);
        }
        let packets = || Unit::Other("packets".into());
        bytes(registry, "microvm_network_receive", "Received by a guest", received);
        let help = "Frames received by a guest";
        registry.register_with_unit("microvm_network_receive", help, packets(), received_packets);
        bytes(registry, "microvm_network_transmit", "Sent by a guest", sent);
        let help = "Frames sent by a guest";
        registry.register_with_unit("microvm_network_transmit", help, packets(), sent_packets);
    }
}

fn bytes(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register_with_unit(name, help, Unit::Bytes, metric);
}
