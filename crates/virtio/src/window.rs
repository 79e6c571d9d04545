//! What a driver reads of its device: a page that the guest may map, so that reading a register is no exit.
//!
//! Owner: the transport; the I/O loop shares it, to set bits. Invariant: only the VMM writes it, by whole words that no
//! reader sees in halves.

use std::sync::Arc;

use crate::sync::atomic::{AtomicU32, Ordering};

/// The size of a device's window in bytes.
pub const WINDOW: u64 = 0x1000;

/// A page of registers.
#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([AtomicU32; 1024]);

const _: () = assert!(size_of::<Page>() as u64 == WINDOW);

/// The windows of all devices of a machine, one after the other.
#[derive(Clone, Debug)]
pub struct Windows(Arc<[Page]>);

impl Windows {
    /// So many windows, all zero.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Page([const { AtomicU32::new(0) }; 1024])).collect())
    }

    /// One of them; past the last, one that reads as zero and takes nothing.
    #[must_use]
    pub fn window(&self, index: usize) -> Window {
        Window { pages: self.0.clone(), index }
    }

    /// Where the first begins in the VMM's memory, page-aligned, and how many bytes they are together. Valid as long as
    /// any of the windows is there.
    #[must_use]
    pub fn place(&self) -> (*const u8, usize) {
        (self.0.as_ptr().cast(), size_of_val(&*self.0))
    }
}

/// One device's window.
#[derive(Clone, Debug)]
pub struct Window {
    pages: Arc<[Page]>,
    index: usize,
}

impl Window {
    /// The word that holds the byte at this offset.
    pub(crate) fn word(&self, offset: u64) -> Option<&AtomicU32> {
        self.pages.get(self.index)?.0.get(usize::try_from(offset / 4).ok()?)
    }

    /// What is at `offset`; zero past the end.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, further) in data.iter_mut().zip(0..) {
            let at = offset.saturating_add(further);
            let word = self.word(at).map_or(0, |word| word.load(Ordering::SeqCst));
            let [first, second, third, fourth] = word.to_le_bytes();
            *byte = match at % 4 {
                0 => first,
                1 => second,
                2 => third,
                _ => fourth,
            };
        }
    }

    pub(crate) fn set(&self, offset: u64, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value.to_le(), Ordering::SeqCst);
        }
    }

    /// Sets words from `offset` on, the last filled up with zeros.
    pub(crate) fn set_bytes(&self, offset: u64, bytes: &[u8]) {
        for (chunk, at) in bytes.chunks(4).zip((offset..).step_by(4)) {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.set(at, u32::from_le_bytes(word));
        }
    }

    /// Sets the 16 bits at an even offset.
    pub(crate) fn set_half(&self, offset: u64, value: u16) {
        let Some(word) = self.word(offset) else { return };
        let shift = if offset % 4 < 2 { 0 } else { 16 };
        let with = |old: u32| ((u32::from_le(old) & !(0xffff << shift)) | u32::from(value) << shift).to_le();
        let _always = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(with(old)));
    }

    pub(crate) fn set_bits(&self, offset: u64, bits: u32) {
        if let Some(word) = self.word(offset) {
            word.fetch_or(bits.to_le(), Ordering::SeqCst);
        }
    }

    pub(crate) fn clear_bits(&self, offset: u64, bits: u32) {
        if let Some(word) = self.word(offset) {
            word.fetch_and(!bits.to_le(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_page_of_its_own_and_past_the_last_there_is_nothing() {
        let windows = Windows::new(2);
        let (place, length) = windows.place();
        assert_eq!((place as usize % 4096, length), (0, 8192));
        let [first, second, none] = [0, 1, 2].map(|index| windows.window(index));
        second.set(0xffc, 0x0403_0201);
        none.set(0, 1);
        let read = |window: &Window, offset| {
            let mut bytes = [0xff; 3];
            window.read(offset, &mut bytes);
            bytes
        };
        assert_eq!(read(&second, 0xffd), [2, 3, 4]);
        assert_eq!(read(&second, 0xfff), [4, 0, 0]);
        assert_eq!((read(&first, 0xffc), read(&none, 0)), ([0; 3], [0; 3]));
        assert_eq!(read(&second, u64::MAX - 1), [0; 3]);
    }

    #[test]
    fn bytes_and_bits_are_set_by_words() {
        let window = Windows::new(1).window(0);
        window.set(0x108, u32::MAX);
        window.set_bytes(0x100, &[1, 2, 3, 4, 5]);
        window.set_bits(0x104, 0x700);
        window.clear_bits(0x104, 0x500);
        window.set_half(0x102, 0x0908);
        let mut bytes = [0; 9];
        window.read(0x100, &mut bytes);
        assert_eq!(bytes, [1, 2, 8, 9, 5, 2, 0, 0, 0xff]);
    }
}
