//! What a container sees besides its root, from what the user wrote: which volumes, what is mounted where, and what is
//! copied of the host, and where its secrets are. Pure.

use std::path::PathBuf;

use hull_protocol::agent::{Mount, MountSource, volume_serial};
use hull_protocol::mount::{MOUNTS_MAX, MountSpec, TMPFS_MODE, VOLUMES_MAX};
use hull_protocol::secret::SecretSpec;
use hull_protocol::transfer::PATH_MAX;
use hull_protocol::units::Bytes;

use super::PlanError;
use super::secrets::{SecretPlan, secrets};
use crate::fleet::check_name;

/// A volume that a microVM is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVolume {
    /// Its name.
    pub name: String,
    /// Whether it is only read.
    pub read_only: bool,
    /// How large it is made where there is none.
    pub size: Option<Bytes>,
}

/// A container's mounts, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountPlan {
    /// Its volumes, each once, in the order of their disks.
    pub volumes: Vec<WantedVolume>,
    /// What is mounted, what lies inside another after it.
    pub mounts: Vec<Mount>,
    /// Files and directories of the host, in the order of their copies.
    pub copies: Vec<PathBuf>,
    /// Its secrets, by number.
    pub secrets: Vec<SecretPlan>,
}

/// Resolves a container's mounts, with those of its secrets.
///
/// # Errors
/// When one cannot be.
pub fn mounts(specs: &[MountSpec], secret_specs: &[SecretSpec]) -> Result<MountPlan, PlanError> {
    if specs.len() > MOUNTS_MAX {
        return Err(PlanError::Invalid(format!("{} mounts: at most {MOUNTS_MAX} are possible", specs.len())));
    }
    let mut plan = MountPlan::default();
    for spec in specs {
        let target = target(spec.target())?;
        let source = plan.source(spec)?;
        plan.add(Mount { target, source })?;
    }
    for (secret, mount) in secrets(secret_specs)? {
        plan.secrets.push(secret);
        plan.add(mount)?;
    }
    if plan.volumes.len() > VOLUMES_MAX {
        return Err(PlanError::Invalid(format!(
            "{} volumes: one microVM can have {VOLUMES_MAX}",
            plan.volumes.len()
        )));
    }
    plan.mounts.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(plan)
}

impl MountPlan {
    fn add(&mut self, mount: Mount) -> Result<(), PlanError> {
        if self.mounts.iter().any(|other| other.target == mount.target) {
            return Err(PlanError::Invalid(format!(
                "two mounts have the target '{}': leave one out",
                mount.target
            )));
        }
        self.mounts.push(mount);
        Ok(())
    }

    fn source(&mut self, spec: &MountSpec) -> Result<MountSource, PlanError> {
        match spec {
            MountSpec::Volume { source, read_only, size, no_copy, .. } => {
                check_name(source).map_err(|error| PlanError::Invalid(format!("volume: {error}")))?;
                let place = self.volume(source, *read_only, *size);
                Ok(MountSource::Volume {
                    serial: volume_serial(place),
                    read_only: *read_only,
                    copy: !no_copy && !read_only,
                })
            }
            MountSpec::Tmpfs { target, size, mode, exec } => {
                if size.is_some_and(|size| size.get() == 0) {
                    return Err(PlanError::Invalid(format!(
                        "the tmpfs at {target} has a size of 0: give more, or leave it out for half of the memory"
                    )));
                }
                let mode = mode.unwrap_or(TMPFS_MODE);
                if mode > 0o7777 {
                    return Err(PlanError::Invalid(format!(
                        "the tmpfs at {target} has permissions {mode:o}: 7777 is the most, in octal"
                    )));
                }
                Ok(MountSource::Tmpfs { size: size.map(Bytes::get), mode, exec: *exec })
            }
            MountSpec::Bind { source, read_only, .. } => {
                check_path("the host's", source)?;
                if !read_only {
                    return Err(PlanError::Invalid(format!(
                        "a directory or file that is shared with the host ({source}) is not possible yet: mount it \
                         read-only (':ro') to have it copied at every start, or use a volume"
                    )));
                }
                let number = u32::try_from(self.copies.len()).unwrap_or(u32::MAX);
                self.copies.push(source.into());
                Ok(MountSource::Copy(number))
            }
        }
    }

    /// The place of a volume among those it is to have.
    fn volume(&mut self, name: &str, read_only: bool, size: Option<Bytes>) -> usize {
        match self.volumes.iter().position(|volume| volume.name == name) {
            Some(place) => {
                if let Some(known) = self.volumes.get_mut(place) {
                    known.read_only &= read_only;
                    known.size = known.size.or(size);
                }
                place
            }
            None => {
                self.volumes.push(WantedVolume { name: name.to_owned(), read_only, size });
                self.volumes.len().saturating_sub(1)
            }
        }
    }
}

