#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod kernel;
mod merging;

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use tar::{EntryType, Header};

use super::*;

/// Flattens layers, compressed or not, into a file.
fn flatten_to(layers: &[Vec<u8>], out: &Path, limits: &Limits) -> Result<(), FlattenError> {
    let layers = layers.iter().map(|bytes| {
        let mut unpacked = Vec::new();
        let digest = Digest::of(bytes);
        let diff_id = match LayerStream::new(Cursor::new(bytes), limits).unwrap().read_to_end(&mut unpacked) {
            Ok(_) => Digest::of(&unpacked),
            Err(_) => digest.clone(),
        };
        Ok(Layer { raw: Cursor::new(bytes), digest, diff_id })
    });
    flatten(layers, &File::create_new(out).unwrap(), [7; 16], limits)
}

/// Why layers are refused.
fn refusal(layers: &[Vec<u8>], limits: &Limits) -> LayerError {
    let temp = tempfile::tempdir().unwrap();
    match flatten_to(layers, &temp.path().join("image"), limits) {
        Err(FlattenError::Layer { source, .. }) => source,
        other => panic!("not refused as it should be: {other:?}"),
    }
}

fn shell(script: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

/// Flattens, checks with EROFS's own tool, and copies the files out through the kernel (as that tool's extraction
/// gets holes wrong in some versions): needs root.
fn round_trip(layers: &[Vec<u8>]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    flatten_to(layers, &image, &Limits::default()).unwrap();
    let dir = temp.path().display();
    shell(&format!(
        "cd {dir}; fsck.erofs image >/dev/null; mkdir mnt; mount -o loop,ro -t erofs image mnt; trap 'umount mnt' EXIT; cp -a mnt tree"
    ));
    temp
}

/// A tar archive, entry by entry, that follows no rules of its own.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, kind: u8, path: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_entry_type(EntryType::new(kind));
        let ustar = header.as_ustar_mut().unwrap();
        ustar.name[..path.len()].copy_from_slice(path);
        ustar.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.bytes(content)
    }

    fn bytes(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.raw(b'0', path.as_bytes(), b"", content.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.raw(b'5', path.as_bytes(), b"", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(b'1', path.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let mut length = key.len() + value.len() + 3;
        while length != key.len() + value.len() + 3 + length.to_string().len() {
            length = key.len() + value.len() + 3 + length.to_string().len();
        }
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.raw(b'x', b"pax", b"", &record)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
