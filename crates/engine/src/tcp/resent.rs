//! What was sent again and is on its way: a short list beside the SACKed runs, in sequence order, each run with its time (RFC 8985 5.2).
//!
//! When the list is full two neighbours become one with the later time: what it says is then late, never early.

use ::state::{BOARD_RESENT, Resent, Scoreboard, SeqRange};
use base::SeqNum;

use super::conn::Conn;

/// The runs in use.
pub(super) fn list(board: &Scoreboard) -> &[Resent] {
    board.resent.get(..board.resent_count as usize).unwrap_or(&board.resent)
}

/// Keeps of the list what `keep` says; it may change entries.
pub(super) fn retain(board: &mut Scoreboard, mut keep: impl FnMut(&mut Resent) -> bool) {
    let count = board.resent_count.min(BOARD_RESENT as u32) as usize;
    let mut kept = 0;
    for i in 0..count {
        let Some(mut entry) = board.resent.get(i).copied() else { break };
        if keep(&mut entry)
            && let Some(slot) = board.resent.get_mut(kept)
        {
            *slot = entry;
            kept += 1;
        }
    }
    board.resent_count = kept as u32;
}

/// Forgets what lies before `una`.
pub(super) fn trim(board: &mut Scoreboard, una: SeqNum) {
    retain(board, |e| {
        e.left = e.left.later(una);
        e.left.before(e.right)
    });
}

/// Forgets what lies in `range`: it was delivered, or is sent another time.
pub(super) fn cut(board: &mut Scoreboard, range: SeqRange) {
    retain(board, |e| {
        if e.left.at_or_after(range.right) || e.right.at_or_before(range.left) {
            return true;
        }
        // Of an entry with `range` in its middle only the front stays.
        if e.left.before(range.left) {
            e.right = range.left;
        } else {
            e.left = range.right;
        }
        e.left.before(e.right)
    });
}

/// Adds `new`, which replaces what is there.
pub(super) fn insert(board: &mut Scoreboard, new: Resent) {
    cut(board, SeqRange { left: new.left, right: new.right });
    let at = list(board).iter().take_while(|e| e.left.before(new.left)).count();
    if let Some(before) = at.checked_sub(1).and_then(|i| board.resent.get_mut(i))
        && before.right == new.left
        && (before.at_us, before.mark, before.passed_us) == (new.at_us, new.mark, new.passed_us)
    {
        before.right = new.right;
        return;
    }
    if board.resent_count as usize >= BOARD_RESENT {
        join_first(board);
        return insert_at(board, new, at.saturating_sub(1));
    }
    insert_at(board, new, at);
}

fn insert_at(board: &mut Scoreboard, new: Resent, at: usize) {
    let count = board.resent_count as usize;
    if count < BOARD_RESENT && at <= count {
        board.resent.copy_within(at..count, at + 1);
        if let Some(slot) = board.resent.get_mut(at) {
            *slot = new;
            board.resent_count += 1;
        }
    }
}

/// Makes one of the first two entries.
fn join_first(board: &mut Scoreboard) {
    let [first, second, ..] = &mut board.resent;
    let later = if second.at_us.wrapping_sub(first.at_us) as i32 >= 0 { *second } else { *first };
    *first = Resent { left: first.left, right: second.right, ..later };
    board.resent.copy_within(2.., 1);
    board.resent_count = board.resent_count.saturating_sub(1);
}

/// Something sent at `at_us` that ends at `right` was delivered: notes at `clock` which entries were sent before it.
pub(super) fn pass(board: &mut Scoreboard, at_us: u32, right: SeqNum, clock: u32) {
    let mut rest = None;
    retain(board, |e| {
        let age = at_us.wrapping_sub(e.at_us) as i32;
        let before = age > 0 || (age == 0 && e.left.before(right));
        if before && e.passed_us == 0 {
            if age == 0 && e.right.after(right) {
                rest = Some(Resent { left: right, ..*e });
                e.right = right;
            }
            e.passed_us = clock | 1;
        }
        true
    });
    if let Some(rest) = rest {
        insert(board, rest);
    }
}

