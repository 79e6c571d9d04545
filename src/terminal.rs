//! The user's terminal: raw while a guest has it, as it was before afterwards, whatever happens in between.
//!
//! Owner: one session or one `hull boot`. Invariant: the mode is restored when [`Raw`] is dropped and when the
//! program panics, even where a panic ends it at once.

use std::io::{self, IsTerminal};
use std::panic;

use anyhow::{Context, Result};
use hull_protocol::agent::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input in raw mode.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal on standard input raw; none if it is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        let (at_panic, otherwise) = (before.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |what| {
            restore(&at_panic);
            otherwise(what);
        }));
        // Now, not after the output has gone: what is typed from here on is the guest's.
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("making the terminal raw")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &Termios) {
    let _terminal_has_gone = tcsetattr(io::stdin(), OptionalActions::Now, before);
}

/// The size of the user's terminal, if there is one.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    let known = size.ws_row > 0 && size.ws_col > 0;
    known.then_some(WindowSize { rows: size.ws_row, cols: size.ws_col })
}

/// The size of a terminal that nobody looks at.
pub(crate) const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };
