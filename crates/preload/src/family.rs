//! Processes forked from one another that share lanes: fork generations, and who still uses which socket.
//!
//! One shared word for each socket of each lane: bit n says that the family member in slot n holds it. All zero, the usual case, means
//! that only the process that made it does. A fork gives the child a slot and its bit on every open connection; the last to let go
//! closes the connection. The child keeps one end of a pipe that no other process has; when it execs or dies, the parent sees the
//! hang-up and lets go in its name.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;

use base::LaneId;
use base::limits::LANES;
use state::SockRef;

use crate::view::View;

/// Slots: bits of a word. Event queues are numbered by slot and 1.
const SLOTS: u8 = 62;
/// Of children that were forked when all slots were taken: they hold nothing of their parent's lanes.
const NO_SLOT: u8 = SLOTS;
/// Words before the sockets': which slots are taken, how many children there were, and which slots wait for others' connections.
const HEAD_WORDS: usize = 8;
const TAKERS: usize = 2;

struct Family {
    words: &'static [AtomicU64],
    rows: usize,
}

static FAMILY: OnceLock<Family> = OnceLock::new();
/// How many forks lie between the program's start and this process.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Slot of this process.
static SLOT: AtomicU32 = AtomicU32::new(0);
/// Number of this process among those that had its slot, and the others.
static TAG: AtomicU32 = AtomicU32::new(0);
/// Are there children that were forked with connections open?
static CHILDREN: AtomicU32 = AtomicU32::new(0);

/// Number of forks between the program's start and this process.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Tells this process's tokens from those of others, who had its slot and its event queues before.
pub(crate) fn tag() -> u16 {
    TAG.load(Ordering::Relaxed) as u16
}

/// Slot of this process, at most 62.
pub(crate) fn slot() -> u8 {
    SLOT.load(Ordering::Relaxed) as u8
}

/// May children of this process use its lanes?
pub(crate) fn has_children() -> bool {
    CHILDREN.load(Ordering::Relaxed) != 0
}

/// Makes the shared words, for lanes of `rows` connections, before the first lane.
pub(crate) fn found(rows: u32) {
    let rows = rows as usize;
    let bytes = (HEAD_WORDS + LANES * rows) * 8;
    if FAMILY.get().is_none()
        && let Ok(words) = sys::memory::map_anonymous(bytes as u64)
    {
        let _ = FAMILY.set(Family { words, rows });
    }
}

/// A lane begins anew: nobody holds anything on it.
pub(crate) fn begin_lane(lane: LaneId) {
    let Some(family) = FAMILY.get() else { return };
    let start = HEAD_WORDS + usize::from(lane.0) * family.rows;
    // Loads first: pages that were never written are not made.
    for word in family.words.get(start..start + family.rows).unwrap_or(&[]) {
        if word.load(Ordering::Relaxed) != 0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

fn word(view: &View, name: SockRef) -> Option<&'static AtomicU64> {
    let family = FAMILY.get()?;
    let row = name.row() as usize;
    if name.kind() != Some(state::SockKind::Tcp) || row >= family.rows {
        return None;
    }
    family.words.get(HEAD_WORDS + usize::from(view.id.0) * family.rows + row)
}

/// What the next child is in the family.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    slot: u8,
    tag: u16,
}

impl Member {
    /// Its slot; `None`: all are taken.
    pub(crate) fn slot(self) -> Option<u8> {
        (self.slot != NO_SLOT).then_some(self.slot)
    }
}

/// A place for the next child, which will hold connections if `shares`. `None`: there is no lane to share.
pub(crate) fn next_member(shares: bool) -> Option<Member> {
    let words = FAMILY.get()?.words;
    let tag = words.get(1)?.fetch_add(1, Ordering::Relaxed).wrapping_add(1) as u16;
    if !shares {
        return Some(Member { slot: slot(), tag });
    }
    // The first process has slot 0.
    let free = |taken: u64| (taken | 1).trailing_ones() as u8;
    let take = |taken: u64| (free(taken) < SLOTS).then(|| taken | 1 << free(taken));
    let taken = words.first()?.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take);
    Some(Member { slot: taken.map_or(NO_SLOT, free), tag })
}

