//! Which modules a microVM loads, and in which order.
//!
//! The rules are kmod's (depmod.d(5), modprobe(8)): what a module depends on comes first, what it softly
//! wants comes first too when it is there. A package has no `modules.dep`, so the modules' own words are taken.
//! Pure; the importer's blocking thread. Invariant: in an order every module stands once, after all it
//! depends on.

use std::collections::{BTreeMap, BTreeSet};

use super::modinfo::Modinfo;

/// Deeper chains than this exist in no kernel; it bounds the recursion.
const DEPTH_MAX: usize = 32;

/// Why modules cannot be put in an order.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OrderError {
    /// A dependency's file is not there.
    #[error(
        "module {module} depends on {missing}, which is neither among the modules nor built in: import the kernel together with all of its modules"
    )]
    Missing {
        /// The module that depends on it.
        module: String,
        /// The module that is not there.
        missing: String,
    },
    /// A cycle, or a chain without end.
    #[error("the dependencies of module {0} go in a circle or too deep: its file is damaged")]
    Circle(String),
}

/// What a kernel offers: its modules, and what is built in.
pub(super) struct Offer<'a> {
    /// Each module's information, by its name.
    pub(super) modules: &'a BTreeMap<String, Modinfo>,
    /// Names and aliases of what needs no file.
    pub(super) builtin: &'a BTreeSet<String>,
}

/// The modules to load for `wanted`, dependencies first. Wanted ones without a file are left out.
pub(super) fn load_order(wanted: &[&str], offer: &Offer<'_>) -> Result<Vec<String>, OrderError> {
    let mut walk = Walk { offer, steps: Steps::default(), hopeless: BTreeSet::new() };
    for name in wanted {
        if let Some((name, _)) = offer.modules.get_key_value(*name) {
            walk.visit(name, 0)?;
        }
    }
    Ok(walk.steps.order)
}

struct Walk<'a> {
    offer: &'a Offer<'a>,
    steps: Steps<'a>,
    /// Wishes that could not be granted: each is tried once.
    hopeless: BTreeSet<&'a str>,
}

/// How far the walk has come.
#[derive(Clone, Default)]
struct Steps<'a> {
    order: Vec<String>,
    entered: BTreeSet<&'a str>,
    done: BTreeSet<&'a str>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, name: &'a str, depth: usize) -> Result<(), OrderError> {
        if self.steps.done.contains(name) {
            return Ok(());
        }
        if depth > DEPTH_MAX || !self.steps.entered.insert(name) {
            return Err(OrderError::Circle(name.to_owned()));
        }
        let Some(info) = self.offer.modules.get(name) else {
            return Ok(());
        };
        for needed in &info.depends {
            match self.offer.modules.get_key_value(needed) {
                Some((needed, _)) => self.visit(needed, depth.saturating_add(1))?,
                None if self.offer.builtin.contains(needed) => {}
                None => {
                    return Err(OrderError::Missing { module: name.to_owned(), missing: needed.clone() });
                }
            }
        }
        self.visit_soft(&info.before, depth);
        self.steps.order.push(name.to_owned());
        self.steps.done.insert(name);
        self.visit_soft(&info.after, depth);
        Ok(())
    }

    /// Loads what is wished for. A wish that cannot be granted, or leads back to a module being visited, leaves
    /// no trace.
    fn visit_soft(&mut self, wishes: &'a [String], depth: usize) {
        for wish in wishes {
            for provider in self.providers(wish) {
                if self.steps.entered.contains(provider) || self.hopeless.contains(provider) {
                    continue;
                }
                let before = self.steps.clone();
                if self.visit(provider, depth.saturating_add(1)).is_err() {
                    self.steps = before;
                    self.hopeless.insert(provider);
                }
            }
        }
    }

    /// Modules that go by `wish`, none when the kernel has it built in. A module that loads only on some
    /// processors is passed over: on others it would fail, and the generic one serves all.
    fn providers(&self, wish: &str) -> Vec<&'a str> {
        if self.offer.builtin.contains(wish) {
            return Vec::new();
        }
        let named = self.offer.modules.get_key_value(wish);
        let aliased =
            self.offer.modules.iter().filter(|(_, info)| info.aliases.iter().any(|alias| alias == wish));
        let found = named.into_iter().chain(aliased);
        found.filter(|(_, info)| !info.needs_feature).map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests;
