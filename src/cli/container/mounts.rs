//! The flags of `run` and `create` for volumes, memory and files of the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::mount::MountSpec;
use hull_protocol::units::Bytes;

/// A container's mounts, as flags.
#[derive(Debug, Args)]
#[command(next_help_heading = "Mounts")]
pub(super) struct Mounts {
    /// Volume at a path: NAME:PATH[:ro], made if there is none; or, for those who administer the host, a copy of a file or
    /// directory of it: /HOST/PATH:PATH:ro; may be repeated
    #[arg(short, long, value_name = "SOURCE:PATH")]
    volume: Vec<String>,
    /// The same with more to say: type=volume,source=NAME,target=PATH[,readonly][,volume-nocopy][,size=SIZE],
    /// type=bind,source=/HOST/PATH,target=PATH,readonly or type=tmpfs,target=PATH[,size=SIZE][,mode=MODE]; may be
    /// repeated
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,
    /// Memory at a path: PATH[:size=64m,mode=1777,exec]; may be repeated
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
}

impl Mounts {
    pub(super) fn spec(&self) -> Result<Vec<MountSpec>> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let mut mounts = Vec::new();
        for text in &self.volume {
            mounts.push(volume(text, &here).with_context(|| format!("--volume {text}"))?);
        }
        for text in &self.mount {
            mounts.push(mount(text, &here).with_context(|| format!("--mount {text}"))?);
        }
        for text in &self.tmpfs {
            mounts.push(tmpfs(text).with_context(|| format!("--tmpfs {text}"))?);
        }
        Ok(mounts)
    }
}

/// `SOURCE:PATH[:OPTIONS]`, as Docker's `--volume`.
fn volume(text: &str, here: &Path) -> Result<MountSpec> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        [_] => bail!("a volume needs a name: write NAME:PATH"),
        _ => bail!("there are too many colons: write SOURCE:PATH or SOURCE:PATH:ro"),
    };
    if source.is_empty() || target.is_empty() {
        bail!("something is missing beside the colon: write NAME:PATH");
    }
    let (mut read_only, mut no_copy) = (false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => no_copy = true,
            other => bail!("there is no option '{other}': use ro, rw or nocopy"),
        }
    }
    let target = target.to_owned();
    // As Docker has it: what looks like a path is one.
    if source.starts_with(['/', '.', '~']) {
        return Ok(MountSpec::Bind { source: host_path(source, here)?, target, read_only });
    }
    Ok(MountSpec::Volume { source: source.to_owned(), target, read_only, size: None, no_copy })
}

/// A path of the host from its root: the daemon has another working directory.
fn host_path(path: &str, here: &Path) -> Result<String> {
    if path.starts_with('~') {
        bail!("'~' is the shell's to replace: write the path itself");
    }
    match here.join(path).to_str() {
        Some(path) => Ok(path.to_owned()),
        None => bail!("the path is not in UTF-8"),
    }
}

/// `KEY=VALUE,KEY,...`, as Docker's `--mount`.
fn mount(text: &str, here: &Path) -> Result<MountSpec> {
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut no_copy, mut exec, mut size, mut mode) = (false, false, false, None, None);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let needed =
            || value.filter(|value| !value.is_empty()).with_context(|| format!("{key} needs a value"));
        match key {
            "type" => kind = needed()?,
            "source" | "src" => source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => target = Some(needed()?.to_owned()),
            "readonly" | "ro" => read_only = flag(key, value)?,
            "volume-nocopy" => no_copy = flag(key, value)?,
            "exec" => exec = flag(key, value)?,
            "size" | "tmpfs-size" => size = Some(needed()?.parse()?),
            "volume-opt" => match needed()?.split_once('=') {
                Some(("size", value)) => size = Some(value.parse()?),
                _ => bail!("the one volume-opt there is is size=SIZE"),
            },
            "mode" | "tmpfs-mode" => mode = Some(octal(needed()?)?),
            other => bail!("there is no key '{other}': 'hull run --help' lists them"),
        }
    }
    let target = target.context("there is no target: write target=PATH")?;
    let misplaced = |given: bool, what: &str| {
        if given { bail!("{what} means nothing for type={kind}: leave it out") } else { Ok(()) }
    };
    misplaced(kind != "tmpfs" && (exec || mode.is_some()), "exec or mode")?;
    misplaced(kind != "volume" && no_copy, "volume-nocopy")?;
    match kind {
        "volume" => {
            let source = source.context("a volume needs a name: write source=NAME")?;
            Ok(MountSpec::Volume { source, target, read_only, size, no_copy })
        }
        "bind" => {
            misplaced(size.is_some(), "size")?;
            let source = source.context("there is no source: write source=/HOST/PATH")?;
            Ok(MountSpec::Bind { source: host_path(&source, here)?, target, read_only })
        }
        "tmpfs" => {
            misplaced(source.is_some(), "source")?;
            misplaced(read_only, "readonly")?;
            Ok(MountSpec::Tmpfs { target, size, mode, exec })
        }
        other => bail!("there is no type '{other}': use volume, bind or tmpfs"),
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => bail!("{key}={other}: write {key}, or {key}=false"),
    }
}

