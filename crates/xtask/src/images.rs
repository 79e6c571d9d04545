//! Real images for the system tests: a busybox, a Debian, and a Python on top of that Debian, the last with every
//! kind of file a layer can hold; all in the storage of a real registry.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::fixtures::{self, make};
use crate::shell::{check, need_packages, output, repository, target};

const PACKAGES: [&str; 10] = [
    "attr",
    "busybox-static",
    "docker-registry",
    "e2fsprogs",
    "erofs-utils",
    "libcap2-bin",
    "mmdebstrap",
    "python3-minimal",
    "skopeo",
    "umoci",
];
/// How long a registry may take to listen.
const REGISTRY_WAIT: Duration = Duration::from_secs(30);

/// Makes `busybox.tar`, the smallest root file system that is of use.
pub fn busybox() -> Result<PathBuf> {
    need_packages(&["busybox-static"])?;
    let place = target().join("fixtures/busybox.tar");
    make(&place, "1", pack_busybox)?;
    Ok(place)
}

/// Makes `tools.tar`, what tests of networks have guests run: busybox, `net`, curl and ethtool.
pub fn tools() -> Result<PathBuf> {
    need_packages(&["curl", "ethtool"])?;
    let (busybox, net) = (busybox()?, fixtures::net()?);
    let place = target().join("fixtures/tools.tar");
    make(&place, &fs::read_to_string(repository().join("tests/guests/net.c"))?, |half| {
        let script = "mkdir $0; tar -C $0 -xf $1; cp $2 $0/bin/
                      for name in curl ethtool; do
                          program=$(command -v $name); libraries=$(ldd $program | grep -o '/[^ ]*')
                          cp -L --parents $program $libraries $0
                      done
                      tar -C $0 -cf $3 .; rm -r $0";
        let tree = half.with_extension("tree");
        check(Command::new("sh").args(["-euc", script]).args([&tree, &busybox, &net]).arg(half))
    })?;
    Ok(place)
}

/// Makes `images/oci` (a layout with the tags `debian` and `python`), `images/python.list` (what is in the latter) and
/// `images/registry` (the storage of a registry that holds both).
pub fn images() -> Result<PathBuf> {
    need_packages(&PACKAGES)?;
    busybox()?;
    let place = target().join("fixtures/images");
    let recipe = repository().join("resources/lab/python-layer");
    let lister = repository().join("tests/support/list.py");
    let source = fs::read_to_string(&recipe)? + &fs::read_to_string(&lister)?;
    make(&place, &source, |half| {
        fs::create_dir_all(half)?;
        debian(half)?;
        python(half, &recipe)?;
        list(half, &lister)?;
        fill_registry(half)
    })?;
    Ok(place)
}

fn pack_busybox(half: &Path) -> Result<()> {
    let tree = half.with_extension("tree");
    let _old = fs::remove_dir_all(&tree);
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    for applet in output("/bin/busybox", &["--list"])?.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))?;
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/tmp:/bin/sh\n")?;
    fs::write(tree.join("etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:4:web\n")?;
    check(Command::new("tar").arg("-C").arg(&tree).args(["-cf"]).arg(half).arg("."))?;
    fs::remove_dir_all(tree).map_err(Into::into)
}

fn umoci(place: &Path, args: &[&str]) -> Result<()> {
    check(Command::new("umoci").arg("--log=error").args(args).current_dir(place))
}

fn debian(place: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite =
        release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).context("not a Debian")?;
    let layer = place.join("debian.tar");
    check(
        Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", "--mode=root", suite]).arg(&layer),
    )?;
    umoci(place, &["init", "--layout", "oci"])?;
    umoci(place, &["new", "--image", "oci:debian"])?;
    umoci(place, &["raw", "add-layer", "--image", "oci:debian", "debian.tar"])?;
    umoci(
        place,
        &["config", "--image", "oci:debian", "--config.cmd", "/bin/bash", "--config.env", "LANG=C.UTF-8"],
    )?;
    fs::remove_file(layer).map_err(Into::into)
}

fn python(place: &Path, recipe: &Path) -> Result<()> {
    umoci(place, &["unpack", "--image", "oci:debian", "bundle"])?;
    check(Command::new("sh").arg("-eu").arg(recipe).current_dir(place.join("bundle/rootfs")))?;
    umoci(place, &["repack", "--image", "oci:python", "bundle"])?;
    umoci(
        place,
        &[
            "config",
            "--image",
            "oci:python",
            "--config.entrypoint",
            "/usr/bin/python3.11",
            "--config.cmd",
            "-V",
        ],
    )?;
    fs::remove_dir_all(place.join("bundle")).map_err(Into::into)
}

/// Writes `python.list`: every file of the Python image, as the distribution's own tool unpacks it. A container's
/// view is compared with it.
fn list(place: &Path, lister: &Path) -> Result<()> {
    umoci(place, &["unpack", "--image", "oci:python", "bundle"])?;
    let files = fs::File::create(place.join("python.list"))?;
    check(Command::new("python3").arg(lister).arg(place.join("bundle/rootfs")).stdout(files))?;
    fs::remove_dir_all(place.join("bundle")).map_err(Into::into)
}

fn fill_registry(place: &Path) -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut registry = registry(&place.join("registry"), port)?;
    let filled = wait_for(port, &mut registry).and_then(|()| {
        for tag in ["debian", "python"] {
            let from = format!("oci:{}:{tag}", place.join("oci").display());
            let to = format!("docker://127.0.0.1:{port}/{tag}:latest");
            check(Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from, &to]))?;
        }
        Ok(())
    });
    registry.kill()?;
    registry.wait()?;
    filled
}

fn registry(storage: &Path, port: u16) -> Result<Child> {
    fs::create_dir_all(storage)?;
    let config = storage.with_extension("yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        storage.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("docker-registry could not be started")
}

fn wait_for(port: u16, registry: &mut Child) -> Result<()> {
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = registry.try_wait()? {
            bail!("docker-registry ended: {status}");
        }
        if start.elapsed() > REGISTRY_WAIT {
            bail!("docker-registry does not listen");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
