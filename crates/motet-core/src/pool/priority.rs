//! How urgent work is, and how that orders those who wait for a core or a worker.

use std::time::Duration;

use crate::tuning;

/// How urgent the work of a stream or a call is.
///
/// Who waits for a core is let in by the time of its arrival plus a [patience](Self::patience) that
/// is larger the less urgent it is. So urgent work goes first, and nobody waits for ever: who has
/// waited for longer than the difference between two patiences goes before what is more urgent.
///
/// ```
/// # use motet_core::pool::Priority;
/// assert!(Priority::Urgent > Priority::Normal && Priority::Normal > Priority::Background);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Runs on what others leave: loading and compiling models, batch jobs. Callers with such work never
    /// have all cores, where there are several.
    Background,
    /// What work has where nobody says otherwise.
    #[default]
    Normal,
    /// Somebody waits for it: goes before all others, between two steps or tiles of theirs.
    Urgent,
}

impl Priority {
    /// How long it lets those go first that arrive later and are more urgent.
    pub const fn patience(self) -> Duration {
        match self {
            Priority::Background => tuning::BACKGROUND_PATIENCE,
            Priority::Normal => tuning::NORMAL_PATIENCE,
            Priority::Urgent => Duration::ZERO,
        }
    }
}
