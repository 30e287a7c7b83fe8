//! What callers hand in and get back besides errors.

use base::{IpAddress, MacAddr, SeqNum};
use state::{Endpoint, FlowKey, Hop, SockRef};

use crate::tcp::{Algorithm, AoAlgorithm, State};

/// The way to a destination, as routes and neighbours give it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteTo {
    /// Device: index into the lane's ports.
    pub port: u8,
    /// Gateway, or the destination itself when it is on the link.
    pub next_hop: IpAddress,
    /// Ethernet address of the device.
    pub local_mac: MacAddr,
    /// Ethernet address of the next hop, if known.
    pub mac: Option<MacAddr>,
    /// Largest IP packet on the way, bytes; 0: the device's.
    pub mtu: u16,
}

impl RouteTo {
    /// Largest IP packet on the way from a device that takes `device` bytes.
    pub(crate) fn mtu_from(&self, device: u16) -> u16 {
        if self.mtu == 0 { device } else { self.mtu.min(device) }
    }
}

/// What names a next hop for those who resolve it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopKey {
    /// Device: index into the lane's ports.
    pub port: u8,
    /// The neighbour; with `by_mac` somebody who is reached by it.
    pub addr: IpAddress,
    /// Generation of the row, given back with the answer.
    pub generation: u32,
    /// The MAC is known, since something came from there; wanted is which neighbour it is ([`Engine::name_hop`](crate::Engine::name_hop)).
    pub by_mac: bool,
}

impl HopKey {
    /// The name of `hop`.
    pub(crate) fn of(hop: &Hop) -> Self {
        let by_mac = hop.is_by_mac();
        let addr = if by_mac { hop.peer } else { hop.addr };
        Self { port: hop.port, addr, generation: hop.generation, by_mac }
    }
}

/// A connection taken from a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Its name.
    pub sock: SockRef,
    /// Our end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
}

/// The peers that a key is for: all whose addresses begin with the first `prefix` bits of `addr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPeer {
    /// An address, or the beginning of one.
    pub addr: IpAddress,
    /// Bits of it that count, of the 128 that [`IpAddress`] has: 96 more than of an IPv4 address.
    pub prefix: u8,
}

/// A master key tuple of TCP-AO (RFC 5925 3.1).
#[derive(Clone, Copy, Debug)]
pub struct AoKey<'k> {
    /// The peers it is for.
    pub peer: KeyPeer,
    /// SendID: the KeyID of segments that it signs.
    pub send_id: u8,
    /// RecvID: the KeyID of segments that the peer signs with it.
    pub recv_id: u8,
    /// Algorithms of key derivation and signature.
    pub algorithm: AoAlgorithm,
    /// Bytes of a signature, 4 to 16; 12 are usual.
    pub mac_len: u8,
    /// Are the other TCP options signed too?
    pub covers_options: bool,
    /// The master key, 80 bytes at most.
    pub key: &'k [u8],
}

/// A key of a socket, as [`Engine::tcp_each_ao_key`](crate::Engine::tcp_each_ao_key) gives it.
#[derive(Clone, Copy, Debug)]
pub struct AoKeyState<'k> {
    /// The key; one for AES-128-CMAC has 16 bytes (RFC 5926 3.1.1.2).
    pub key: AoKey<'k>,
    /// Is what is sent signed with it?
    pub is_current: bool,
    /// Is the peer asked to sign with it?
    pub is_next: bool,
    /// Segments that came with its number and were signed rightly.
    pub good: u64,
    /// The same, signed wrongly.
    pub bad: u64,
}

/// What a socket that uses TCP-AO is told and has counted (TCP_AO_INFO).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AoSocket {
    /// Takes nothing that is not signed, whoever sends it.
    pub required: bool,
    /// Hears ICMP errors about open connections, which RFC 5925 7.8 has ignored.
    pub hears_icmp: bool,
    /// SendID of the key that signs what is sent.
    pub current: Option<u8>,
    /// RecvID of the key that the peer is asked to sign with.
    pub next: Option<u8>,
    /// What came.
    pub counters: AoCounters,
}

/// What came to a socket that uses TCP-AO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AoCounters {
    /// Segments signed rightly.
    pub good: u64,
    /// Segments signed wrongly.
    pub bad: u64,
    /// Signed segments for whose number there is no key.
    pub no_key: u64,
    /// Segments that should have been signed.
    pub unsigned: u64,
    /// ICMP errors that were not heard.
    pub icmp: u64,
}

/// Which directions [`Engine::shutdown`](crate::Engine::shutdown) closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// SHUT_RD.
    Read,
    /// SHUT_WR.
    Write,
    /// SHUT_RDWR.
    Both,
}

/// What congestion control is at (Linux's tcpi_ca_state).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Nothing is wrong.
    #[default]
    Open,
    /// Duplicate ACKs or SACKs came; nothing is taken for lost yet.
    Disorder,
    /// The window is coming down for an ECN echo.
    Reduced,
    /// In fast recovery.
    Recovery,
    /// In recovery from a timeout.
    Loss,
}

