//! Explicit congestion notification (RFC 3168): agreeing on it, echoing marks to the peer, and answering the peer's echoes; and the receiver's
//! part of DCTCP (RFC 8257 3.2), which echoes each mark by itself.
//!
//! That a connection uses ECN stands in the ECN field of its TOS option: ECT(0), which new data is sent with. Everything else is sent without
//! (RFC 3168 6.1.4 to 6.1.6).

use ::state::{TcbCold, TcpGlobals};
use base::SeqNum;
use wire::TcpFlags;

use super::congestion::Algorithm;
use super::conn::Conn;
use super::segment::Seg;
use super::{cc_flag, flag};

/// ECT(0) in the ECN field.
const ECT: u8 = 2;
/// CE, and the mask of the field.
pub(super) const CE: u8 = 3;

/// Whether connections use ECN (net.ipv4.tcp_ecn).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Ecn {
    /// When the peer asks (Linux's 2).
    #[default]
    Asked = 0,
    /// Never (Linux's 0), but for DCTCP.
    Never = 1,
    /// We ask, too (Linux's 1).
    Ask = 2,
}

/// Does a connection with `algorithm` ask for ECN?
fn asks(tcp: &TcpGlobals, algorithm: Algorithm) -> bool {
    // BBR has no answer to marks yet.
    (tcp.ecn == Ecn::Ask as u8 && algorithm != Algorithm::Bbr) || algorithm == Algorithm::Dctcp
}

/// Does a listener whose connections have `algorithm` agree with the SYN `seg` on ECN (RFC 3168 6.1.1)?
pub(super) fn accepts(tcp: &TcpGlobals, algorithm: Algorithm, seg: &Seg) -> bool {
    // RFC 3168 6.1.1: a SYN is not sent with ECT; as Linux, one that is says that somebody on the path sets the field.
    let plain = seg.ecn == 0 || seg.flags.intersects(TcpFlags::AE);
    seg.flags.contains(TcpFlags::ECE | TcpFlags::CWR)
        && (algorithm == Algorithm::Dctcp || (plain && tcp.ecn != Ecn::Never as u8))
        && algorithm != Algorithm::Bbr
}

/// `tos` without its ECN field, which is not the program's to set.
pub(super) const fn without(tos: u8) -> u8 {
    tos & !CE
}

/// The control bits by which a SYN (`first`) or SYN,ACK that is about to go out speaks of ECN.
#[inline]
pub(super) fn of_syn(cold: &mut TcbCold, tcp: &TcpGlobals, first: bool) -> TcpFlags {
    if !first {
        // RFC 3168 6.1.1: an ECN-setup SYN-ACK has ECE and not CWR.
        return if is_agreed(cold) { TcpFlags::ECE } else { TcpFlags::NONE };
    }
    // RFC 3168 6.1.1.1: a SYN that nothing answered goes again without, lest something on the path drops it.
    if cold.loss.backoff == 0 && asks(tcp, Algorithm::chosen(cold.options.congestion, tcp.congestion)) {
        cold.cc_flags |= cc_flag::ECN_ASKED;
        return TcpFlags::ECE | TcpFlags::CWR;
    }
    cold.cc_flags &= !cc_flag::ECN_ASKED;
    TcpFlags::NONE
}

/// Has a connection with this row agreed on ECN?
#[inline]
const fn is_agreed(cold: &TcbCold) -> bool {
    cold.options.tos & CE != 0
}

impl Conn<'_, '_> {
    /// Has the connection agreed on ECN?
    #[inline]
    pub(super) fn uses_ecn(&self) -> bool {
        is_agreed(self.cold)
    }

    fn chosen_algorithm(&self) -> Algorithm {
        Algorithm::chosen(self.cold.options.congestion, self.tcp.congestion)
    }

    /// The peer's SYN or SYN,ACK: agrees on ECN, or not (RFC 3168 6.1.1).
    pub(super) fn agree_on_ecn(&mut self, seg: &Seg) {
        let algorithm = self.chosen_algorithm();
        let agreed = if seg.flags.is_ack() {
            let asked = self.cold.cc_flags & cc_flag::ECN_ASKED != 0;
            let told = seg.flags.intersects(TcpFlags::ECE) && !seg.flags.intersects(TcpFlags::CWR);
            asked && told && algorithm != Algorithm::Bbr
        } else {
            accepts(self.tcp, algorithm, seg)
        };
        if agreed {
            self.cold.options.tos = without(self.cold.options.tos) | ECT;
        }
        self.choose_way();
    }

    /// Which way segments take: the short one decides nothing, so it is not for who has marks to tell or to count, a
    /// pace to keep, urgent data or a signature to make.
    pub(super) fn choose_way(&mut self) {
        let telling = self.cold.cc_flags & (cc_flag::ECE | cc_flag::CWR) != 0;
        let counting = self.uses_ecn() && self.chosen_algorithm() == Algorithm::Dctcp;
        if telling
            || counting
            || self.cold.cc_flags & cc_flag::PACED != 0
            || self.has_pacing_limit()
            || self.searches_path()
            || self.cold.ooo.urgent != 0
            || self.cold.ooo.sign != 0
        {
            self.set(flag::SPECIAL);
        } else {
            self.clear(flag::SPECIAL);
        }
    }

