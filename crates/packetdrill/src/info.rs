//! TCP_INFO in the kernel's binary form (linux/tcp.h `struct tcp_info`); fields there is no figure for are 0.

use engine::TcpInfo;

/// Bytes of the structure up to and including `tcpi_total_rto_time`, as Linux 6.7 and later has it.
const BYTES: usize = 248;

struct Record([u8; BYTES]);

impl Record {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(to) = self.0.get_mut(at..at + N) {
            to.copy_from_slice(&bytes);
        }
    }

    fn word(&mut self, at: usize, value: u32) {
        self.put(at, value.to_ne_bytes());
    }

    fn long(&mut self, at: usize, value: u64) {
        self.put(at, value.to_ne_bytes());
    }
}

/// `info` as `struct tcp_info`.
pub(crate) fn tcp_info(info: &TcpInfo) -> Vec<u8> {
    use core::mem::offset_of;
    use libc::tcp_info as T;
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const WSCALE: u8 = 4;
    let mut record = Record([0; BYTES]);
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    let scaled = info.snd_shift > 0 || info.rcv_shift > 0;
    let options = bit(info.timestamps, TIMESTAMPS) | bit(info.sack, SACK) | bit(scaled, WSCALE);
    record.put(offset_of!(T, tcpi_state), [info.state.kernel_number()]);
    record.put(offset_of!(T, tcpi_ca_state), [info.congestion.phase.kernel_number()]);
    record.put(offset_of!(T, tcpi_retransmits), [info.backoff]);
    record.put(offset_of!(T, tcpi_backoff), [info.backoff]);
    record.put(offset_of!(T, tcpi_options), [options]);
    record.put(offset_of!(T, tcpi_snd_rcv_wscale), [info.snd_shift & 15 | info.rcv_shift << 4]);
    let mss = u32::from(info.snd_mss.max(1));
    let segments = |bytes: u32| bytes.div_ceil(mss);
    record.word(offset_of!(T, tcpi_rto), info.rto_us);
    record.word(offset_of!(T, tcpi_ato), 40_000);
    record.word(offset_of!(T, tcpi_snd_mss), u32::from(info.snd_mss));
    record.word(offset_of!(T, tcpi_rcv_mss), u32::from(info.rcv_mss));
    record.word(offset_of!(T, tcpi_unacked), segments(info.unacked_bytes));
    record.word(offset_of!(T, tcpi_pmtu), 1500);
    record.word(offset_of!(T, tcpi_rcv_ssthresh), info.rcv_wnd_bytes);
    record.word(offset_of!(T, tcpi_rtt), info.rtt_us);
    record.word(offset_of!(T, tcpi_rttvar), info.rtt_var_us);
    record.word(offset_of!(T, tcpi_snd_ssthresh), ssthresh(info, mss));
    record.word(offset_of!(T, tcpi_snd_cwnd), info.cwnd_bytes / mss);
    record.word(offset_of!(T, tcpi_advmss), u32::from(info.rcv_mss));
    record.word(offset_of!(T, tcpi_reordering), 3);
    record.word(offset_of!(T, tcpi_rcv_space), info.rcv_wnd_bytes);
    record.word(offset_of!(T, tcpi_total_retrans), info.retransmits);
    record.long(offset_of!(T, tcpi_pacing_rate), info.congestion.pacing_rate);
    record.long(offset_of!(T, tcpi_max_pacing_rate), info.congestion.max_pacing_rate);
    record.long(offset_of!(T, tcpi_delivery_rate), info.congestion.delivery_rate);
    let acked = info.bytes_out.saturating_sub(u64::from(info.unacked_bytes));
    record.long(offset_of!(T, tcpi_bytes_acked), acked);
    record.long(offset_of!(T, tcpi_bytes_received), info.bytes_in);
    record.word(offset_of!(T, tcpi_notsent_bytes), info.unsent_bytes);
    record.long(offset_of!(T, tcpi_bytes_sent), info.bytes_out);
    record.word(offset_of!(T, tcpi_snd_wnd), info.snd_wnd_bytes);
    record.0.to_vec()
}

/// The threshold in segments; Linux tells 2^31-1 as long as there was no loss.
fn ssthresh(info: &TcpInfo, mss: u32) -> u32 {
    const INFINITE: u32 = 0x7fff_ffff;
    if info.ssthresh_bytes >= INFINITE { INFINITE } else { info.ssthresh_bytes / mss }
}
