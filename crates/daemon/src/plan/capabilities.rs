//! What a container's root may do in its guest, from what the user adds and drops, capabilities(7). Pure.

use hull_protocol::agent::DEFAULT_CAPABILITIES;
use rustix::thread::CapabilitySet;

use super::PlanError;

/// Stands for every capability there is.
const ALL: &str = "ALL";

/// The names of the capabilities that are kept, by Docker's rules: what is added comes to Docker's default set without
/// what is dropped. To add ALL is to keep all but what is dropped, to drop it, only what is added.
pub(super) fn kept(added: &[String], dropped: &[String]) -> Result<Vec<String>, PlanError> {
    let (all_added, added) = read(added)?;
    let (all_dropped, dropped) = read(dropped)?;
    let default: CapabilitySet =
        DEFAULT_CAPABILITIES.iter().filter_map(|name| CapabilitySet::from_name(name)).collect();
    let kept = match (all_added, all_dropped) {
        (true, true) => CapabilitySet::all(),
        (true, false) => CapabilitySet::all() - dropped,
        (false, true) => added,
        (false, false) => (default - dropped) | added,
    };
    Ok(kept.iter_names().map(|(name, _)| name.to_owned()).collect())
}

/// Whether all are named, and which are. Names go with and without `CAP_`, in any case.
fn read(names: &[String]) -> Result<(bool, CapabilitySet), PlanError> {
    let (mut all, mut set) = (false, CapabilitySet::empty());
    for written in names {
        let name = written.to_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        match CapabilitySet::from_name(name) {
            _ if name == ALL => all = true,
            Some(one) => set |= one,
            None => {
                let why = format!("there is no capability '{written}': write it as NET_ADMIN, or ALL");
                return Err(PlanError::Invalid(why));
            }
        }
    }
    Ok((all, set))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::agent::CAPABILITY;

    use super::*;

    fn of(added: &str, dropped: &str) -> Vec<String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        kept(&words(added), &words(dropped)).unwrap()
    }

    #[test]
    fn what_is_added_and_dropped_counts_as_for_docker() {
        let mut default = DEFAULT_CAPABILITIES.map(str::to_owned).to_vec();
        default.sort();
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(of("", "")), default);
        assert_eq!(of("net_admin CAP_SYS_PTRACE", "all"), ["NET_ADMIN", "SYS_PTRACE"]);
        let (more, fewer) = (of("NET_ADMIN", ""), of("", "CHOWN"));
        assert!(more.len() == 15 && more.contains(&"NET_ADMIN".to_owned()), "{more:?}");
        assert!(fewer.len() == 13 && !fewer.contains(&"CHOWN".to_owned()), "{fewer:?}");
        assert!(of("CHOWN", "CHOWN").contains(&"CHOWN".to_owned()));
        let all = of("ALL", "SYS_ADMIN");
        assert!(all.len() > 35 && !all.contains(&"SYS_ADMIN".to_owned()), "{all:?}");
        assert!(kept(&["NET".to_owned()], &[]).is_err());
    }

    #[test]
    fn the_description_of_the_api_names_them_all() {
        let names = CAPABILITY.trim_start_matches("^(CAP_)?(ALL|").trim_end_matches(")$");
        let mut described: Vec<String> = names.split('|').map(str::to_owned).collect();
        let mut known = of("ALL", "");
        described.sort();
        known.sort();
        assert_eq!(described, known);
    }
}
