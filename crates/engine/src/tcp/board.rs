//! The SACK scoreboard: what the peer has beyond SND.UNA (RFC 2018 4, RFC 6675 3).

use ::state::{BOARD_RANGES, LaneMem, RackState, Scoreboard, SeqRange};
use base::{Idx, Instant, SeqNum};

use super::conn::Conn;
use super::segment::Seg;
use super::{resent, rtt};

/// The runs in use.
fn runs(board: &Scoreboard) -> &[SeqRange] {
    board.ranges.get(..board.count as usize).unwrap_or(&board.ranges)
}

/// How many scoreboards nobody has; counted up to `most`.
pub(super) fn spare(mem: &LaneMem<'_>, most: u32) -> u32 {
    let mut count = mem.boards.len().saturating_sub(mem.globals.tcp.fresh_board).min(most);
    let mut at = mem.globals.tcp.free_board;
    while count < most
        && let Some(board) = mem.boards.get(at)
    {
        count += 1;
        at = board.next;
    }
    count
}

impl Conn<'_, '_> {
    /// What the peer has, ascending.
    pub(super) fn sacked_runs(&self) -> &[SeqRange] {
        self.boards.get(self.cold.board).map_or(&[], runs)
    }

    /// Bytes the peer has beyond SND.UNA.
    pub(super) fn sacked_bytes(&self) -> u32 {
        self.boards.get(self.cold.board).map_or(0, |b| b.bytes)
    }

    /// Notes what the blocks of `seg` report. True: something new.
    pub(super) fn update_board(&mut self, seg: &Seg) -> bool {
        let (una, nxt) = (self.hot.snd.una, self.hot.snd.nxt);
        let mut news = false;
        let twice = self.note_twice(seg);
        for block in seg.options.sack.as_slice().iter().skip(usize::from(twice)) {
            // A block that does not lie in what is in flight is ignored (RFC 2018 4).
            let sane = block.left.before(block.right)
                && block.left.at_or_after(una)
                && block.right.since(una) <= nxt.since(una);
            if !sane || !self.ensure_board() {
                continue;
            }
            self.delivered_between(block.left, block.right, seg);
            let clock = rtt::clock_us(self.now);
            if let Some(board) = self.boards.get_mut(self.cold.board) {
                let run = SeqRange { left: block.left, right: block.right };
                news |= insert(board, run, clock);
            }
        }
        news
    }

    /// Forgets what is below SND.UNA.
    pub(super) fn trim_board(&mut self) {
        let una = self.hot.snd.una;
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let count = board.count.min(BOARD_RANGES as u32) as usize;
        let gone = board.ranges.iter().take(count).take_while(|r| r.right.at_or_before(una)).count();
        board.ranges.copy_within(gone..count, 0);
        board.since_us.copy_within(gone..count, 0);
        board.count = (count - gone) as u32;
        if let Some(first) = board.ranges.first_mut()
            && count > gone
            && first.left.before(una)
        {
            first.left = una;
        }
        board.bytes = runs(board).iter().map(|r| r.right.since(r.left)).fold(0, u32::saturating_add);
        resent::trim(board, una);
    }

    /// Forgets what the peer reported and what was sent again.
    pub(super) fn forget_reports(&mut self) {
        if let Some(board) = self.boards.get_mut(self.cold.board) {
            (board.count, board.bytes, board.resent_count) = (0, 0, 0);
        }
    }

    /// Has what `board`, of the lane that the connection was on, says.
    pub(super) fn take_board_over(&mut self, board: &Scoreboard) {
        if self.ensure_board()
            && let Some(own) = self.boards.get_mut(self.cold.board)
        {
            *own = Scoreboard { next: own.next, ..*board };
        }
    }

    /// Has a scoreboard from now on, if there is one left.
    pub(super) fn ensure_board(&mut self) -> bool {
        if !self.cold.board.is_none() {
            return true;
        }
        let (free, fresh) = (self.tcp.free_board, Idx::new(self.tcp.fresh_board));
        let at = free.some().unwrap_or(fresh);
        let Some(board) = self.boards.get_mut(at) else { return false };
        if free.is_none() {
            self.tcp.fresh_board = self.tcp.fresh_board.saturating_add(1);
        } else {
            self.tcp.free_board = board.next;
        }
        board.next = Idx::NONE;
        (board.count, board.bytes, board.resent_count) = (0, 0, 0);
        let una = self.hot.snd.una;
        board.rack = RackState {
            reorder_at: Instant::NEVER,
            fack: una,
            resent_top: una,
            twice_round: una,
            forgotten_until: una,
            ..RackState::default()
        };
        self.cold.board = at;
        true
    }

    /// Gives the scoreboard up.
    pub(super) fn drop_board(&mut self) {
        let at = core::mem::replace(&mut self.cold.board, Idx::NONE);
        if let Some(board) = self.boards.get_mut(at) {
            board.count = 0;
            board.next = core::mem::replace(&mut self.tcp.free_board, at);
        }
    }

