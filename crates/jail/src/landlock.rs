//! Landlock, which takes from a process even what its user may do: landlock(7).

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};

/// The newest rights that are known here; of an older kernel's, all it has are taken.
const KNOWN: ABI = ABI::V7;

/// Denies the calling thread, and what it starts, every file it has not open, every TCP port, other processes' abstract
/// sockets and signals to them. False where the kernel has no Landlock.
///
/// # Errors
/// When the kernel has it and refuses.
pub fn deny_all() -> Result<bool, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
