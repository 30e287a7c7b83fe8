//! ICMP errors about segments of ours (RFC 1122 4.2.3.9, RFC 1191, RFC 5927 4).

use ::state::{DropReason, FlowKey, LaneMem};
use base::{Instant, SeqNum};
use wire::Sign;

use super::conn::{Conn, Fate, conn};
use super::{State, TIMESTAMPS_BYTES, flag, headers_to, table};
use crate::errors::SockError;
use crate::icmp::{Fault, Report};

/// Smallest MTU of a path that is believed, bytes (Linux's min_pmtu): a forged error must not cut data to crumbs.
const PATH_MTU_MIN: u16 = 552;
/// The same over IPv6 (RFC 8201 4: a node must not go below it, whatever it is told).
const PATH_MTU_MIN_V6: u16 = wire::ipv6::MTU_MIN as u16;
/// MTUs to try when the router does not say (RFC 1191 7), descending.
const PLATEAUS: [u16; 6] = [32_000, 17_914, 8166, 4352, 1492, 1006];

/// Takes an error about a segment of ours.
pub(crate) fn handle_report(mem: &mut LaneMem<'_>, now: Instant, report: &Report) {
    let key = FlowKey {
        local: report.local.addr,
        remote: report.remote.addr,
        local_port: report.local.port,
        remote_port: report.remote.port,
    };
    let Some(at) = table::find(mem, &key) else { return };
    let Some(mut c) = conn(mem, now, at) else { return };
    // RFC 5927 4.1: the quoted sequence number must be of something that is in flight.
    let quoted = SeqNum(report.word);
    if quoted.before(c.hot.snd.una) || quoted.at_or_after(c.hot.snd.nxt) {
        return;
    }
    // RFC 5925 7.8: who can forge nothing else must not end or slow a signed connection by an error message; while it is being opened it may, as in Linux.
    if matches!(c.sign(), Sign::Ao { .. }) && c.state().is_synchronized() {
        c.drop_packet(DropReason::IcmpIgnored);
        return;
    }
    let error = match report.fault {
        Fault::TooBig(mtu) => {
            c.path_is_narrower(mtu);
            c.arm();
            return;
        }
        Fault::Refused => SockError::Refused,
        Fault::HostUnreachable => SockError::HostUnreachable,
        Fault::NetUnreachable => SockError::NetUnreachable,
    };
    // RFC 1122 4.2.3.9, RFC 5927 5.2: an open connection goes on trying; an attempt to connect ends, as in Linux.
    if c.state() == State::SynSent {
        table::settle(mem, now, at, Fate::Dead(error));
    }
}

impl Conn<'_, '_> {
    /// A router dropped a segment as too long for a link of `mtu` bytes (RFC 1191 3, RFC 8201 4): smaller ones from now on.
    fn path_is_narrower(&mut self, mtu: u16) {
        let options = if self.any(flag::TIMESTAMPS) { TIMESTAMPS_BYTES } else { 0 };
        let headers = headers_to(self.hot.key.remote) + options + self.sign().len_bytes() as u16;
        let least = if self.hot.key.remote.is_v4() { PATH_MTU_MIN } else { PATH_MTU_MIN_V6 };
        let sent = self.hot.mss.saturating_add(headers);
        let mtu = if mtu == 0 { PLATEAUS.into_iter().find(|p| *p < sent).unwrap_or(0) } else { mtu };
        let mss = mtu.max(least) - headers;
        if mss >= self.hot.mss || !self.state().is_synchronized() {
            return;
        }
        self.hot.mss = mss;
        self.note_path_told(mss);
        // RFC 1191 6.5: that is no congestion, so what was dropped goes again without a smaller window.
        self.resend_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plateaus_leave_room_for_headers() {
        const { assert!(PATH_MTU_MIN > crate::tcp::HEADERS_V4 + TIMESTAMPS_BYTES) };
        const { assert!(PATH_MTU_MIN_V6 > crate::tcp::HEADERS_V6 + TIMESTAMPS_BYTES) };
        assert!(PLATEAUS.iter().all(|p| *p > PATH_MTU_MIN));
        assert!(PLATEAUS.is_sorted_by(|a, b| a > b));
    }
}