/// As [`next_member`] when no slot is to be had.
pub(crate) fn no_member() -> Option<Member> {
    next_member(false).map(|member| Member { slot: NO_SLOT, ..member })
}

/// The child in `slot` is gone, and everything let go in its name.
pub(crate) fn free_slot(slot: u8) {
    if let Some(head) = FAMILY.get().and_then(|family| family.words.first()) {
        head.fetch_and(!(1 << slot), Ordering::AcqRel);
    }
}

/// Before a fork: the child in `slot` will hold `name` too.
pub(crate) fn share(view: &View, name: SockRef, child: u8) {
    if let Some(word) = word(view, name) {
        word.fetch_or(1 << child | 1 << slot(), Ordering::Relaxed);
        CHILDREN.store(1, Ordering::Relaxed);
    }
}

/// This process has events of a connection of its parent's come to it, not to the parent any more.
pub(crate) fn take_events() {
    if let Some(takers) = FAMILY.get().and_then(|family| family.words.get(TAKERS)) {
        let own = 1 << slot();
        if takers.load(Ordering::Relaxed) & own == 0 {
            takers.fetch_or(own, Ordering::AcqRel);
        }
    }
}

/// Have other processes called [`take_events`], maybe for connections that this one waits for too?
pub(crate) fn others_take_events() -> bool {
    if !has_children() && generation() == 0 {
        return false;
    }
    let takers = FAMILY.get().and_then(|family| family.words.get(TAKERS));
    takers.is_some_and(|takers| takers.load(Ordering::Relaxed) & !(1 << slot()) != 0)
}

/// The child in `slot` is gone. Had it called [`take_events`]?
pub(crate) fn forget_taker(slot: u8) -> bool {
    let takers = FAMILY.get().and_then(|family| family.words.get(TAKERS));
    takers.is_some_and(|takers| takers.fetch_and(!(1 << slot), Ordering::AcqRel) & 1 << slot != 0)
}

/// Does another process hold `name` too?
pub(crate) fn is_shared(view: &View, name: SockRef) -> bool {
    word(view, name).is_some_and(|word| word.load(Ordering::Relaxed) & !(1 << slot()) != 0)
}

/// The last child that shared connections with this process is gone.
pub(crate) fn no_children() {
    CHILDREN.store(0, Ordering::Relaxed);
}

/// Have processes shared `name` since it was opened?
pub(crate) fn was_shared(view: &View, name: SockRef) -> bool {
    word(view, name).is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

/// This process lets go of `name`. True: nobody else holds it, and it is to be closed.
pub(crate) fn let_go(view: &View, name: SockRef) -> bool {
    let Some(word) = word(view, name) else { return view.is_own() };
    if slot() == NO_SLOT && !view.is_own() {
        return false;
    }
    // A plain load first: without forks the word is never written, and its page never made.
    word.load(Ordering::Relaxed) == 0 || let_go_as(word, slot())
}

/// The member in `slot` is gone and lets go of `name`. True: it was the last, and `name` is to be closed.
pub(crate) fn let_go_for(view: &View, name: SockRef, slot: u8) -> bool {
    word(view, name)
        .is_some_and(|word| word.load(Ordering::Relaxed) & 1 << slot != 0 && let_go_as(word, slot))
}

fn let_go_as(word: &AtomicU64, slot: u8) -> bool {
    word.fetch_and(!(1 << slot), Ordering::AcqRel) & !(1 << slot) == 0
}

/// In a child: it is another member now.
pub(crate) fn after_fork_in_child(member: Option<Member>) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    lane::forked();
    CHILDREN.store(0, Ordering::Relaxed);
    if let Some(member) = member {
        SLOT.store(u32::from(member.slot), Ordering::Relaxed);
        TAG.store(u32::from(member.tag), Ordering::Relaxed);
    }
}
