//! Changes of a microVM's record that its user asks for. Pure.

use hull_protocol::api::Microvm;
use hull_protocol::life::MicrovmPatch;

/// What a patch makes of a record.
pub(super) fn patched(record: &Microvm, patch: &MicrovmPatch) -> Microvm {
    let mut new = record.clone();
    if let Some(name) = &patch.name {
        new.name.clone_from(name);
        new.spec.name = Some(name.clone());
    }
    for (key, value) in &patch.labels {
        match value {
            Some(value) => new.spec.labels.insert(key.clone(), value.clone()),
            None => new.spec.labels.remove(key),
        };
    }
    new.spec.restart = patch.restart.unwrap_or(new.spec.restart);
    new.spec.limits.cpu_shares = patch.cpu_shares.or(new.spec.limits.cpu_shares);
    new.spec.limits.cpu_quota = patch.cpu_quota.or(new.spec.limits.cpu_quota);
    new
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;
    use crate::state::tests::microvm;

    #[test]
    fn what_is_missing_in_a_patch_stays() {
        let mut record = microvm("1", "a");
        record.spec.labels.insert("old".into(), "1".into());
        assert_eq!(patched(&record, &MicrovmPatch::default()), record);
        let patch = r#"{"name":"b","labels":{"old":null,"new":"2"},"restart":"always","cpu_shares":512}"#;
        let new = patched(&record, &serde_json::from_str(patch).unwrap());
        assert_eq!((new.name.as_str(), new.spec.name.as_deref()), ("b", Some("b")));
        assert_eq!(new.spec.labels, [("new".to_owned(), "2".to_owned())].into());
        assert_eq!(new.spec.restart.to_string(), "always");
        assert_eq!(new.spec.limits.cpu_shares.map(u32::from), Some(512));
        assert_eq!(new.spec.limits.cpu_quota, None);
    }
}
