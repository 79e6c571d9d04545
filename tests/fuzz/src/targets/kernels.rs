//! What the daemon reads of a kernel that is imported: packages, images, modules, and how all of it is packed.

use std::io::Write;

use hull_daemon::kernel::fuzz;

use super::devices::file;
use super::samples;
use crate::input::{Input, Script};

/// What a stream may unpack to.
const UNPACKED_MAX: usize = 8 << 20;

/// Every compression.
pub(crate) fn compression(data: &[u8]) {
    if let Some(content) = fuzz::unpacked(data, UNPACKED_MAX) {
        assert!(content.len() <= UNPACKED_MAX, "more than was asked for");
    }
}

/// Each format, from its own encoder.
pub(crate) fn compression_seeds() -> Vec<Vec<u8>> {
    let text = b"some text, some text, some more text, and a little noise: \x00\xff\x17\x80".repeat(4);
    let lzma = {
        let options = liblzma::stream::LzmaOptions::new_preset(1).expect("a preset");
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("an encoder");
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&text).and_then(|()| encoder.finish()).expect("memory")
    };
    let bzip2 = {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(&text).and_then(|()| encoder.finish()).expect("memory")
    };
    let block = lz4_flex::block::compress(&text);
    let length = u32::try_from(block.len()).unwrap_or(0);
    let lz4 = [&0x184C_2102_u32.to_le_bytes()[..], &length.to_le_bytes(), &block].concat();
    let zstd = zstd::encode_all(text.as_slice(), 3).expect("memory");
    vec![samples::gzip(&text), samples::xz(&text), lzma, bzip2, lz4, zstd, text]
}

/// A kernel's file: bzImage or ELF.
pub(crate) fn image(data: &[u8]) {
    let out = file(&[]);
    fuzz::kernel(data.to_vec(), &out);
    let length = out.metadata().expect("a file").len();
    assert!(length <= (data.len() as u64 + 1) << 20, "a kernel of {length} bytes from {}", data.len());
}

/// A small kernel in each packing.
pub(crate) fn image_seeds() -> Vec<Vec<u8>> {
    let kernel = samples::vmlinux();
    let small = |packed: Vec<u8>| samples::bzimage(&packed, Some(kernel.len()));
    let zstd = zstd::encode_all(kernel.as_slice(), 3).expect("memory");
    let mut seeds = vec![small(samples::xz(&kernel)), small(zstd)];
    seeds.push(samples::bzimage(&samples::gzip(&kernel), None));
    let segments = [[1, 0x1000, 0x0100_0000, 0x80, 0x4000], [1, 0x1080, 0x0120_0800, 0x40, 0x40]];
    seeds.push(samples::program(62, &segments, &b"Linux version 6.1.0-7-test (x@y) #1\0".repeat(8)));
    seeds
}

/// A Debian package, or a tar stream.
pub(crate) fn package(data: &[u8]) {
    let mut input = Input(data);
    let deb = input.u8() & 1 != 0;
    fuzz::package(deb, input.0.to_vec(), file(&[]));
}

/// A package of a whole small kernel, and its parts.
pub(crate) fn package_seeds() -> Vec<Vec<u8>> {
    let files = samples::files();
    let modules: Vec<_> = files.iter().skip(4).take(2).cloned().collect();
    let one = |deb: u8, bytes: &[u8]| Script::default().u8(deb).bytes(bytes).0;
    vec![
        one(1, &samples::deb(&files)),
        one(0, &samples::tar(&modules)),
        one(0, &samples::gzip(&samples::tar(&files[..1]))),
    ]
}

/// A module's file.
pub(crate) fn module(data: &[u8]) {
    fuzz::module(data);
}

/// Modules with what a real one says of itself.
pub(crate) fn module_seeds() -> Vec<Vec<u8>> {
    samples::modules().into_iter().map(|(_, file)| file).collect()
}
