//! What a process holds in memory, apart from its guest's (`/proc/PID/smaps`, proc(5)).

use anyhow::{Context, Result, bail};

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// All of it.
    pub all: u64,
    /// What belongs to no file.
    pub anonymous: u64,
}

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    resident: Resident,
}

/// Splits a process's resident memory into the VMM's own and its guest's of `guest` bytes.
///
/// The guest's is the one run of adjacent mappings that has the guest's size.
pub fn split(smaps: &str, guest: u64) -> Result<(Resident, Resident)> {
    let mappings = parse(smaps)?;
    let runs: Vec<&[Mapping]> =
        (0..mappings.len()).filter_map(|first| run_of(mappings.get(first..)?, guest)).collect();
    let [run] = runs.as_slice() else {
        bail!("{} places in its memory have the guest's size", runs.len());
    };
    let theirs = sum(run);
    let all = sum(&mappings);
    let own = Resident { all: all.all - theirs.all, anonymous: all.anonymous - theirs.anonymous };
    Ok((own, theirs))
}

/// All of a process's resident memory.
pub fn whole(smaps: &str) -> Result<Resident> {
    Ok(sum(&parse(smaps)?))
}

fn run_of(mappings: &[Mapping], size: u64) -> Option<&[Mapping]> {
    let start = mappings.first()?.start;
    let mut end = start;
    for (count, mapping) in (1..).zip(mappings) {
        if mapping.start != end {
            return None;
        }
        end = mapping.end;
        if end - start >= size {
            return (end - start == size).then(|| mappings.get(..count)).flatten();
        }
    }
    None
}

fn sum(mappings: &[Mapping]) -> Resident {
    mappings.iter().fold(Resident::default(), |sum, mapping| Resident {
        all: sum.all + mapping.resident.all,
        anonymous: sum.anonymous + mapping.resident.anonymous,
    })
}

fn parse(smaps: &str) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let kib = || -> Result<u64> {
            rest.trim().trim_end_matches(" kB").parse().with_context(|| format!("smaps: {line}"))
        };
        match (word, mappings.last_mut()) {
            ("Rss:", Some(mapping)) => mapping.resident.all = kib()?,
            ("Anonymous:", Some(mapping)) => mapping.resident.anonymous = kib()?,
            _ => {
                let Some((start, end)) = word.split_once('-') else { continue };
                let address = |text| u64::from_str_radix(text, 16);
                if let (Ok(start), Ok(end)) = (address(start), address(end)) {
                    mappings.push(Mapping { start, end, resident: Resident::default() });
                }
            }
        }
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 00:01 1 /usr/bin/vmm
Size:               1024 kB
Rss:                 300 kB
Anonymous:             4 kB
10000000-10100000 rw-p 00000000 00:00 0
Rss:                  64 kB
Anonymous:            64 kB
10100000-10200000 rw-p 00200000 00:01 2 /vmlinux
Rss:                  16 kB
Anonymous:             8 kB
10200000-10201000 rw-p 00000000 00:00 0 [stack]
Rss:                   4 kB
Anonymous:             4 kB
";

    #[test]
    fn the_guest_is_told_from_its_vmm() {
        let resident = |all, anonymous| Resident { all, anonymous };
        // Both the program and a half of the guest have 1 MiB; together only the guest's two have 2 MiB.
        let split = split(SMAPS, 2 << 20);
        assert!(split.is_ok_and(|split| split == (resident(304, 8), resident(80, 72))));
        assert!(whole(SMAPS).is_ok_and(|whole| whole == resident(384, 80)));
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        assert!(split(SMAPS, 1 << 20).is_err());
        assert!(split(SMAPS, 3 << 20).is_err());
    }
}
