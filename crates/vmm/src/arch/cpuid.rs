//! What a guest's processors say of themselves (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
//!
//! Host passthrough is what KVM supports on this host, with the leaves corrected that describe where a processor
//! sits. The named baselines ([`baseline`]) then show no feature above their level.

use hull_protocol::plan::CpuModel;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use crate::arch::baseline;

/// Why a processor model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CpuidError {
    /// KVM does not say what it supports.
    #[error("KVM does not say which processor features it supports")]
    Kvm(#[source] kvm_ioctls::Error),
    /// The host lacks a feature of the baseline.
    #[error("this host's processor lacks {feature}, which {model} needs: use a lower model or --cpu host")]
    Lacks {
        /// The feature's name as in /proc/cpuinfo.
        feature: &'static str,
        /// The model's name.
        model: &'static str,
    },
    /// KVM lists more than fits.
    #[error("the list of processor features is too long")]
    TooLong,
}

/// The processor model as all processors of a VM share it.
///
/// # Errors
/// When the host lacks what the model needs.
pub fn model(kvm: &Kvm, model: CpuModel) -> Result<CpuId, CpuidError> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(CpuidError::Kvm)?;
    let cpuid = name(cpuid)?;
    let level = match model {
        CpuModel::Host => return Ok(cpuid),
        CpuModel::V2 => 2,
        CpuModel::V3 => 3,
        CpuModel::V4 => 4,
    };
    let mut table = cpuid.as_slice().to_vec();
    baseline::limit(&mut table, level, model.name())?;
    CpuId::from_entries(&table).map_err(|_| CpuidError::TooLong)
}

/// Adds the host processor's name, which KVM leaves out.
fn name(cpuid: CpuId) -> Result<CpuId, CpuidError> {
    const NAME: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
    let mut entries = cpuid.as_slice().to_vec();
    entries.retain(|entry| !NAME.contains(&entry.function));
    entries.extend(NAME.map(|function| {
        let host = std::arch::x86_64::__cpuid(function);
        kvm_cpuid_entry2 {
            function,
            eax: host.eax,
            ebx: host.ebx,
            ecx: host.ecx,
            edx: host.edx,
            ..Default::default()
        }
    }));
    CpuId::from_entries(&entries).map_err(|_| CpuidError::TooLong)
}

/// The model as processor `index` of `cpus` sees it: one socket, one thread a core.
///
/// # Errors
/// When the list has no room.
pub fn for_vcpu(model: &CpuId, index: u8, cpus: u8) -> Result<CpuId, CpuidError> {
    let mut cpuid = model.clone();
    let (id, count) = (u32::from(index), u32::from(cpus));
    let id_bits = count.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | id << 24 | count << 16;
                entry.ecx |= 1 << 31 | 1 << 24; // a hypervisor is present; the TSC deadline timer
                entry.edx = entry.edx & !(1 << 28) | u32::from(cpus > 1) << 28;
            }
            // Intel: caches below the last level belong to one core, the last level to all.
            4 if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { (1 << id_bits) - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | ((1 << id_bits) - 1) << 26 | sharing << 14;
            }
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | count.saturating_sub(1) | id_bits << 12,
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    topology(cpuid, id, count, id_bits)
}

/// Leaves 0xb and 0x1f: a level for threads, one for cores, an end.
fn topology(cpuid: CpuId, id: u32, count: u32, id_bits: u32) -> Result<CpuId, CpuidError> {
    let mut entries: Vec<kvm_cpuid_entry2> =
        cpuid.as_slice().iter().copied().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).collect();
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for leaf in [0xb, 0x1f].into_iter().filter(|leaf| *leaf <= highest) {
        for (index, shift, threads, kind) in [(0, 0, 1, 1), (1, id_bits, count, 2), (2, 0, 0, 0)] {
            entries.push(kvm_cpuid_entry2 {
                function: leaf,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: threads,
                ecx: index | kind << 8,
                edx: id,
                ..Default::default()
            });
        }
    }
    CpuId::from_entries(&entries).map_err(|_| CpuidError::TooLong)
}
