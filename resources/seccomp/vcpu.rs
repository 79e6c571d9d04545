//! A thread that runs a vCPU: everything the guest's instructions reach first.

use super::Arg::Is;
use super::{Rule, kvm, rule};

pub(super) const RULES: &[Rule] = &[rule(
    libc::SYS_ioctl,
    &[Is(1, kvm::KVM_RUN)],
    "enters the guest; no other request of KVM or any driver",
)];