    /// The first run of bytes at or after `from` and before `to` that the peer has not reported.
    pub(super) fn hole(&self, from: SeqNum, to: SeqNum) -> Option<SeqRange> {
        let mut left = from;
        for run in self.sacked_runs() {
            if run.right.at_or_before(left) {
                continue;
            }
            if run.left.after(left) {
                let right = run.left.earlier(to);
                return left.before(right).then_some(SeqRange { left, right });
            }
            left = run.right;
        }
        left.before(to).then_some(SeqRange { left, right: to })
    }

    /// Bytes of `from .. to` that the peer has not reported.
    pub(super) fn unsacked(&self, from: SeqNum, to: SeqNum) -> u32 {
        if !from.before(to) {
            return 0;
        }
        let mut bytes = to.since(from);
        for run in self.sacked_runs() {
            let (left, right) = (run.left.later(from), run.right.earlier(to));
            if left.before(right) {
                bytes = bytes.saturating_sub(right.since(left));
            }
        }
        bytes
    }
}

/// Adds `run`, reported at `clock` us, to `board`; true: it holds something new. A run that finds no room is forgotten, as SACK is
/// advisory.
fn insert(board: &mut Scoreboard, mut run: SeqRange, clock: u32) -> bool {
    let mut since = clock;
    let count = board.count.min(BOARD_RANGES as u32) as usize;
    let old = board.ranges.get(..count).unwrap_or(&[]);
    let first = old.iter().take_while(|r| r.right.before(run.left)).count();
    let joined = old.iter().skip(first).take_while(|r| r.left.at_or_before(run.right)).count();
    if let Some(r) = old.get(first).filter(|_| joined == 1)
        && r.left.at_or_before(run.left)
        && r.right.at_or_after(run.right)
    {
        return false;
    }
    for r in old.iter().skip(first).take(joined) {
        run.left = run.left.earlier(r.left);
        run.right = run.right.later(r.right);
    }
    for us in board.since_us.iter().take(count).skip(first).take(joined) {
        since = if clock.wrapping_sub(*us) > clock.wrapping_sub(since) { *us } else { since };
    }
    if joined == 0 {
        if count == BOARD_RANGES {
            return false;
        }
        board.ranges.copy_within(first..count, first + 1);
        board.since_us.copy_within(first..count, first + 1);
    } else {
        board.ranges.copy_within(first + joined..count, first + 1);
        board.since_us.copy_within(first + joined..count, first + 1);
    }
    if let (Some(slot), Some(us)) = (board.ranges.get_mut(first), board.since_us.get_mut(first)) {
        (*slot, *us) = (run, since);
    }
    board.count = (count + 1 - joined) as u32;
    board.bytes = runs(board).iter().map(|r| r.right.since(r.left)).fold(0, u32::saturating_add);
    true
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A board with nothing on it.
    pub(in super::super) fn board() -> Scoreboard {
        Scoreboard {
            ranges: [SeqRange::default(); BOARD_RANGES],
            since_us: [0; BOARD_RANGES],
            resent: [::state::Resent::default(); ::state::BOARD_RESENT],
            rack: RackState::default(),
            count: 0,
            bytes: 0,
            next: Idx::NONE,
            resent_count: 0,
        }
    }

    fn run(left: u32, right: u32) -> SeqRange {
        SeqRange { left: SeqNum(left), right: SeqNum(right) }
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut b = board();
        assert!(insert(&mut b, run(10, 20), 1));
        assert!(insert(&mut b, run(40, 50), 1));
        assert!(insert(&mut b, run(25, 30), 1));
        assert!(!insert(&mut b, run(12, 20), 1));
        assert_eq!(runs(&b), &[run(10, 20), run(25, 30), run(40, 50)]);
        assert!(insert(&mut b, run(20, 26), 1));
        assert_eq!(runs(&b), &[run(10, 30), run(40, 50)]);
        assert!(insert(&mut b, run(5, 60), 1));
        assert_eq!((runs(&b), b.bytes), (&[run(5, 60)][..], 55));
    }

    #[test]
    fn a_full_board_forgets_what_is_new() {
        let mut b = board();
        for i in 0..BOARD_RANGES as u32 {
            assert!(insert(&mut b, run(i * 10, i * 10 + 5), 1));
        }
        assert!(!insert(&mut b, run(9990, 9995), 1));
        assert_eq!(b.count as usize, BOARD_RANGES);
        assert!(insert(&mut b, run(3, 12), 1));
        assert_eq!(b.count as usize, BOARD_RANGES - 1);
    }

    #[test]
    fn runs_order_across_the_wrap_of_sequence_space() {
        let mut b = board();
        assert!(insert(&mut b, run(5, 9), 1));
        assert!(insert(&mut b, run(u32::MAX - 9, u32::MAX - 3), 1));
        assert_eq!(runs(&b), &[run(u32::MAX - 9, u32::MAX - 3), run(5, 9)]);
        assert!(insert(&mut b, run(u32::MAX - 3, 5), 1));
        assert_eq!(runs(&b), &[run(u32::MAX - 9, 9)]);
        assert_eq!(b.bytes, 19);
    }
}
