//! Capability sets, capabilities(7).
//!
//! Invariant: after [`restrict`] and the change of user, no set of the thread holds a capability that was not
//! in the list, and no program it executes can gain one.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Why capabilities could not be set.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// A name nobody knows.
    #[error("unknown capability '{0}': write it as NET_ADMIN")]
    Unknown(String),
    /// The kernel refused.
    #[error("the capabilities could not be set")]
    Kernel(#[from] rustix::io::Errno),
}

/// The set that these names, without `CAP_`, stand for.
///
/// # Errors
/// When a name is unknown.
pub fn parse(names: &[String]) -> Result<CapabilitySet, CapabilityError> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let one = CapabilitySet::from_name(name).ok_or_else(|| CapabilityError::Unknown(name.clone()))?;
        Ok(set | one)
    })
}

/// Takes everything that is not in `kept` out of the bounding set and empties the ambient one. To be called
/// before the change of user, while the right to do so is still there.
///
/// # Errors
/// When the kernel refuses.
pub fn bound(kept: CapabilitySet) -> Result<(), CapabilityError> {
    clear_ambient_capability_set()?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        // The kernel knows fewer than 64: asking for one it does not know is how its last one is found.
        match capability_is_in_bounding_set(one) {
            Ok(true) => remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Makes `kept` the thread's effective and permitted sets; the inheritable one becomes empty. For root, after
/// the change of user; any other user has lost everything by then.
///
/// # Errors
/// When the kernel refuses.
pub fn restrict(kept: CapabilitySet) -> Result<(), CapabilityError> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_or_refused() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let set = parse(&names(&["CHOWN", "NET_BIND_SERVICE"]));
        assert!(set.is_ok_and(|set| set == CapabilitySet::CHOWN | CapabilitySet::NET_BIND_SERVICE));
        assert!(matches!(parse(&names(&["CAP_CHOWN"])), Err(CapabilityError::Unknown(_))));
    }
}
