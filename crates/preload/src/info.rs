//! Answers to `getsockopt` in the kernel's binary form, TCP_INFO among them.

use engine::{Algorithm, TcpInfo};

/// Room for the longest answer.
pub(crate) const ANSWER_BYTES: usize = 256;
/// Bytes of an algorithm's name in TCP_CONGESTION (TCP_CA_NAME_MAX).
const NAME_BYTES: usize = 16;
/// Bytes of `struct tcp_info` up to and including `tcpi_delivery_rate`.
const TCP_INFO_BYTES: usize = 168;

/// Puts `pieces` one behind the other; gives their length.
pub(crate) fn put<const N: usize>(bytes: &mut [u8; ANSWER_BYTES], pieces: &[[u8; N]]) -> usize {
    for (to, from) in bytes.iter_mut().zip(pieces.iter().flatten()) {
        *to = *from;
    }
    (pieces.len() * N).min(ANSWER_BYTES)
}

/// The algorithm that the value of a TCP_CONGESTION names: as the kernel, up to a NUL or 15 bytes.
pub(crate) fn algorithm_named(value: &[u8]) -> Option<Algorithm> {
    let value = value.get(..NAME_BYTES - 1).unwrap_or(value);
    Algorithm::from_name(value.split(|b| *b == 0).next().unwrap_or(&[]))
}

/// `algorithm` as TCP_CONGESTION returns it.
pub(crate) fn name_of(algorithm: Algorithm) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().zip(algorithm.name().bytes()) {
        *to = from;
    }
    name
}

/// Writes `struct tcp_info` (linux/tcp.h); fields we have no figure for are 0. Gives its length.
pub(crate) fn tcp_info(info: &TcpInfo, bytes: &mut [u8; ANSWER_BYTES]) -> usize {
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const WSCALE: u8 = 4;
    const ECN: u8 = 8;
    const SYN_DATA: u8 = 32;
    let mut flags = if info.timestamps { TIMESTAMPS } else { 0 };
    if info.sack {
        flags |= SACK;
    }
    if info.snd_shift > 0 || info.rcv_shift > 0 {
        flags |= WSCALE;
    }
    if info.congestion.ecn {
        flags |= ECN;
    }
    flags |= if info.syn_data { SYN_DATA } else { 0 };
    let mss = u32::from(info.snd_mss.max(1));
    let segments = |bytes: u32| bytes.div_ceil(mss);
    let head = [
        info.state.kernel_number(),
        info.congestion.phase.kernel_number(),
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
    let longs = [info.congestion.pacing_rate, info.congestion.max_pacing_rate, info.bytes_out, info.bytes_in];
    // tcpi_segs_out to tcpi_data_segs_out; of these only the unsent bytes are known.
    let counts = [0, 0, info.unsent_bytes, 0, 0, 0];
    let all = head
        .into_iter()
        .chain(words.into_iter().flat_map(u32::to_ne_bytes))
        .chain(longs.into_iter().flat_map(u64::to_ne_bytes))
        .chain(counts.into_iter().flat_map(u32::to_ne_bytes))
        .chain(info.congestion.delivery_rate.to_ne_bytes());
    for (to, from) in bytes.iter_mut().zip(all) {
        *to = from;
    }
    TCP_INFO_BYTES
}