fn check_path(whose: &str, path: &str) -> Result<(), PlanError> {
    if !path.starts_with('/') || path.len() > PATH_MAX || path.contains('\0') {
        return Err(PlanError::Invalid(format!(
            "'{}' is no path of {whose} that can be mounted: write it from the root, such as /data",
            path.escape_debug().take(200).collect::<String>()
        )));
    }
    Ok(())
}

/// A target without what means nothing in it.
pub(super) fn target(path: &str) -> Result<String, PlanError> {
    check_path("the container's", path)?;
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let refused = |why: &str| Err(PlanError::Invalid(format!("nothing can be mounted on '{path}': {why}")));
    match names.as_slice() {
        [] => refused("it is the root, which the image fills"),
        ["dev"] => refused("the container's devices are there"),
        ["proc" | "sys", ..] => refused("the kernel's own files are there"),
        names if names.contains(&"..") => refused("leave '..' out"),
        names => Ok(format!("/{}", names.join("/"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use proptest::prelude::*;

    use super::*;

    fn volume(source: &str, target: &str, read_only: bool) -> MountSpec {
        MountSpec::Volume {
            source: source.into(),
            target: target.into(),
            read_only,
            size: None,
            no_copy: false,
        }
    }

    fn bind(source: &str, target: &str, read_only: bool) -> MountSpec {
        MountSpec::Bind { source: source.into(), target: target.into(), read_only }
    }

    #[test]
    fn a_volume_that_is_mounted_twice_is_one_disk_which_can_be_written_if_one_mount_can() {
        let specs = [
            volume("a", "/x/y/z", true),
            bind("/etc/hosts", "/h", true),
            volume("b", "/b//", true),
            volume("a", "/x/./y", false),
            bind("/etc/motd", "/m", true),
        ];
        let plan = mounts(&specs, &[]).unwrap();
        let wanted: Vec<_> = plan.volumes.iter().map(|v| (v.name.as_str(), v.read_only)).collect();
        assert_eq!(wanted, [("a", false), ("b", true)]);
        let targets: Vec<&str> = plan.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/h", "/b", "/m", "/x/y", "/x/y/z"]);
        assert_eq!(plan.copies, [PathBuf::from("/etc/hosts"), PathBuf::from("/etc/motd")]);
        assert_eq!(plan.mounts[2].source, MountSource::Copy(1));
        let deep = MountSource::Volume { serial: "hull-volume-0".into(), read_only: true, copy: false };
        assert_eq!(plan.mounts[4].source, deep);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |specs: &[MountSpec]| mounts(specs, &[]).unwrap_err().to_string();
        for (target, why) in [
            ("data", "from the root"),
            ("", "from the root"),
            ("/", "the root"),
            ("/.//", "the root"),
            ("/proc/1", "kernel's own"),
            ("/sys", "kernel's own"),
            ("/dev/", "devices"),
            ("/a/../b", "'..'"),
            ("/a\0b", "no path"),
        ] {
            assert!(refused(&[volume("a", target, false)]).contains(why), "{target}");
        }
        assert!(mounts(&[volume("a", "/dev/disk", false)], &[]).is_ok());
        assert!(refused(&[volume("a", "/x", false), volume("b", "/x/", false)]).contains("two mounts"));
        assert!(refused(&[volume("../a", "/x", false)]).contains("is no name"));
        assert!(refused(&[bind("/srv", "/x", false)]).contains("not possible yet"));
        assert!(refused(&[bind("srv", "/x", true)]).contains("the host's"));
        let tmpfs = |size, mode| MountSpec::Tmpfs { target: "/t".into(), size, mode, exec: false };
        assert!(refused(&[tmpfs(Some(Bytes(0)), None)]).contains("size of 0"));
        assert!(refused(&[tmpfs(None, Some(0o10000))]).contains("10000"));
        let many = |count: usize| -> Vec<MountSpec> {
            (0..count).map(|n| volume(&format!("v{n}"), &format!("/{n}"), true)).collect()
        };
        assert!(refused(&many(VOLUMES_MAX + 1)).contains("can have 8"));
        assert!(refused(&many(MOUNTS_MAX + 1)).contains("at most 64"));
    }

    proptest! {
        /// A target that is let through is a plain path that names nothing of the kernel's, whatever was written.
        #[test]
        fn targets_are_plain(path in "/?(/|proc|sys|dev|\\.\\.|\\.|[a-c]{1,3}|\\x00){0,10}") {
            if let Ok(target) = target(&path) {
                let names: Vec<&str> = target.split('/').skip(1).collect();
                prop_assert!(target.starts_with('/') && !names.is_empty());
                prop_assert!(names.iter().all(|name| !matches!(*name, "" | "." | "..") && !name.contains('\0')));
                prop_assert!(!["proc", "sys"].contains(&names[0]) && target != "/dev");
            }
        }
    }
}
