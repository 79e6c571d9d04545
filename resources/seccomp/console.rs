//! The thread that writes what the guest prints: nothing beyond what every thread does.

use super::Rule;

pub(super) const RULES: &[Rule] = &[];
