//! What a kernel module says of itself: its `.modinfo` section.
//!
//! The format is modpost's: `key=value` texts, each ended by a zero byte, as `modinfo` of kmod prints them.
//! Pure; the importer's blocking thread. Invariant: what is kept of a module is bounded by its file.

use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

/// `MODULE_NAME_LEN` of the kernel.
const NAME_MAX: usize = 64;

/// Why a file is not a kernel module.
#[derive(Debug, thiserror::Error)]
pub enum ModinfoError {
    /// Not an ELF file, or damaged.
    #[error("its ELF headers are damaged")]
    Elf(#[from] object::Error),
    /// For another processor.
    #[error("it is not an x86-64 module")]
    OtherProcessor,
    /// No `.modinfo`.
    #[error("it has no module information")]
    Missing,
}

/// The parts of a module's information that decide what is loaded before and after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Modinfo {
    /// Modules whose symbols it uses.
    pub(super) depends: Vec<String>,
    /// Modules or aliases it would like loaded before it.
    pub(super) before: Vec<String>,
    /// Modules or aliases it would like loaded after it.
    pub(super) after: Vec<String>,
    /// Plain names by which it can be asked for; device patterns are not kept.
    pub(super) aliases: Vec<String>,
    /// Whether it loads only on processors with a certain feature.
    pub(super) needs_feature: bool,
    /// The kernel release it was built for.
    pub(super) release: Option<String>,
}

impl Modinfo {
    /// Reads the information of the module whose file is `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ModinfoError> {
        let header = elf::FileHeader64::<LE>::parse(bytes)?;
        let endian = header.endian()?;
        if header.e_machine(endian) != elf::EM_X86_64 || header.e_type(endian) != elf::ET_REL {
            return Err(ModinfoError::OtherProcessor);
        }
        let sections = header.sections(endian, bytes)?;
        let (_, section) = sections.section_by_name(endian, b".modinfo").ok_or(ModinfoError::Missing)?;
        Ok(Self::parse_texts(section.data(endian, bytes)?))
    }

    fn parse_texts(section: &[u8]) -> Self {
        let mut info = Self::default();
        for text in section.split(|byte| *byte == 0) {
            let Some((key, value)) = std::str::from_utf8(text).ok().and_then(|text| text.split_once('='))
            else {
                continue;
            };
            info.take(key, value);
        }
        info
    }

    /// Takes in one `key=value`. What is not a name is no dependency.
    pub(super) fn take(&mut self, key: &str, value: &str) {
        match key {
            "depends" => self.depends.extend(value.split(',').filter_map(module_name)),
            "softdep" => self.take_softdep(value),
            "alias" if value.starts_with("cpu:") => self.needs_feature = true,
            "alias" if !value.contains(':') => self.aliases.extend(module_name(value)),
            "vermagic" => self.release = value.split_whitespace().next().map(str::to_owned),
            _ => {}
        }
    }

    /// `pre: a b post: c`.
    fn take_softdep(&mut self, value: &str) {
        let mut after = false;
        for word in value.split_whitespace() {
            match word {
                "pre:" => after = false,
                "post:" => after = true,
                name if after => self.after.extend(module_name(name)),
                name => self.before.extend(module_name(name)),
            }
        }
    }
}

/// A module's name the way the kernel compares them: `-` and `_` are the same.
pub(super) fn module_name(text: &str) -> Option<String> {
    let valid = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    valid.then(|| text.replace('-', "_"))
}

#[cfg(test)]
mod tests;
