#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::io::Write;

use proptest::prelude::*;

use super::super::samples::{gzip, xz};
use super::*;

fn legacy_lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = LZ4_MAGIC.to_vec();
    for block in bytes.chunks(LZ4_BLOCK) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed
}

fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    unpacked(packed)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn xz_with_x86_filter(bytes: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    let mut filters = liblzma::stream::Filters::new();
    filters.x86().lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_format_is_known_by_its_first_bytes_and_unpacks() {
    // Longer than one LZ4 block, and with calls in it for the x86 filter to turn.
    let bytes: Vec<u8> =
        (0..LZ4_BLOCK as u32 / 4 + 1000).flat_map(|i| [0xE8, i as u8, (i >> 8) as u8, 0]).collect();
    for (format, packed) in [
        (Compression::Gzip, gzip(&bytes)),
        (Compression::Xz, xz(&bytes)),
        (Compression::Xz, xz_with_x86_filter(&bytes)),
        (Compression::Lzma, lzma(&bytes)),
        (Compression::Zstd, zstd::encode_all(bytes.as_slice(), 1).unwrap()),
        (Compression::Bzip2, bzip2(&bytes)),
        (Compression::Lz4, legacy_lz4(&bytes)),
    ] {
        assert_eq!(Compression::of(&packed), Some(format));
        assert!(read(&packed).unwrap() == bytes, "{format:?}");
        let cut = &packed[..packed.len() / 2];
        assert!(read(cut).map_or(true, |read| read != bytes), "{format:?} does not see that it was cut");
    }
}

#[test]
fn what_is_not_compressed_comes_through() {
    for bytes in [&b""[..], b"x", b"plain text that is longer than a magic number"] {
        assert_eq!(read(bytes).unwrap(), bytes);
    }
    assert_eq!(read(b"\x89LZO....").unwrap_err().kind(), io::ErrorKind::Unsupported);
}

#[test]
fn legacy_lz4_frames_follow_one_another_and_lengths_are_capped() {
    let two = [legacy_lz4(b"one "), legacy_lz4(b"two")].concat();
    assert_eq!(read(&two).unwrap(), b"one two");
    let huge = [&LZ4_MAGIC[..], &u32::MAX.to_le_bytes(), b"xx"].concat();
    assert_eq!(read(&huge).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let short = [&LZ4_MAGIC[..], &100_u32.to_le_bytes(), b"xx"].concat();
    assert_eq!(read(&short).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

proptest! {
    #[test]
    fn no_bytes_behind_a_magic_number_do_harm(magic in 0..6_usize, bytes: Vec<u8>) {
        let magics: [&[u8]; 6] =
            [&[0x1F, 0x8B, 8], b"\xFD7zXZ\0", &[0x5D, 0, 0], &[0x28, 0xB5, 0x2F, 0xFD], b"BZh9", &LZ4_MAGIC];
        let packed = [magics[magic], &bytes].concat();
        if let Ok(reader) = unpacked(packed.as_slice()) {
            // Whatever it says: the reader ends or fails.
            let _ = read_up_to(reader, 1 << 20);
        }
    }

    #[test]
    fn legacy_lz4_gives_back_what_was_packed(bytes: Vec<u8>) {
        prop_assert_eq!(read(&legacy_lz4(&bytes)).unwrap(), bytes);
    }
}
