//! Which secrets a container has, and where it finds them. Pure: their values are not here.

use hull_protocol::agent::{Mount, MountSource};
use hull_protocol::secret::{
    SECRET_MODE, SECRET_NAME_MAX, SECRETS_MAX, SECRETS_PLACE, SecretSpec, USER_MAX, is_secret_name,
};

use super::PlanError;
use super::mounts::target;

/// A secret, resolved. Its number is its place among the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPlan {
    /// Its name.
    pub name: String,
    /// Permissions of its file.
    pub mode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
}

/// Resolves a container's secrets: what each is, and where it is mounted.
pub(super) fn secrets(specs: &[SecretSpec]) -> Result<Vec<(SecretPlan, Mount)>, PlanError> {
    if specs.len() > SECRETS_MAX {
        return Err(PlanError::Invalid(format!(
            "{} secrets: at most {SECRETS_MAX} are possible",
            specs.len()
        )));
    }
    let mut all: Vec<(SecretPlan, Mount)> = Vec::new();
    for (spec, number) in specs.iter().zip(0..) {
        let secret = secret(spec)?;
        if all.iter().any(|(other, _)| other.name == secret.name) {
            return Err(PlanError::Invalid(format!(
                "two secrets have the name '{}': leave one out",
                secret.name
            )));
        }
        let place = spec.target.clone().unwrap_or_else(|| format!("{SECRETS_PLACE}/{}", secret.name));
        all.push((secret, Mount { target: target(&place)?, source: MountSource::Secret(number) }));
    }
    Ok(all)
}

fn secret(spec: &SecretSpec) -> Result<SecretPlan, PlanError> {
    let SecretSpec { name, mode, uid, gid, .. } = spec;
    if !is_secret_name(name) {
        return Err(PlanError::Invalid(format!(
            "'{}' is no name of a secret: use up to {SECRET_NAME_MAX} letters, digits, '_', '.' and '-', the first a \
             letter, digit or '_'",
            name.escape_debug().take(200).collect::<String>()
        )));
    }
    let mode = mode.unwrap_or(SECRET_MODE);
    if mode > 0o777 {
        return Err(PlanError::Invalid(format!(
            "the secret {name} has permissions {mode:o}: 777 is the most, in octal"
        )));
    }
    let (uid, gid) = (uid.unwrap_or(0), gid.unwrap_or(0));
    if uid > USER_MAX || gid > USER_MAX {
        return Err(PlanError::Invalid(format!(
            "the secret {name} is for {uid}:{gid}: {USER_MAX} is the highest number of a user or group"
        )));
    }
    Ok(SecretPlan { name: name.clone(), mode, uid, gid })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;
    use crate::plan::mounts::mounts;
    use hull_protocol::mount::MountSpec;

    fn named(name: &str) -> SecretSpec {
        SecretSpec { name: name.into(), ..SecretSpec::default() }
    }

    #[test]
    fn secrets_are_mounted_after_what_they_are_in() {
        let run = MountSpec::Tmpfs { target: "/run".into(), size: None, mode: None, exec: false };
        let key = SecretSpec {
            target: Some("/key//".into()),
            mode: Some(0o400),
            uid: Some(33),
            gid: Some(34),
            ..named("key")
        };
        let plan = mounts(&[run], &[named("db"), key]).unwrap();
        let placed: Vec<_> =
            plan.mounts.iter().map(|mount| (mount.target.as_str(), mount.source.clone())).collect();
        let tmpfs = MountSource::Tmpfs { size: None, mode: 0o1777, exec: false };
        assert_eq!(
            placed,
            [("/run", tmpfs), ("/key", MountSource::Secret(1)), ("/run/secrets/db", MountSource::Secret(0))]
        );
        let plain = SecretPlan { name: "db".into(), mode: 0o444, uid: 0, gid: 0 };
        let own = SecretPlan { name: "key".into(), mode: 0o400, uid: 33, gid: 34 };
        assert_eq!(plan.secrets, [plain, own]);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |specs: &[SecretSpec]| mounts(&[], specs).unwrap_err().to_string();
        let at = |target: &str| SecretSpec { target: Some(target.into()), ..named("a") };
        for (spec, why) in [
            (named(""), "no name"),
            (named("../a"), "no name"),
            (at("key"), "from the root"),
            (at("/"), "root"),
            (at("/proc/x"), "kernel's own"),
            (at("/a/../b"), "'..'"),
            (SecretSpec { mode: Some(0o1000), ..named("a") }, "1000"),
            (SecretSpec { uid: Some(USER_MAX + 1), ..named("a") }, "highest"),
            (SecretSpec { gid: Some(u32::MAX), ..named("a") }, "highest"),
        ] {
            assert!(refused(std::slice::from_ref(&spec)).contains(why), "{spec:?}");
        }
        assert!(refused(&[named("a"), named("a")]).contains("two secrets"));
        assert!(
            refused(&[at("/x"), SecretSpec { target: Some("/x/".into()), ..named("b") }])
                .contains("two mounts")
        );
        let many: Vec<_> = (0..=SECRETS_MAX).map(|number| named(&format!("s{number}"))).collect();
        assert!(refused(&many).contains("at most 64"));
    }
}