/// Something sent once that ends at `right` was delivered: notes at `clock` which entries were sent before it.
pub(super) fn pass_by_original(board: &mut Scoreboard, right: SeqNum, clock: u32) {
    retain(board, |e| {
        if e.passed_us == 0 && e.mark.before(right) {
            e.passed_us = clock | 1;
        }
        true
    });
}

impl Conn<'_, '_> {
    /// The first run of bytes at or after `from` and before `to` that the peer has not reported and that is not on its way again.
    pub(super) fn next_hole(&self, from: SeqNum, to: SeqNum) -> Option<SeqRange> {
        let resent = self.boards.get(self.cold.board).map_or(&[][..], list);
        let mut from = from;
        for _ in 0..=BOARD_RESENT {
            let hole = self.hole(from, to)?;
            let Some(e) = resent.iter().find(|e| e.right.after(hole.left)) else { return Some(hole) };
            if e.left.after(hole.left) {
                return Some(SeqRange { left: hole.left, right: hole.right.earlier(e.left) });
            }
            from = e.right;
        }
        None
    }

    /// Bytes before `edge` that are on their way again.
    pub(super) fn resent_before(&self, edge: SeqNum) -> u32 {
        let resent = self.boards.get(self.cold.board).map_or(&[][..], list);
        resent.iter().map(|e| self.unsacked(e.left, e.right.earlier(edge))).fold(0, u32::saturating_add)
    }

    /// What was sent again is taken to be lost.
    pub(super) fn forget_resent(&mut self) {
        if let Some(board) = self.boards.get_mut(self.cold.board) {
            board.resent_count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::board;
    use super::*;

    fn entry(left: u32, right: u32, at_us: u32) -> Resent {
        Resent { left: SeqNum(left), right: SeqNum(right), mark: SeqNum(900), at_us, passed_us: 0 }
    }

    fn is(b: &Scoreboard, want: &[(u32, u32)]) -> bool {
        list(b).iter().map(|e| (e.left.0, e.right.0)).eq(want.iter().copied())
    }

    #[test]
    fn runs_sent_together_are_one_and_stay_in_order() {
        let mut b = board();
        insert(&mut b, entry(50, 60, 7));
        insert(&mut b, entry(10, 20, 7));
        insert(&mut b, entry(20, 30, 7));
        insert(&mut b, entry(30, 40, 8));
        assert!(is(&b, &[(10, 30), (30, 40), (50, 60)]));
        cut(&mut b, SeqRange { left: SeqNum(25), right: SeqNum(55) });
        assert!(is(&b, &[(10, 25), (55, 60)]));
        trim(&mut b, SeqNum(20));
        assert!(is(&b, &[(20, 25), (55, 60)]));
    }

    #[test]
    fn a_full_list_joins_its_first_two_with_the_later_time() {
        let mut b = board();
        for i in 0..=BOARD_RESENT as u32 {
            insert(&mut b, entry(i * 10, i * 10 + 5, i));
        }
        assert_eq!(list(&b).len(), BOARD_RESENT);
        let first = list(&b)[0];
        assert_eq!((first.left.0, first.right.0, first.at_us), (0, 15, 1));
        let last = BOARD_RESENT as u32;
        assert_eq!(list(&b)[BOARD_RESENT - 1], entry(last * 10, last * 10 + 5, last));
    }

    #[test]
    fn what_was_sent_before_a_delivered_one_is_passed() {
        let mut b = board();
        insert(&mut b, entry(10, 20, 5));
        insert(&mut b, entry(30, 60, 9));
        insert(&mut b, entry(70, 80, 9));
        pass(&mut b, 9, SeqNum(40), 100);
        let passed = list(&b).iter().map(|e| (e.left.0, e.right.0, e.passed_us != 0));
        assert!(passed.eq([(10, 20, true), (30, 40, true), (40, 60, false), (70, 80, false)]));
        pass_by_original(&mut b, SeqNum(900), 101);
        assert!(list(&b).iter().any(|e| e.passed_us == 0));
        pass_by_original(&mut b, SeqNum(901), 101);
        assert!(list(&b).iter().all(|e| e.passed_us != 0));
    }
}
