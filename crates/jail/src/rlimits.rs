//! Resource limits by name, getrlimit(2).

use rustix::process::{Resource, Rlimit, setrlimit};

/// Why a limit could not be set.
#[derive(Debug, thiserror::Error)]
pub enum RlimitError {
    /// A name nobody knows.
    #[error("unknown resource limit '{0}': write it as nofile")]
    Unknown(String),
    /// The kernel refused.
    #[error("the limit {0} could not be set")]
    Kernel(String, #[source] rustix::io::Errno),
}

const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Sets a limit of this process; `u64::MAX` is no limit.
///
/// # Errors
/// When the name is unknown or the kernel refuses.
pub fn set(name: &str, soft: u64, hard: u64) -> Result<(), RlimitError> {
    let (_, resource) = NAMES
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| RlimitError::Unknown(name.to_owned()))?;
    let bound = |value| if value == u64::MAX { None } else { Some(value) };
    setrlimit(resource, Rlimit { current: bound(soft), maximum: bound(hard) })
        .map_err(|error| RlimitError::Kernel(name.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_limit_is_refused_by_name() {
        assert!(matches!(set("files", 1, 1), Err(RlimitError::Unknown(name)) if name == "files"));
    }
}
