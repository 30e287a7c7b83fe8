//! The home over a fork.

use core::sync::atomic::Ordering;
use std::sync::MutexGuard;

use super::{Home, LINK, home};
use crate::table;

/// Held over a fork, so that the child finds the home whole.
pub(crate) struct Frozen {
    _guard: MutexGuard<'static, Home>,
}

/// Takes the home for a fork.
pub(crate) fn freeze() -> Frozen {
    Frozen { _guard: home() }
}

/// In a child: the connection is the parent's. The child makes its own when it needs one.
pub(crate) fn after_fork_in_child() {
    let mut home = home();
    if let Some(link) = home.link.take() {
        table::discard(link);
    }
    LINK.store(-1, Ordering::Relaxed);
    home.own = None;
    home.refused = None;
}
