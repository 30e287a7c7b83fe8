//! Who in this process wants to hear of which socket: interests of epoll sets, and threads that sleep.
//!
//! One mutex for the process. A lane's events come in through [`fire`]; it lists the socket's interests as ready
//! and gathers the sleepers to wake. Interests follow the open file description, as the kernel's do: they go when
//! the last descriptor of the socket does, or when the epoll instance does.

mod interest;
mod sleep;
mod spin;
mod turns;

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use interest::{
    Move, Watch, accepts, add, collect, forget_epoll, forget_sock, list_shared, list_view, listens, members,
    modify, moves, new_epoll, note_listener, peek, remove, spread, take_watches,
};
pub(crate) use sleep::{FOREIGN_WAIT_NS, Wait, Wakes, block, nudge_poller, wake_all};
pub(crate) use spin::{Waits, configure as configure_spin};
pub(crate) use turns::Target;

use crate::sock::Sock;
use interest::Interests;
use sleep::Sleepers;

/// No interest.
pub(crate) const NONE: u32 = u32::MAX;

struct Hub {
    interests: Interests,
    sleepers: Sleepers,
}

static HUB: Mutex<Hub> = Mutex::new(Hub { interests: Interests::new(), sleepers: Sleepers::new() });
/// Grows whenever something may have become ready; a thread that looked before may not sleep after.
static FIRED: AtomicU64 = AtomicU64::new(0);

fn hub() -> MutexGuard<'static, Hub> {
    HUB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Take this before looking whether something is ready, and hand it to [`block`].
pub(crate) fn seen() -> u64 {
    FIRED.load(Ordering::Acquire)
}

/// Something happened at `sock`: lists its interests, and adds the sleepers to wake to `wakes`.
pub(crate) fn fire(sock: &'static Sock, wakes: &mut Wakes) {
    let mut hub = hub();
    FIRED.fetch_add(1, Ordering::Release);
    let Hub { interests, sleepers } = &mut *hub;
    let turns = &mut sleepers.turns;
    turns.wake_for_sock(sock, &mut |w| wakes.push(w));
    interests.list_all_of(sock, |epoll| turns.wake_for_epoll(epoll, &mut |w| wakes.push(w)));
}

/// Holds the hub over a fork, so that the child finds it whole.
pub(crate) struct Frozen {
    _guard: MutexGuard<'static, Hub>,
}

/// Takes the hub for a fork.
pub(crate) fn freeze() -> Frozen {
    Frozen { _guard: hub() }
}

/// In the child: the other threads are gone.
pub(crate) fn after_fork_in_child() {
    hub().sleepers = Sleepers::new();
}
