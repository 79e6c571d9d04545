//! What may be asked of a microVM in which state. Pure, and tested over every pair.

use hull_protocol::api::State;

/// What is asked of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Start it.
    Start,
    /// Stop it, with grace.
    Stop,
    /// Send its process a signal.
    Signal,
    /// Attach to its streams.
    Attach,
    /// Set its terminal's size.
    Resize,
    /// Reach into it: start a further process, copy files, list processes.
    Exec,
    /// Stop it in place.
    Pause,
    /// Let it go on.
    Unpause,
    /// Stop it, if it runs, and start it again.
    Restart,
    /// Let its guest know that a volume it has has grown.
    Grow,
    /// Give a secret of its a value, or forget that.
    Secret,
    /// Change its name, labels, limits or restart policy.
    Update,
    /// Remove it, `true`: even if it runs.
    Delete(bool),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Go,
    /// It is so already: say yes, do nothing.
    Done,
    /// Not in this state; what the user can do instead.
    Refuse(&'static str),
}

/// Judges a command.
pub fn admit(state: State, ask: Ask) -> Verdict {
    use State::{Created, Failed, Paused, Restarting, Running, Starting, Stopped, Stopping};
    let alive = matches!(state, Starting | Running | Paused | Stopping | Restarting);
    match (ask, state) {
        (Ask::Start, Created | Stopped | Failed | Restarting) => Verdict::Go,
        (Ask::Start, Starting | Running) => Verdict::Done,
        (Ask::Start, Paused) => Verdict::Refuse("it is paused: unpause it"),
        (Ask::Start, Stopping) => Verdict::Refuse("it is stopping: wait for it, then start it"),
        (Ask::Stop, Created) => Verdict::Done,
        // Also where it rests: that it was told to stop is remembered by its restart policy.
        (Ask::Stop, _) => Verdict::Go,
        (Ask::Signal, Running | Stopping) => Verdict::Go,
        (Ask::Signal, Paused) => Verdict::Refuse("it is paused: unpause it first, or stop it"),
        (Ask::Signal, _) => Verdict::Refuse("it does not run: start it first"),
        (Ask::Attach, Created | Starting | Running | Paused | Restarting) => Verdict::Go,
        (Ask::Attach, _) => Verdict::Refuse("it does not run: start it first, or read its logs"),
        (Ask::Resize, Starting | Running | Stopping) => Verdict::Go,
        (Ask::Resize, _) => Verdict::Refuse("it does not run"),
        (Ask::Exec, Running | Stopping) => Verdict::Go,
        (Ask::Exec, Paused) => Verdict::Refuse("it is paused: unpause it"),
        (Ask::Exec, _) => Verdict::Refuse("it does not run: start it first"),
        (Ask::Pause, Running) => Verdict::Go,
        (Ask::Pause, Paused) => Verdict::Done,
        (Ask::Pause, Starting) => Verdict::Refuse("it is starting: wait until it runs"),
        (Ask::Pause, _) => Verdict::Refuse("it does not run: start it first"),
        (Ask::Unpause, Paused) => Verdict::Go,
        (Ask::Unpause, Running) => Verdict::Done,
        (Ask::Unpause, _) => Verdict::Refuse("it is not paused"),
        (Ask::Grow, Running) => Verdict::Go,
        (Ask::Grow, Paused) => Verdict::Refuse("a microVM that uses it is paused: unpause that first"),
        (Ask::Grow, Starting | Stopping) => {
            Verdict::Refuse("a microVM that uses it is starting or stopping: try again in a moment")
        }
        // The next start sees it.
        (Ask::Grow, _) => Verdict::Done,
        (Ask::Restart | Ask::Update | Ask::Secret, _) => Verdict::Go,
        (Ask::Delete(force), _) if alive && !force => {
            Verdict::Refuse("it runs: stop it first, or remove it by force")
        }
        (Ask::Delete(_), _) => Verdict::Go,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter for each state, in their order: go, done, refuse.
    fn row(ask: Ask) -> String {
        let letter = |state| match admit(state, ask) {
            Verdict::Go => 'g',
            Verdict::Done => 'd',
            Verdict::Refuse(_) => 'r',
        };
        State::ALL.into_iter().map(letter).collect()
    }

    #[test]
    fn every_pair_is_decided() {
        assert_eq!(row(Ask::Start), "gddrrggg");
        assert_eq!(row(Ask::Stop), "dggggggg");
        assert_eq!(row(Ask::Signal), "rrgrgrrr");
        assert_eq!(row(Ask::Attach), "ggggrgrr");
        assert_eq!(row(Ask::Resize), "rggrgrrr");
        assert_eq!(row(Ask::Exec), "rrgrgrrr");
        assert_eq!(row(Ask::Pause), "rrgdrrrr");
        assert_eq!(row(Ask::Unpause), "rrdgrrrr");
        assert_eq!(row(Ask::Grow), "drgrrddd");
        assert_eq!(row(Ask::Restart), "gggggggg");
        assert_eq!(row(Ask::Update), "gggggggg");
        assert_eq!(row(Ask::Secret), "gggggggg");
        assert_eq!(row(Ask::Delete(false)), "grrrrrgg");
        assert_eq!(row(Ask::Delete(true)), "gggggggg");
    }
}
