//! What a daemon that was killed left behind: directories and control groups that belong to no microVM any
//! more, files of no volume.
//!
//! Cleared by the next daemon before it takes anything up. Invariant: what belongs to a known microVM that may still
//! run is not touched; nor is anything whose name this daemon would not give.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use hull_protocol::api::{Microvm, State};

use crate::fleet::Host;
use crate::microvm::make_directory;
use crate::volumes::Volumes;

/// Clears everything of nobody's.
pub(crate) fn clear(host: &Host, records: &[Microvm]) {
    let known: HashSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    sweep(&host.paths.data.join("microvms"), 32, |name| known.contains(name));
    let short: HashSet<&str> = records.iter().filter_map(|record| record.id.get(..12)).collect();
    sweep(&host.paths.run, 12, |name| short.contains(name));
    sweep(&host.paths.secrets(), 32, |name| known.contains(name));
    match host.state.volumes() {
        Ok(volumes) => {
            let known: HashSet<String> =
                volumes.iter().map(|volume| Volumes::file_name(&volume.id)).collect();
            sweep_files(host.volumes.directory(), &known);
        }
        Err(error) => tracing::error!("what no volume needs stays: {error}"),
    }
    for record in records {
        // One whose making was not finished is finished.
        if let Err(error) = make_directory(host, &record.id) {
            tracing::error!("microVM {} has no directory: {error}", record.id);
        }
        if matches!(record.state, State::Created | State::Stopped | State::Failed | State::Restarting) {
            host.groups.group(&record.id).remove();
        }
    }
}

/// Removes the directories in `place` that are named by so many hexadecimal digits and that nobody knows.
fn sweep(place: &Path, digits: usize, known: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let ours = name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !ours || known(name) {
            continue;
        }
        tracing::warn!("{} is nobody's and is removed", entry.path().display());
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::error!("{} stays: {error}", entry.path().display());
        }
    }
}

/// Removes the files of volumes that nobody knows: made for a record that was not written, or left by one that has gone.
fn sweep_files(place: &Path, known: &HashSet<String>) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let id = name.strip_suffix(".ext4").unwrap_or_default();
        let ours = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !ours || known.contains(name) {
            continue;
        }
        tracing::warn!("{} is nobody's and is removed", entry.path().display());
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::error!("{} stays: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn only_what_is_nobodys_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0123456789ab", "ba9876543210", "not-a-number", "0123456789a"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        sweep(dir.path(), 12, |name| name == "0123456789ab");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0123456789a", "0123456789ab", "not-a-number"]);
    }

    #[test]
    fn a_volume_that_was_not_finished_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (known, half) = (format!("{:032x}.ext4", 1), format!("{:032x}.ext4", 2));
        for name in [&known, &half, "mine.ext4", "x"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep_files(dir.path(), &[known.clone()].into());
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [known.as_str(), "mine.ext4", "x"]);
    }
}
