//! Checksum and super-frame state between our packets and the virtio_net_hdr that AF_PACKET and TAP put in front of
//! each (virtio 1.2, 5.1.6 "Device Operation").

use state::{CsumState, RxFrame, TxFrame};
use sys::messages::VnetHeader;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// CWR in the TCP header's flag byte (RFC 3168 6.1).
const TCP_CWR: u8 = 0x80;
/// Bytes from a TCP header's start to its flags.
const TCP_FLAGS_AT: usize = 13;

/// The header for `packet`, whose own headers are `head` (Ethernet first).
#[must_use]
pub fn of_packet(packet: &TxFrame, head: &[u8]) -> VnetHeader {
    let mut header = VnetHeader::default();
    if packet.csum_start == 0 {
        return header;
    }
    header.flags = VnetHeader::NEEDS_CSUM;
    header.csum_start = packet.csum_start;
    header.csum_offset = packet.csum_offset;
    if packet.gso_size == 0 || packet.payload_bytes <= u32::from(packet.gso_size) {
        return header;
    }
    header.gso_type = gso_type(head, packet.csum_start as usize);
    if header.gso_type != VnetHeader::GSO_NONE {
        header.gso_size = packet.gso_size;
        header.hdr_len = packet.header_bytes;
    }
    header
}

/// IP version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Where the headers of a packet to send lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layers {
    pub(crate) family: Family,
    /// TCP, else UDP.
    pub(crate) tcp: bool,
    /// Bytes before the IP header.
    pub(crate) network: usize,
    /// Bytes before the TCP or UDP header.
    pub(crate) transport: usize,
}

impl Layers {
    /// The layers of a packet whose headers are `head`; `None` for what is neither TCP nor UDP over IP.
    pub(crate) fn of(head: &[u8], transport: usize) -> Option<Self> {
        let ethertype_at = |at: usize| head.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b));
        let (ethertype, network) = match ethertype_at(12)? {
            ETHERTYPE_VLAN => (ethertype_at(16)?, 18),
            other => (other, 14),
        };
        let (family, protocol_at, least) = match ethertype {
            ETHERTYPE_IPV4 => (Family::V4, network + 9, network + 20),
            ETHERTYPE_IPV6 => (Family::V6, network + 6, network + 40),
            _ => return None,
        };
        let tcp = match *head.get(protocol_at)? {
            PROTOCOL_TCP => true,
            PROTOCOL_UDP => false,
            _ => return None,
        };
        let upper = if tcp { 20 } else { 8 };
        if transport < least || head.len() < transport + upper {
            return None;
        }
        Some(Self { family, tcp, network, transport })
    }
}

/// How the kernel is to cut a super-segment with these headers; [`VnetHeader::GSO_NONE`] for what it cannot cut.
fn gso_type(head: &[u8], transport: usize) -> u8 {
    let Some(layers) = Layers::of(head, transport) else { return VnetHeader::GSO_NONE };
    let ecn = match head.get(transport + TCP_FLAGS_AT) {
        Some(flags) if flags & TCP_CWR != 0 => VnetHeader::GSO_ECN,
        _ => 0,
    };
    match (layers.tcp, layers.family) {
        (true, Family::V4) => VnetHeader::GSO_TCPV4 | ecn,
        (true, Family::V6) => VnetHeader::GSO_TCPV6 | ecn,
        (false, _) => VnetHeader::GSO_UDP_L4,
    }
}

/// Puts what `header` says of a received packet into `packet`.
pub fn note_received(header: &VnetHeader, packet: &mut RxFrame) {
    packet.csum = if header.flags & VnetHeader::NEEDS_CSUM != 0 {
        CsumState::Unfinished
    } else if header.flags & VnetHeader::DATA_VALID != 0 {
        CsumState::Verified
    } else {
        CsumState::Unknown
    };
    packet.gso_size = if header.gso_type == VnetHeader::GSO_NONE { 0 } else { header.gso_size };
}

#[cfg(test)]
mod tests {
    use base::FrameIdx;

    use super::*;

    fn tcp_head(ethertype: u16, flags: u8) -> Vec<u8> {
        let mut head = vec![0; 12];
        head.extend(ethertype.to_be_bytes());
        head.resize(74, 0);
        head[14 + 9] = PROTOCOL_TCP;
        head[14 + 6] = PROTOCOL_TCP;
        head[34 + TCP_FLAGS_AT] = flags;
        head
    }

    fn super_segment() -> TxFrame {
        let mut packet = TxFrame::new(FrameIdx(0));
        (packet.csum_start, packet.csum_offset, packet.header_bytes) = (34, 16, 54);
        (packet.gso_size, packet.payload_bytes) = (1460, 14600);
        packet
    }

    #[test]
    fn a_super_segment_tells_the_kernel_how_to_cut_it() {
        let header = of_packet(&super_segment(), &tcp_head(ETHERTYPE_IPV4, 0x10));
        assert_eq!((header.flags, header.gso_type), (VnetHeader::NEEDS_CSUM, VnetHeader::GSO_TCPV4));
        assert_eq!(
            (header.gso_size, header.hdr_len, header.csum_start, header.csum_offset),
            (1460, 54, 34, 16)
        );
        let cwr = of_packet(&super_segment(), &tcp_head(ETHERTYPE_IPV4, 0x90));
        assert_eq!(cwr.gso_type, VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN);
        let v6 = TxFrame { csum_start: 54, ..super_segment() };
        assert_eq!(of_packet(&v6, &tcp_head(ETHERTYPE_IPV6, 0)).gso_type, VnetHeader::GSO_TCPV6);
        assert_eq!(of_packet(&super_segment(), &[]).gso_type, VnetHeader::GSO_NONE);
    }

    #[test]
    fn one_segment_is_not_cut_and_a_finished_packet_says_nothing() {
        let mut packet = super_segment();
        packet.payload_bytes = 1460;
        let header = of_packet(&packet, &tcp_head(ETHERTYPE_IPV4, 0x10));
        assert_eq!((header.flags, header.gso_type, header.gso_size), (VnetHeader::NEEDS_CSUM, 0, 0));
        packet.csum_start = 0;
        assert_eq!(of_packet(&packet, &tcp_head(ETHERTYPE_IPV4, 0x10)), VnetHeader::default());
    }

    #[test]
    fn received_state_is_told_apart() {
        let mut packet = RxFrame {
            head: FrameIdx(0),
            len: 0,
            gso_size: 0,
            port: 0,
            local_peer: true,
            csum: CsumState::Unknown,
        };
        let header = VnetHeader { flags: 1, gso_type: 1, gso_size: 1448, ..VnetHeader::default() };
        note_received(&header, &mut packet);
        assert_eq!((packet.csum, packet.gso_size), (CsumState::Unfinished, 1448));
        note_received(&VnetHeader { flags: 2, gso_size: 9, ..VnetHeader::default() }, &mut packet);
        assert_eq!((packet.csum, packet.gso_size), (CsumState::Verified, 0));
        note_received(&VnetHeader::default(), &mut packet);
        assert_eq!(packet.csum, CsumState::Unknown);
    }
}
