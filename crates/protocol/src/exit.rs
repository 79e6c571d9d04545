//! Why a microVM ended, as `hull-vmm` states it: one reason, one process exit status.
//!
//! The VMM is the only writer. It sends the reason to whoever holds the control socket and leaves with the
//! matching status, so the reason is known even when nobody was listening.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stated reason for the end of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest powered itself off through ACPI.
    PowerOff,
    /// The guest asked for a reset (ACPI reset register, keyboard controller).
    Reset,
    /// The guest's kernel reported a panic (pvpanic).
    GuestPanic,
    /// The guest's processor could not deliver a fault (triple fault).
    TripleFault,
    /// The daemon, or the user at the terminal, told the VMM to end at once.
    Killed,
    /// KVM could not go on with the guest: an emulation failure or an entry failure.
    Unrecoverable,
    /// The VMM made a system call that its jail forbids, and was killed for it.
    Forbidden,
    /// The host failed the VMM: no memory, no descriptor, an I/O error outside any device request.
    HostError,
    /// The VMM met a bug of its own and ended itself, and its guest with it.
    Bug,
}

impl ExitReason {
    /// Every reason there is.
    pub const ALL: [Self; 9] = [
        Self::PowerOff,
        Self::Reset,
        Self::GuestPanic,
        Self::TripleFault,
        Self::Killed,
        Self::Unrecoverable,
        Self::Forbidden,
        Self::HostError,
        Self::Bug,
    ];

    /// The reason behind the signal that ended `hull-vmm`, if it tells one. By number: this crate knows no system.
    pub fn from_signal(signal: i32) -> Option<Self> {
        const SIGSYS: i32 = 31;
        (signal == SIGSYS).then_some(Self::Forbidden)
    }

    /// The exit status of `hull-vmm` for this reason; for [`Self::Forbidden`], which comes as a signal, that of the
    /// program that started it. Status 1 is left to errors before the first
    /// instruction of the guest, 2 to unusable arguments.
    pub const fn status(self) -> i32 {
        match self {
            Self::PowerOff => 0,
            Self::Reset => 64,
            Self::GuestPanic => 65,
            Self::TripleFault => 66,
            Self::Killed => 67,
            Self::Unrecoverable => 68,
            Self::HostError => 69,
            Self::Forbidden => 70,
            Self::Bug => 101,
        }
    }

    /// The reason behind an exit status of `hull-vmm`, if it is one.
    pub fn from_status(status: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.status() == status)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest asked for a reset",
            Self::GuestPanic => "the guest's kernel panicked",
            Self::TripleFault => "the guest's processor met a triple fault",
            Self::Killed => "killed",
            Self::Unrecoverable => "KVM could not run the guest any further",
            Self::Forbidden => {
                "the VMM made a system call that its jail forbids and was killed: a bug, or a guest that took it over"
            }
            Self::HostError => "the host failed the VMM",
            Self::Bug => "the VMM met a bug of its own and ended: please report what it said",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_status_of_its_own() {
        for reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_status(reason.status()), Some(reason));
        }
        for other in [1, 2, 100, 128] {
            assert_eq!(ExitReason::from_status(other), None);
        }
    }

    #[test]
    fn one_signal_alone_tells_a_reason() {
        let told: Vec<_> = (1..=64).filter(|signal| ExitReason::from_signal(*signal).is_some()).collect();
        assert_eq!(told, [31]);
    }
}
