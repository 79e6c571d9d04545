//! From numbers the user wrote to numbers a machine can have. Pure: nothing is opened or looked up here but the
//! host's size, which the caller passes in.

use hull_protocol::plan::{CPUS_MAX, MEMORY_MIN};
use hull_protocol::units::{Bytes, MIB};

/// A number that no microVM on this host can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    /// Too few or too many processors.
    #[error("{0} CPUs are not possible: a microVM has 1 to {CPUS_MAX}")]
    Cpus(u32),
    /// Too little memory to boot.
    #[error("{0} of memory is not enough to boot Linux: give at least {MEMORY_MIN}, such as --memory 256m")]
    MemoryTooSmall(Bytes),
    /// More memory than the host has.
    #[error("{0} of memory is more than this host has ({1})")]
    MemoryTooLarge(Bytes, Bytes),
}

/// The number of processors, checked.
///
/// # Errors
/// When no microVM can have so many.
pub fn cpus(wanted: u32) -> Result<u8, SizeError> {
    u8::try_from(wanted).ok().filter(|cpus| (1..=CPUS_MAX).contains(cpus)).ok_or(SizeError::Cpus(wanted))
}

/// The guest's memory, rounded up to whole MiB.
///
/// # Errors
/// When it is too little to boot or more than the host has.
pub fn memory(wanted: Bytes, host: Bytes) -> Result<Bytes, SizeError> {
    if wanted < MEMORY_MIN {
        return Err(SizeError::MemoryTooSmall(wanted));
    }
    if wanted > host {
        return Err(SizeError::MemoryTooLarge(wanted, host));
    }
    Ok(Bytes(wanted.get().next_multiple_of(MIB)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_at_their_borders() {
        assert_eq!(cpus(1), Ok(1));
        assert_eq!(cpus(64), Ok(64));
        for wrong in [0, 65, 10_000, u32::MAX] {
            assert_eq!(cpus(wrong), Err(SizeError::Cpus(wrong)));
        }
        let host = Bytes::gib(8);
        assert_eq!(memory(Bytes::mib(32), host), Ok(Bytes::mib(32)));
        assert_eq!(memory(Bytes(MIB * 100 + 1), host), Ok(Bytes::mib(101)));
        assert_eq!(memory(Bytes::mib(1), host), Err(SizeError::MemoryTooSmall(Bytes::mib(1))));
        assert_eq!(memory(Bytes::gib(9), host), Err(SizeError::MemoryTooLarge(Bytes::gib(9), host)));
    }
}
