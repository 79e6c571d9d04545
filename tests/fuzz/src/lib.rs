//! Fuzz targets: everything of Hull that reads bytes of a guest, an image, a registry or a client.
//!
//! `cargo xtask fuzz --minutes N [TARGET...]` runs them under libFuzzer, with the address sanitizer; `cargo test` runs
//! each on its seeds and on a few thousand inputs made of them, the same ones every time. A target is a function of
//! bytes that panics when something is wrong, and seeds made by real encoders; further seeds, and inputs that once
//! found something, are files in `seeds/TARGET`.

pub mod guest;
pub mod input;
pub mod mutate;
mod targets;

use std::path::{Path, PathBuf};

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { name, run, seeds }
    }

    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        const { &targets::TARGETS }
    }

    /// The one with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        Self::all().iter().find(|target| target.name == name)
    }

    /// Tries an input.
    ///
    /// # Panics
    /// When something is wrong.
    pub fn run(&self, data: &[u8]) {
        (self.run)(data);
    }

    /// Inputs to begin with: those made here, and those in the tree.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = (self.seeds)();
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(self.name))
                .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
                .unwrap_or_default();
        files.sort();
        seeds.extend(files.iter().filter_map(|file| std::fs::read(file).ok()));
        seeds
    }
}
