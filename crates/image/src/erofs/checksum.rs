//! CRC-32C (Castagnoli) without the final inversion, as the superblock's checksum uses it.

/// Continues `crc` over `bytes`.
pub(super) fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}
