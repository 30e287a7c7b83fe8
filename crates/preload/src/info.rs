//! Answers to `getsockopt` in the kernel's binary form, TCP_INFO among them.

use engine::{State, TcpInfo};

/// Room for the longest answer.
pub(crate) const ANSWER_BYTES: usize = 256;
/// Our congestion control (RFC 5681 with SACK recovery), by the name Linux has for it.
pub(crate) const CONGESTION: &[u8] = b"reno";
/// [`CONGESTION`] as TCP_CONGESTION returns it.
pub(crate) const CONGESTION_16: &[u8; 16] = b"reno\0\0\0\0\0\0\0\0\0\0\0\0";
/// Receive buffer that is told when none was set, bytes; Linux tells twice this.
pub(crate) const RCV_BUF: u32 = 65_536;
/// Send buffer that is told when none was set, bytes.
pub(crate) const SND_BUF: u32 = 65_536;
/// Bytes of `struct tcp_info` up to and including `tcpi_bytes_received` and segment counts.
const TCP_INFO_BYTES: usize = 168;

/// Puts `pieces` one behind the other; gives their length.
pub(crate) fn put<const N: usize>(bytes: &mut [u8; ANSWER_BYTES], pieces: &[[u8; N]]) -> usize {
    for (to, from) in bytes.iter_mut().zip(pieces.iter().flatten()) {
        *to = *from;
    }
    (pieces.len() * N).min(ANSWER_BYTES)
}

/// `tcpi_state`: the kernel's numbers (include/net/tcp_states.h).
const fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynRcvd => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}

/// Writes `struct tcp_info` (linux/tcp.h); fields we have no figure for are 0. Gives its length.
pub(crate) fn tcp_info(info: &TcpInfo, bytes: &mut [u8; ANSWER_BYTES]) -> usize {
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const WSCALE: u8 = 4;
    /// TCP_CA_Recovery.
    const RECOVERY: u8 = 3;
    let mut flags = if info.timestamps { TIMESTAMPS } else { 0 };
    if info.sack {
        flags |= SACK;
    }
    if info.snd_shift > 0 || info.rcv_shift > 0 {
        flags |= WSCALE;
    }
    let mss = u32::from(info.snd_mss.max(1));
    let segments = |bytes: u32| bytes.div_ceil(mss);
    let head = [
        state_number(info.state),
        if info.recovering { RECOVERY } else { 0 },
        info.backoff,
        0,
        info.backoff,
        flags,
        info.snd_shift << 4 >> 4 | info.rcv_shift << 4,
        0,
    ];
    let words = [
        info.rto_us,
        40_000,
        u32::from(info.snd_mss),
        u32::from(info.rcv_mss),
        segments(info.unacked_bytes),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1500,
        info.rcv_wnd_bytes,
        info.rtt_us,
        info.rtt_var_us,
        segments(info.ssthresh_bytes),
        segments(info.cwnd_bytes),
        u32::from(info.snd_mss),
        3,
        0,
        info.rcv_wnd_bytes,
        info.retransmits,
    ];
    let longs = [0, u64::MAX, info.bytes_out, info.bytes_in];
    let all = head
        .into_iter()
        .chain(words.into_iter().flat_map(u32::to_ne_bytes))
        .chain(longs.into_iter().flat_map(u64::to_ne_bytes));
    for (to, from) in bytes.iter_mut().zip(all) {
        *to = from;
    }
    TCP_INFO_BYTES
}