impl Phase {
    /// The kernel's number of it (linux/tcp.h, `enum tcp_ca_state`), as TCP_INFO tells it.
    #[must_use]
    pub const fn kernel_number(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Disorder => 1,
            Self::Reduced => 2,
            Self::Recovery => 3,
            Self::Loss => 4,
        }
    }
}

/// How large buffers of one kind are, payload bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    /// At first.
    pub first: u32,
    /// At most, and never more than an eighth of the region's frames.
    pub most: u32,
}

impl Buffers {
    /// Both numbers, when there may be no more than `most`.
    pub(crate) fn within(self, most: u32) -> (u32, u32) {
        let most = most.min(self.most.max(2048));
        (self.first.clamp(2048, most), most)
    }
}

/// What TCP_INFO tells of congestion control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CongestionInfo {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What it is at.
    pub phase: Phase,
    /// Both ends use ECN.
    pub ecn: bool,
    /// Bytes a second that arrived at the peer when the congestion window last limited; 0: it never did.
    pub delivery_rate: u64,
    /// The pace, bytes a second: what an algorithm that has none of its own would send at counts too; `u64::MAX`: not known yet.
    pub pacing_rate: u64,
    /// SO_MAX_PACING_RATE, bytes a second; `u64::MAX`: no limit.
    pub max_pacing_rate: u64,
}

/// What the kernel has to know to go on with a connection (tcp(7), TCP_REPAIR).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Our end.
    pub local: Endpoint,
    /// The peer's.
    pub remote: Endpoint,
    /// SND.UNA, a FIN not counted.
    pub snd_una: SeqNum,
    /// SND.NXT, a FIN not counted.
    pub snd_nxt: SeqNum,
    /// One past the last byte the program has queued.
    pub snd_end: SeqNum,
    /// SND.WL1.
    pub snd_wl1: SeqNum,
    /// SND.WND.
    pub snd_wnd_bytes: u32,
    /// Largest window the peer ever announced.
    pub snd_wnd_max_bytes: u32,
    /// RCV.NXT, a FIN not counted.
    pub rcv_nxt: SeqNum,
    /// RCV.WND as last announced.
    pub rcv_wnd_bytes: u32,
    /// Received and not read.
    pub unread_bytes: u32,
    /// MSS the peer announced.
    pub mss: u16,
    /// Scales of the peer's windows and of ours, if windows are scaled.
    pub scales: Option<(u8, u8)>,
    /// SACK is in use.
    pub sack: bool,
    /// What TSval is now, if timestamps are in use.
    pub timestamp: Option<u32>,
    /// The program has closed its direction.
    pub fin_sent: bool,
    /// The peer has.
    pub fin_received: bool,
}

/// A connection whose peer would have it leave the wire it goes by for the device beside that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaver {
    /// The connection.
    pub flow: FlowKey,
    /// The wire's port.
    pub wire: u8,
    /// Ethernet address of the peer's device.
    pub mac: MacAddr,
    /// Largest IP packet of the peer's device, bytes.
    pub mtu: u16,
}

/// How far a connection that is to leave a wire is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unwired {
    /// It goes by no wire, or cannot leave it: it is not open, or signed.
    Done,
    /// The peer was asked; it is still to go over.
    Asked,
    /// There is no device to go over to.
    #[default]
    Never,
}

/// What TCP_INFO tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpInfo {
    /// The state.
    pub state: State,
    /// Timestamps, SACK and window scale are in use.
    pub timestamps: bool,
    /// SACK is in use.
    pub sack: bool,
    /// The SYN had data, which were taken (fast open).
    pub syn_data: bool,
    /// Scale of the peer's windows.
    pub snd_shift: u8,
    /// Scale of our windows.
    pub rcv_shift: u8,
    /// Timeouts in a row.
    pub backoff: u8,
    /// In loss recovery.
    pub recovering: bool,
    /// Congestion control.
    pub congestion: CongestionInfo,
    /// Retransmission timeout without backoff, us.
    pub rto_us: u32,
    /// Smoothed round-trip time, us; 0: not measured.
    pub rtt_us: u32,
    /// Its mean deviation, us.
    pub rtt_var_us: u32,
    /// Payload of a full segment that we send, bytes.
    pub snd_mss: u16,
    /// Payload of a full segment that we announced, bytes.
    pub rcv_mss: u16,
    /// Congestion window, bytes.
    pub cwnd_bytes: u32,
    /// Slow start threshold, bytes.
    pub ssthresh_bytes: u32,
    /// The peer's window, bytes.
    pub snd_wnd_bytes: u32,
    /// Our window, bytes.
    pub rcv_wnd_bytes: u32,
    /// Sent and not acknowledged, bytes.
    pub unacked_bytes: u32,
    /// Queued and not sent, bytes.
    pub unsent_bytes: u32,
    /// Received and not read, bytes.
    pub unread_bytes: u32,
    /// Segments retransmitted.
    pub retransmits: u32,
    /// Payload bytes received in order.
    pub bytes_in: u64,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_out: u64,
}
