//! Who a process runs as: the image's `/etc/passwd` and `/etc/group`, passwd(5), group(5).
//!
//! Both files are the image's, so they are read as hostile: only regular files, only so many bytes.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The most that is read of either file, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// The most fields that either file has on a line.
const FIELDS_MAX: usize = 7;
/// The most characters of a name that are shown.
const NAME_MAX: usize = 32;
/// The most supplementary groups the kernel takes.
const GROUPS_MAX: usize = 65_536;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A user or group the image does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in the image's /etc/passwd")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in the image's /etc/group")]
    NoGroup(String),
}

/// Reads a file of the image's.
pub(crate) fn read_image_file(path: &str) -> String {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(read_hostile).unwrap_or_default()
}

/// The text of such a file, opened so that it cannot block.
pub(crate) fn read_hostile(file: File) -> String {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    match file.take(FILE_MAX).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The user that `user`, `uid`, `user:group` or `uid:gid` stands for; root when empty.
pub(crate) fn find(wanted: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user);
    let entry = passwd.lines().map(fields).find(|entry| {
        entry.first().is_some_and(|name| *name == user) || number.is_some() && number_at(entry, 2) == number
    });
    let uid = match &entry {
        Some(entry) => number_at(entry, 2),
        None => number,
    }
    .ok_or_else(|| UserError::NoUser(user.to_owned()))?;
    let home = entry.as_ref().and_then(|entry| entry.get(5)).filter(|home| !home.is_empty());
    let home = home.map_or("/", |home| *home).to_owned();
    let own_gid = entry.as_ref().and_then(|entry| number_at(entry, 3)).unwrap_or(0);
    let (gid, groups) = match wanted_group {
        Some(name) => (find_group(name, group)?, Vec::new()),
        None => {
            let name = entry.as_ref().and_then(|entry| entry.first()).copied().unwrap_or_default();
            (own_gid, member_of(name, group))
        }
    };
    // The own group is among the others too: else dropping it would be a way around what it is denied.
    let groups = std::iter::once(gid).chain(groups.into_iter().filter(|other| *other != gid));
    let groups = groups.take(GROUPS_MAX).collect();
    Ok(User { uid, gid, groups, home })
}

/// The name of a user, or the number where the image has none for it.
pub(crate) fn name_of(uid: u32, passwd: &str) -> String {
    let entry = passwd.lines().map(fields).find(|entry| number_at(entry, 2) == Some(uid));
    let name = entry.as_ref().and_then(|entry| entry.first()).filter(|name| !name.is_empty());
    name.map_or_else(|| uid.to_string(), |name| name.chars().take(NAME_MAX).collect())
}

fn fields(line: &str) -> Vec<&str> {
    line.splitn(FIELDS_MAX + 1, ':').collect()
}

fn number_at(fields: &[&str], index: usize) -> Option<u32> {
    fields.get(index).and_then(|field| number(field))
}

/// A user's or group's number; the greatest ones have meanings of their own to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().and_then(|number| number.try_into().ok())
}

fn find_group(wanted: &str, group: &str) -> Result<u32, UserError> {
    let by_name = group.lines().map(fields).find(|entry| entry.first() == Some(&wanted));
    by_name
        .and_then(|entry| number_at(&entry, 2))
        .or_else(|| number(wanted))
        .ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
}

fn member_of(name: &str, group: &str) -> Vec<u32> {
    let lists = |entry: &Vec<&str>| {
        entry.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
    };
    let named = group.lines().map(fields).filter(|entry| !name.is_empty() && lists(entry));
    named.filter_map(|entry| number_at(&entry, 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:www:/var/www:/bin/false\nbroken:x:y\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\ntape:x:26:web,other\nlogs:x:4:web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, UserError> {
        Ok(User { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(find("", PASSWD, GROUP), user(0, 0, &[0], "/root"));
        assert_eq!(find("web", PASSWD, GROUP), user(33, 33, &[33, 26, 4], "/var/www"));
        assert_eq!(find("33", PASSWD, GROUP), user(33, 33, &[33, 26, 4], "/var/www"));
        assert_eq!(find("web:tape", PASSWD, GROUP), user(33, 26, &[26], "/var/www"));
        assert_eq!(find("1000:1001", PASSWD, GROUP), user(1000, 1001, &[1001], "/"));
        assert_eq!(find("1000", "", ""), user(1000, 0, &[0], "/"));
    }

    #[test]
    fn numbers_have_names_where_the_image_has_one() {
        assert_eq!((name_of(33, PASSWD), name_of(5, PASSWD)), ("web".into(), "5".to_owned()));
        assert_eq!(name_of(1, &format!("{}:x:1:1\n", "n".repeat(99))).len(), NAME_MAX);
    }

    #[test]
    fn who_is_not_in_the_image_is_refused_by_name() {
        assert_eq!(find("nobody", PASSWD, GROUP), Err(UserError::NoUser("nobody".into())));
        assert_eq!(find("broken", PASSWD, GROUP), Err(UserError::NoUser("broken".into())));
        assert_eq!(find("4294967295", PASSWD, GROUP), Err(UserError::NoUser("4294967295".into())));
        assert_eq!(find("-1", PASSWD, GROUP), Err(UserError::NoUser("-1".into())));
        assert_eq!(find("web:wheel", PASSWD, GROUP), Err(UserError::NoGroup("wheel".into())));
    }
}