pub(super) fn octal(text: &str) -> Result<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.with_context(|| format!("'{text}' are no permissions: write them in octal, such as 1777"))
}

/// `PATH[:OPTIONS]`, as Docker's `--tmpfs`.
fn tmpfs(text: &str) -> Result<MountSpec> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut exec): (Option<Bytes>, _, _) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(value.parse()?),
            Some(("mode", value)) => mode = Some(octal(value)?),
            None if option == "exec" => exec = true,
            None if option == "noexec" => exec = false,
            // It is so in any case.
            None if ["rw", "nosuid", "nodev"].contains(&option) => {}
            _ => bail!("there is no option '{option}': use size=SIZE, mode=MODE, exec or noexec"),
        }
    }
    Ok(MountSpec::Tmpfs { target: target.to_owned(), size, mode, exec })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use proptest::prelude::*;

    use super::*;

    fn named(source: &str, target: &str, read_only: bool, no_copy: bool, size: Option<Bytes>) -> MountSpec {
        MountSpec::Volume { source: source.into(), target: target.into(), read_only, size, no_copy }
    }

    fn bind(source: &str, target: &str, read_only: bool) -> MountSpec {
        MountSpec::Bind { source: source.into(), target: target.into(), read_only }
    }

    #[test]
    fn volumes_are_read_as_docker_reads_them() {
        let here = Path::new("/home/x");
        for (text, expected) in [
            ("data:/d", named("data", "/d", false, false, None)),
            ("data:/d:ro", named("data", "/d", true, false, None)),
            ("data:/d:rw,nocopy", named("data", "/d", false, true, None)),
            ("/etc/x:/y:ro", bind("/etc/x", "/y", true)),
            ("./x:/y:ro", bind("/home/x/./x", "/y", true)),
            ("/srv:/srv", bind("/srv", "/srv", false)),
        ] {
            assert_eq!(volume(text, here).unwrap(), expected, "{text}");
        }
        for bad in ["/d", "data", "data:", ":/d", "data:/d:rx", "a:b:c:d", "~/x:/y:ro", "data:/d:ro:"] {
            assert!(volume(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_read_key_by_key() {
        let here = Path::new("/");
        let tmpfs = |size, mode, exec| MountSpec::Tmpfs { target: "/t".into(), size, mode, exec };
        for (text, expected) in [
            ("type=volume,source=data,target=/d", named("data", "/d", false, false, None)),
            ("src=data,dst=/d,ro,volume-nocopy", named("data", "/d", true, true, None)),
            (
                "source=data,destination=/d,size=1g,readonly=false",
                named("data", "/d", false, false, Some(Bytes::gib(1))),
            ),
            ("src=data,dst=/d,volume-opt=size=64m", named("data", "/d", false, false, Some(Bytes::mib(64)))),
            ("type=bind,src=/a,dst=/b,readonly", bind("/a", "/b", true)),
            ("type=tmpfs,dst=/t", tmpfs(None, None, false)),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=755,exec",
                tmpfs(Some(Bytes::mib(1)), Some(0o755), true),
            ),
        ] {
            assert_eq!(mount(text, here).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "type=volume,target=/d",
            "type=volume,source=data",
            "type=volume,source=,target=/d",
            "type=nfs,source=data,target=/d",
            "source=data,target=/d,colour=red",
            "source=data,target=/d,readonly=perhaps",
            "source=data,target=/d,mode=755",
            "type=tmpfs,source=data,target=/d",
            "type=tmpfs,target=/d,mode=789",
            "type=bind,source=/a,target=/b,size=1m",
            "type=bind,source=/a,target=/b,volume-nocopy",
        ] {
            assert!(mount(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_read_with_its_options() {
        let read = |text| tmpfs(text).unwrap();
        let expected = |size, mode, exec| MountSpec::Tmpfs { target: "/run".into(), size, mode, exec };
        assert_eq!(read("/run"), expected(None, None, false));
        assert_eq!(read("/run:rw,noexec,nosuid,size=65536k"), expected(Some(Bytes::mib(64)), None, false));
        assert_eq!(read("/run:mode=0755,exec"), expected(None, Some(0o755), true));
        for bad in ["/run:size=lots", "/run:mode=+7", "/run:mode=17777", "/run:suid", "/run:size"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Any text is read or refused; what is read of a volume is what it was written from.
        #[test]
        fn any_text_is_survived(text in ".{0,40}", source in "[a-z][a-z0-9_.-]{0,8}", target in "/[^:]{0,12}", read_only: bool) {
            let here = Path::new("/");
            let _ = (volume(&text, here), mount(&text, here), tmpfs(&text));
            let written = format!("{source}:{target}{}", if read_only { ":ro" } else { "" });
            prop_assert_eq!(volume(&written, here).unwrap(), named(&source, &target, read_only, false, None));
        }
    }
}
