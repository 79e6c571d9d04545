//! Inputs made of others, the same every time: what libFuzzer does, without knowing what they reach.

/// A xorshift generator (Marsaglia, 2003).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// With this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }
}

/// Numbers that break things.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// An input like one of `seeds`, changed in a few places.
#[must_use]
pub fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut input = seeds.get(dice.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(4) {
        change(&mut input, seeds, dice);
    }
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    match dice.below(7) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = dice.byte();
            }
        }
        2 => {
            let bytes = EDGES[dice.below(EDGES.len())].to_le_bytes();
            let width = 1 << dice.below(4);
            input.iter_mut().skip(at).zip(&bytes[..width]).for_each(|(to, from)| *to = *from);
        }
        3 => input.truncate(at),
        4 => {
            let end = (at + 1 + dice.below(16)).min(input.len());
            input.drain(at.min(end)..end);
        }
        5 => {
            let more: Vec<u8> = (0..=dice.below(16)).map(|_| dice.byte()).collect();
            input.splice(at..at, more);
        }
        _ => {
            let other = seeds.get(dice.below(seeds.len())).cloned().unwrap_or_default();
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend(&other[from..]);
        }
    }
}
