//! Quotas: the most a tenant may have of each resource. Pure, and tested over every one of them.

use hull_image::ImageRecord;
use hull_protocol::api::{Amounts, Resource, Volume};
use hull_protocol::spec::MicrovmSpec;
use hull_protocol::units::Bytes;

use crate::plan::{self, disk_size};

/// Something is more than a tenant may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this tenant may have {limit} {resource}, and has {used}: {wanted} more are too many; remove or stop something, ask \
     for less, or have the quota raised"
)]
pub struct OverQuota {
    /// Of what.
    pub resource: Resource,
    /// The most it may have.
    pub limit: u64,
    /// What it has.
    pub used: u64,
    /// What it wants besides.
    pub wanted: u64,
}

/// Judges what is wanted besides what is used.
///
/// # Errors
/// The first resource of which that would be too much. What is not wanted is not judged: a quota that was lowered
/// below what is used is in the way of nothing else.
pub fn fits(quotas: &Amounts, used: &Amounts, wanted: &Amounts) -> Result<(), OverQuota> {
    for (resource, wanted) in wanted.iter().filter(|(_, wanted)| **wanted > 0) {
        let used = used.get(resource).copied().unwrap_or(0);
        match quotas.get(resource) {
            Some(limit) if used.saturating_add(*wanted) > *limit => {
                return Err(OverQuota { resource: *resource, limit: *limit, used, wanted: *wanted });
            }
            _ => {}
        }
    }
    Ok(())
}

/// All of it together.
pub fn sum<'a>(all: impl Iterator<Item = &'a Amounts>) -> Amounts {
    let mut sum = Amounts::new();
    for (resource, amount) in all.flatten() {
        let so_far = sum.entry(*resource).or_default();
        *so_far = so_far.saturating_add(*amount);
    }
    sum
}

/// What a microVM counts for as long as it exists.
pub fn of_existing(spec: &MicrovmSpec) -> Amounts {
    let ports = spec.networking.publish.len() as u64;
    let disk = disk_size(&spec.container).get();
    [(Resource::Microvms, 1), (Resource::Disk, disk), (Resource::Ports, ports)].into()
}

/// What images count for as long as they have a name.
pub fn of_images(images: &[ImageRecord]) -> Amounts {
    let size = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size));
    [(Resource::Disk, size)].into()
}

/// What a volume of this size counts for as long as it exists: all that it may grow to by its guest, as a disk does.
pub fn of_volume(size: Bytes) -> Amounts {
    [(Resource::Volumes, 1), (Resource::Disk, size.get())].into()
}

/// What volumes count together.
pub fn of_volumes(volumes: &[Volume]) -> Amounts {
    let size = volumes.iter().fold(0_u64, |sum, volume| sum.saturating_add(volume.size.get()));
    [(Resource::Volumes, volumes.len() as u64), (Resource::Disk, size)].into()
}

/// A disk that becomes so much larger.
pub fn more_disk(size: Bytes) -> Amounts {
    [(Resource::Disk, size.get())].into()
}

/// What a microVM counts besides while it runs.
pub fn of_running(spec: &MicrovmSpec) -> Amounts {
    let (cpus, memory) = plan::size(spec);
    [(Resource::Cpus, cpus.into()), (Resource::Memory, memory.get())].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Resource; 8] = [
        Resource::Microvms,
        Resource::Cpus,
        Resource::Memory,
        Resource::Disk,
        Resource::Networks,
        Resource::Volumes,
        Resource::Ports,
        Resource::Requests,
    ];

    #[test]
    fn every_limit_is_kept_and_none_stands_for_another() {
        for resource in ALL {
            let of = |amount| Amounts::from([(resource, amount)]);
            assert_eq!(fits(&of(3), &of(1), &of(2)), Ok(()), "{resource}");
            let over = OverQuota { resource, limit: 3, used: 2, wanted: 2 };
            assert_eq!(fits(&of(3), &of(2), &of(2)), Err(over), "{resource}");
            assert!(fits(&of(0), &of(0), &of(1)).is_err(), "{resource}");
            assert!(fits(&of(5), &of(u64::MAX), &of(u64::MAX)).is_err(), "{resource}");
            // What was lowered below what is used is in the way of more of it only.
            assert_eq!(fits(&of(1), &of(2), &of(0)), Ok(()), "{resource}");
            for other in ALL.into_iter().filter(|other| *other != resource) {
                assert_eq!(fits(&of(0), &of(9), &Amounts::from([(other, 9)])), Ok(()), "{resource} {other}");
            }
            assert_eq!(fits(&Amounts::new(), &of(u64::MAX), &of(u64::MAX)), Ok(()), "{resource}");
        }
    }

    #[test]
    fn a_microvm_counts_what_it_asks_for() {
        let mut spec = MicrovmSpec { cpus: Some(3), memory: Some(Bytes::mib(96)), ..Default::default() };
        spec.container.disk_size = Some(Bytes::gib(1));
        assert_eq!(
            of_existing(&spec),
            [(Resource::Microvms, 1), (Resource::Disk, 1 << 30), (Resource::Ports, 0)].into()
        );
        let running = of_running(&spec);
        assert_eq!(running, [(Resource::Cpus, 3), (Resource::Memory, 96 << 20)].into());
        assert_eq!(
            sum([&running, &running].into_iter()),
            [(Resource::Cpus, 6), (Resource::Memory, 192 << 20)].into()
        );
    }
}