    /// The ECN field of what is sent: ECT for new data (RFC 3168 6.1.5: not for what is sent again).
    pub(super) fn ecn_of(&self, seq: SeqNum, len: u32) -> u8 {
        let new = len > 0 && seq.at_or_after(self.hot.snd.nxt);
        if new { self.cold.options.tos & CE } else { 0 }
    }

    /// The control bits by which a segment from `seq` on with `len` bytes tells what the peer must know of marks and reductions.
    pub(super) fn tell_ecn(&mut self, seq: SeqNum, len: u32) -> TcpFlags {
        let mut flags = TcpFlags::NONE;
        if !self.uses_ecn() {
            return flags;
        }
        if self.cold.cc_flags & cc_flag::ECE != 0 {
            flags = flags | TcpFlags::ECE;
        }
        // RFC 3168 6.1.2: the first new data after a reduction says so.
        if self.cold.cc_flags & cc_flag::CWR != 0 && self.ecn_of(seq, len) != 0 {
            flags = flags | TcpFlags::CWR;
        }
        flags
    }

    /// `flags` went out.
    pub(super) fn told_ecn(&mut self, flags: TcpFlags) {
        if flags.intersects(TcpFlags::CWR) {
            self.cold.cc_flags &= !cc_flag::CWR;
            self.choose_way();
        }
    }

    /// The marks of an acceptable segment (RFC 3168 6.1.3): CE is echoed until the peer says that it has reduced its window.
    pub(super) fn note_ecn(&mut self, seg: &Seg) {
        if !self.uses_ecn() {
            return;
        }
        if self.chosen_algorithm() == Algorithm::Dctcp {
            self.note_mark(seg);
            return;
        }
        if seg.flags.intersects(TcpFlags::CWR) {
            self.cold.cc_flags &= !cc_flag::ECE;
            if seg.len > 0 {
                // The peer's window is small now: it needs the ACK.
                self.ack_now();
            }
        }
        // RFC 3168 6.1.4, 6.1.6: marks of segments without data count for nothing.
        if seg.len > 0 && seg.ecn == CE {
            self.cold.cc_flags |= cc_flag::ECE;
        }
        self.choose_way();
    }

    /// DCTCP (RFC 8257 3.2): ECE says whether the data that an ACK is for was marked; when that changes, what came before is acknowledged at
    /// once, by an ACK of its own.
    fn note_mark(&mut self, seg: &Seg) {
        let marked = seg.ecn == CE;
        let before = self.cold.cc_flags & cc_flag::ECE != 0;
        if seg.len == 0 || marked == before {
            return;
        }
        let nxt = self.hot.rcv.nxt;
        if nxt.after(self.hot.rcv.ack_sent)
            && let Some(w) = self.window()
        {
            (w.row.dctcp.prior_ack, w.row.dctcp.prior) = (nxt, 1 | u32::from(before) << 1);
            self.ack_now();
        }
        self.cold.cc_flags ^= cc_flag::ECE;
    }

    /// The ACK that is still owed for data with another mark than the latest: its number, and whether that was marked.
    pub(super) fn take_prior_ack(&mut self) -> Option<(SeqNum, bool)> {
        if self.cold.cc_flags & cc_flag::ROW == 0 || !self.any(flag::SPECIAL) {
            return None;
        }
        let dctcp = &mut self.window()?.row.dctcp;
        let prior = core::mem::take(&mut dctcp.prior);
        let ack = dctcp.prior_ack;
        (prior != 0 && ack.after(self.hot.rcv.ack_sent)).then_some((ack, prior & 2 != 0))
    }

    /// The window was reduced: the peer is told, if it speaks ECN.
    pub(super) fn announce_reduction(&mut self) {
        if self.uses_ecn() {
            self.cold.cc_flags |= cc_flag::CWR;
            self.choose_way();
        }
    }

    /// `seg` echoes marks (RFC 3168 6.1.2): the window comes down, once a round trip. A connection that answers a loss does so already.
    pub(super) fn on_echo(&mut self, seg: &Seg) {
        let echoed = seg.flags.intersects(TcpFlags::ECE) && self.uses_ecn();
        if !echoed || self.any(flag::RECOVERY | flag::LOSS) || self.hot.snd.una == self.hot.snd.nxt {
            return;
        }
        let (flight, una) = (self.flight(), seg.ack);
        let Some(mut w) = self.window() else { return };
        if w.is_reduced() && una.at_or_before(w.row.reduced) {
            return;
        }
        w.reduce_for_mark(flight);
        self.counters.tcp.marks_echoed = self.counters.tcp.marks_echoed.wrapping_add(1);
        self.announce_reduction();
    }
}
