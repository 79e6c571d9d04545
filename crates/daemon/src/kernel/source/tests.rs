#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::io::Cursor;

use proptest::prelude::*;

use super::super::samples;
use super::*;

fn empty() -> Contents {
    Contents::new(tempfile::tempfile().unwrap())
}

fn read(source: ImportSource) -> Result<Contents, KernelError> {
    let mut contents = empty();
    source.read(&mut contents).map(|()| contents)
}

fn is_whole(contents: &mut Contents) -> bool {
    contents.take_kernel().is_ok()
        && contents.config.is_some()
        && contents.builtin.contains("ext4")
        && contents.modules.len() == samples::modules().len() - 1
}

#[test]
fn packages_and_tars_are_read_whole_however_they_are_packed() {
    let tar = samples::tar(&samples::files());
    for bytes in
        [tar.clone(), samples::gzip(&tar), samples::xz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()]
    {
        assert!(is_whole(&mut read(ImportSource::Tar(Box::new(Cursor::new(bytes)))).unwrap()));
    }
    let deb = samples::deb(&samples::files());
    assert!(is_whole(&mut read(ImportSource::Deb(Box::new(Cursor::new(deb)))).unwrap()));
}

#[test]
fn damaged_packages_are_refused() {
    let deb = samples::deb(&samples::files());
    let said = |bytes: &[u8]| {
        read(ImportSource::Deb(Box::new(Cursor::new(bytes.to_vec())))).map(|_| ()).unwrap_err()
    };
    assert!(matches!(said(b""), KernelError::NotADeb(_)));
    assert!(matches!(said(b"!<arch>\n"), KernelError::NoData));
    assert!(matches!(said(&deb[..deb.len() / 2]), KernelError::Read { .. }));
    let mut other = ar::Builder::new(Vec::new());
    other.append(&ar::Header::new(b"object.o".to_vec(), 0), io::empty()).unwrap();
    assert!(matches!(said(&other.into_inner().unwrap()), KernelError::NotADeb(_)));
}

#[test]
fn the_hosts_kernel_is_found_where_distributions_put_it() {
    let root = tempfile::tempdir().unwrap();
    let missing = host(root.path(), samples::RELEASE, &mut empty()).unwrap_err();
    assert!(matches!(missing, KernelError::NoHostKernel(..)));
    for (path, bytes) in samples::files() {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let tree = root.path().join("lib/modules").join(samples::RELEASE);
    std::os::unix::fs::symlink("/", tree.join("kernel/build")).unwrap();
    let mut contents = empty();
    host(root.path(), samples::RELEASE, &mut contents).unwrap();
    assert!(is_whole(&mut contents));
    // Where the kernel lies beside its modules.
    fs::rename(root.path().join("boot").join(format!("vmlinuz-{}", samples::RELEASE)), tree.join("vmlinuz"))
        .unwrap();
    fs::rename(root.path().join("boot").join(format!("config-{}", samples::RELEASE)), tree.join("config"))
        .unwrap();
    let mut contents = empty();
    host(root.path(), samples::RELEASE, &mut contents).unwrap();
    assert!(is_whole(&mut contents));
}

proptest! {
    #[test]
    fn no_bytes_of_a_package_do_harm(changes: Vec<(u16, u8)>, length in 0..3000_usize) {
        let mut deb = samples::deb(&samples::files());
        for (at, byte) in changes {
            let at = usize::from(at) % deb.len();
            deb[at] = byte;
        }
        deb.truncate(length);
        let _ = read(ImportSource::Deb(Box::new(Cursor::new(deb))));
    }

    #[test]
    fn no_bytes_of_a_tar_do_harm(changes: Vec<(u16, u8)>) {
        let mut tar = samples::tar(&samples::files());
        for (at, byte) in changes {
            let at = usize::from(at) % tar.len();
            tar[at] = byte;
        }
        let _ = read(ImportSource::Tar(Box::new(Cursor::new(tar))));
    }
}
