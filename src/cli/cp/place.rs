//! What the paths of a copy mean. Pure.

use anyhow::{Result, bail};
use hull_protocol::transfer::FileKind;

/// One side of a copy, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A path in a microVM.
    There(String, String),
    /// A path here.
    Here(String),
    /// An archive on standard input or output.
    Stream,
}

/// Where a source goes: the directory, which is there, and its name in it. With the name `.` what is in the source
/// goes into the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) directory: String,
    pub(super) name: String,
}

/// Tells the sides apart.
pub(super) fn split(text: &str) -> Place {
    match text.split_once(':') {
        _ if text == "-" => Place::Stream,
        Some((microvm, path))
            if !microvm.is_empty() && !microvm.starts_with('.') && !microvm.contains('/') =>
        {
            Place::There(microvm.to_owned(), if path.is_empty() { "/".into() } else { path.to_owned() })
        }
        _ => Place::Here(text.to_owned()),
    }
}

/// Where a source of a kind goes, when this is what is at its destination.
pub(super) fn target(
    (source, kind): (&str, FileKind),
    (destination, found): (&str, Option<FileKind>),
) -> Result<Target> {
    let is_directory = kind == FileKind::Directory;
    let contents = is_directory && (source.ends_with("/.") || source == ".");
    if !is_directory && (source.ends_with('/') || source.ends_with("/.")) {
        bail!("'{source}' is not a directory: leave out what follows its name");
    }
    match found {
        Some(FileKind::Directory) if contents => {
            Ok(Target { directory: destination.into(), name: ".".into() })
        }
        Some(FileKind::Directory) => {
            let Some(name) = last(source) else {
                // A root has no name of its own.
                return Ok(Target { directory: destination.into(), name: ".".into() });
            };
            Ok(Target { directory: destination.into(), name: name.into() })
        }
        Some(_) if is_directory => bail!("'{destination}' is a file: a directory cannot be copied to it"),
        Some(_) if destination.ends_with('/') => bail!("'{destination}' is not a directory"),
        None if !is_directory && (destination.ends_with('/') || destination.ends_with("/.")) => {
            bail!("there is no directory '{destination}': make it first")
        }
        _ => {
            let trimmed = destination.trim_end_matches("/.").trim_end_matches('/');
            let Some(name) = last(trimmed) else { bail!("'{destination}' names no file") };
            let above = trimmed.strip_suffix(name).unwrap_or_default();
            let directory = if above.is_empty() { "." } else { above };
            Ok(Target { directory: directory.into(), name: name.into() })
        }
    }
}

/// The last name of a path, if it has one.
fn last(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Some(name).filter(|name| !matches!(*name, "" | "." | ".."))
}

/// A path with the end that says it is a directory's.
pub(super) fn keep_end(path: &str, written: &str) -> String {
    let end = written.ends_with('/') && !path.ends_with('/');
    format!("{path}{}", if end { "/" } else { "" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn a_side_is_a_microvms_when_it_has_a_name_before_a_colon() {
        let there = |microvm: &str, path: &str| Place::There(microvm.into(), path.into());
        assert_eq!(split("web:/etc"), there("web", "/etc"));
        assert_eq!(split("web:etc:x"), there("web", "etc:x"));
        assert_eq!(split("web:"), there("web", "/"));
        assert_eq!(split("-"), Place::Stream);
        for here in ["file", "./a:b", "/a:b", ":x", "../a:b", "dir/a:b", ""] {
            assert_eq!(split(here), Place::Here(here.into()));
        }
    }

    #[test]
    fn every_case_that_docker_documents() {
        use FileKind::{Directory, File};
        let case = |source, kind, destination, found| {
            target((source, kind), (destination, found)).ok().map(|target| (target.directory, target.name))
        };
        let goes = |directory: &str, name: &str| Some((directory.to_owned(), name.to_owned()));
        // A file: saved under the name, into the directory, over the file.
        assert_eq!(case("a/f", File, "/x/new", None), goes("/x/", "new"));
        assert_eq!(case("a/f", File, "new", None), goes(".", "new"));
        assert_eq!(case("a/f", File, "/x/", None), None);
        assert_eq!(case("a/f", File, "/x/old", Some(File)), goes("/x/", "old"));
        assert_eq!(case("a/f", File, "/x/old/", Some(File)), None);
        assert_eq!(case("a/f", File, "/x", Some(Directory)), goes("/x", "f"));
        assert_eq!(case("a/f/", File, "/x", Some(Directory)), None);
        // A directory: under the name, never over a file, itself or what is in it into the directory.
        assert_eq!(case("a/d", Directory, "/x/new", None), goes("/x/", "new"));
        assert_eq!(case("a/d", Directory, "/x/new/", None), goes("/x/", "new"));
        assert_eq!(case("a/d/.", Directory, "/x/new", None), goes("/x/", "new"));
        assert_eq!(case("a/d", Directory, "/x/old", Some(File)), None);
        assert_eq!(case("a/d/", Directory, "/x", Some(Directory)), goes("/x", "d"));
        assert_eq!(case("a/d/.", Directory, "/x", Some(Directory)), goes("/x", "."));
        assert_eq!(case(".", Directory, "/x", Some(Directory)), goes("/x", "."));
        assert_eq!(case("/", Directory, "/x", Some(Directory)), goes("/x", "."));
        assert_eq!(case("a/f", File, "/", None), None);
        assert_eq!(keep_end("/real", "/link/"), "/real/");
    }
}
