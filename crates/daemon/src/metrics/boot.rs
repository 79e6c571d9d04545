//! Where the time of a start goes.
//!
//! Owner: the run of the microVM that is started. Invariant: a phase begins where the one before it ended, so that all of
//! them together are the whole start; one that was not come to the end of is not counted.

use std::time::Instant;

use super::Metrics;

/// The phases of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Others of its tenant boot first.
    Turn,
    /// Taps, addresses, rules and ports of the host.
    Network,
    /// Kernel, image, disks, volumes and control group.
    Prepare,
    /// From the VMM's process to its first answer: it is in its jail, and the machine is built.
    Vmm,
    /// The guest's kernel and its agent.
    Guest,
    /// What the agent sets up: cards, file systems, volumes.
    Setup,
    /// The container's process and its streams.
    Process,
}

impl Phase {
    pub(crate) const ALL: [Self; 7] =
        [Self::Turn, Self::Network, Self::Prepare, Self::Vmm, Self::Guest, Self::Setup, Self::Process];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Network => "network",
            Self::Prepare => "prepare",
            Self::Vmm => "vmm",
            Self::Guest => "guest",
            Self::Setup => "setup",
            Self::Process => "process",
        }
    }
}

/// A start that is under way.
pub(crate) struct Boot {
    metrics: Metrics,
    since: Instant,
}

impl Boot {
    /// One that begins now.
    pub(crate) fn begin(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), since: Instant::now() }
    }

    /// A phase ended then.
    pub(crate) fn done(&mut self, phase: Phase, then: Instant) {
        self.metrics.phase(phase, then.saturating_duration_since(self.since));
        self.since = then.max(self.since);
    }
}
