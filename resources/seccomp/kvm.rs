//! KVM's requests by number, Documentation/virt/kvm/api.rst. The machine is built before the walls of its threads go
//! up: one request is left.

/// `_IO(KVMIO, 0x80)`.
pub(super) const KVM_RUN: u64 = 0xae80;
