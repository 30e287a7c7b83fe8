//! Counters of one lane, and the one table of reasons for which a packet is dropped.

use region::plain;

macro_rules! drop_reasons {
    ($($variant:ident => $name:literal, $text:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant),*
        }

        impl DropReason {
            /// Every reason, in the order of [`Counters::drops`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Short fixed name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

drop_reasons! {
    FrameBad => "frame-bad", "the chain of frames is empty, too long or broken";
    EthMalformed => "eth-malformed", "the packet is too short for its Ethernet header";
    EthNotForUs => "eth-not-for-us", "the Ethernet destination is another station or a group";
    EthUnknownType => "eth-unknown-type", "no such protocol above Ethernet is handled here";
    ArpMalformed => "arp-malformed", "the ARP packet is malformed";
    ArpNotForUs => "arp-not-for-us", "the ARP packet asks for an address that is not ours";
    IpMalformed => "ip-malformed", "the IP header is malformed or longer than the packet";
    IpChecksumBad => "ip-checksum-bad", "the IP header checksum is wrong";
    IpNotForUs => "ip-not-for-us", "the IP destination is not an address of this device";
    IpSourceBad => "ip-source-bad", "the IP source may not be a source address";
    IpUnknownProtocol => "ip-unknown-protocol", "no such protocol above IP is handled here";
    IpFragmentBad => "ip-fragment-bad", "the fragment overlaps another or makes too large a packet";
    IpReassemblyFull => "ip-reassembly-full", "too many packets are being put together";
    IpReassemblyTimeout => "ip-reassembly-timeout", "not all fragments arrived in time";
    IcmpMalformed => "icmp-malformed", "the ICMP message is malformed or its checksum is wrong";
    IcmpIgnored => "icmp-ignored", "the ICMP message asks for nothing that is handled here";
    IcmpRateLimited => "icmp-rate-limited", "too many ICMP replies in this second";
    UdpMalformed => "udp-malformed", "the UDP header is malformed";
    UdpChecksumBad => "udp-checksum-bad", "the UDP checksum is wrong";
    UdpNoSocket => "udp-no-socket", "no socket takes this datagram";
    UdpQueueFull => "udp-queue-full", "the receive buffer of the UDP socket is full";
    TcpMalformed => "tcp-malformed", "the TCP header or its options are malformed";
    TcpChecksumBad => "tcp-checksum-bad", "the TCP checksum of the segment is wrong";
    TcpNoSocket => "tcp-no-socket", "no connection and no listener takes this segment";
    TcpResetLimited => "tcp-reset-limited", "too many RSTs in this second";
    TcpFlagsBad => "tcp-flags-bad", "the flags make no sense in this state";
    TcpAckBad => "tcp-ack-bad", "the segment acknowledges what was never sent";
    TcpOutOfWindow => "tcp-out-of-window", "no byte of the segment lies in the receive window";
    TcpPaws => "tcp-paws", "the timestamp is older than the last one (RFC 7323 PAWS)";
    TcpRstBad => "tcp-rst-bad", "the RST is not at the next expected sequence number";
    TcpDuplicate => "tcp-duplicate", "every byte of the segment was received before";
    TcpAfterClose => "tcp-after-close", "data arrived after the program closed the socket";
    TcpMd5NotFound => "tcp-md5-not-found", "the segment has no MD5 signature, and the socket has a key for the peer";
    TcpMd5Unexpected => "tcp-md5-unexpected", "the segment has an MD5 signature, and the socket has no key for the peer";
    TcpMd5Failure => "tcp-md5-failure", "the MD5 signature of the segment is wrong";
    TcpAoNotFound => "tcp-ao-not-found", "the segment has no TCP-AO signature, and the socket has a key for the peer";
    TcpAoKeyNotFound => "tcp-ao-key-not-found", "the segment is signed by TCP-AO with a key that the socket does not have";
    TcpAoFailure => "tcp-ao-failure", "the TCP-AO signature of the segment is wrong";
    TcpAoUnexpected => "tcp-ao-unexpected", "the segment has a TCP-AO signature, and the socket has no key for the peer";
    TcpAuthBad => "tcp-auth-bad", "the segment has more than one signature, or an option of a signature of a wrong length";
    TcpRcvBufFull => "tcp-rcv-buf-full", "the receive buffer is full";
    TcpOutOfOrderFull => "tcp-out-of-order-full", "too much was received out of order";
    TcpBacklogFull => "tcp-backlog-full", "the listener's SYN or accept queue is full";
    TcpEntrusted => "tcp-entrusted", "the connection has just been handed over to the kernel";
    TcpNoTcb => "tcp-no-tcb", "no free connection";
    TcpNoHop => "tcp-no-hop", "no free next hop";
    OutOfFrames => "out-of-frames", "no free frame";
    OutboxFull => "outbox-full", "too many packets wait to be sent";
    LaneMailFull => "lane-mail-full", "the mailbox of the lane that has the flow is full";
    Unreachable => "unreachable", "the next hop does not answer";
}

/// Number of drop reasons.
pub const DROP_REASONS: usize = DropReason::ALL.len();

plain! {
    /// What one lane did since it was made. Only the holder of the lane writes.
    #[derive(Debug)]
    pub struct Counters {
        /// Dropped packets by [`DropReason`].
        pub drops: [u64; DROP_REASONS],
        /// Packets received (a super-frame counts once).
        pub rx_packets: u64,
        /// Bytes received, with Ethernet headers.
        pub rx_bytes: u64,
        /// Packets sent (a super-frame counts once).
        pub tx_packets: u64,
        /// Bytes sent, with Ethernet headers.
        pub tx_bytes: u64,
        /// TCP.
        pub tcp: TcpCounters,
        /// UDP datagrams received.
        pub udp_in: u64,
        /// UDP datagrams sent.
        pub udp_out: u64,
        /// Packets handed to other lanes of the region, which have their flows.
        pub handed_out: u64,
        /// Packets that other lanes handed to this one.
        pub handed_in: u64,
    }
}

impl Counters {
    /// Counts one packet dropped for `reason`.
    pub fn drop_packet(&mut self, reason: DropReason) {
        if let Some(n) = self.drops.get_mut(reason as usize) {
            *n = n.wrapping_add(1);
        }
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }
}

plain! {
    /// TCP counters, in the words of Linux's `nstat` where it has them.
    #[derive(Debug, Default)]
    pub struct TcpCounters {
        /// Connections opened by us (ActiveOpens).
        pub active_opens: u64,
        /// Connections opened by peers (PassiveOpens).
        pub passive_opens: u64,
        /// Connections ended by a RST, a timeout or an abort (EstabResets).
        pub resets: u64,
        /// Segments received (InSegs).
        pub segments_in: u64,
        /// Segments sent, super-segments counted once (OutSegs).
        pub segments_out: u64,
        /// Segments that header prediction took (TCPHPHits, TCPHPAcks).
        pub predicted: u64,
        /// Segments retransmitted (RetransSegs).
        pub retransmits: u64,
        /// Retransmission timeouts (TCPTimeouts).
        pub timeouts: u64,
        /// Fast recoveries entered (TCPSackRecovery, TCPRenoRecovery).
        pub recoveries: u64,
        /// Tail loss probes sent (TCPLossProbes).
        pub loss_probes: u64,
        /// Segments longer than the path was known to take (RFC 4821).
        pub path_probes: u64,
        /// Times that full segments vanished again and again, and shorter ones were tried.
        pub black_holes: u64,
        /// Losses that nothing but a tail loss probe repaired (TCPLossProbeRecovery).
        pub loss_probe_repairs: u64,
        /// Retransmissions lost again, as time has shown (TCPLostRetransmit).
        pub lost_again: u64,
        /// Segments that were overtaken by later ones and came (TCPSACKReorder).
        pub reordered: u64,
        /// Reports of peers that something came twice (TCPDSACKRecv).
        pub twice_in: u64,
        /// Reports to peers that something came twice (TCPDSACKOldSent, TCPDSACKOfoSent).
        pub twice_out: u64,
        /// Recoveries and timeouts undone because nothing was lost (TCPFullUndo, TCPDSACKUndo).
        pub undone: u64,
        /// RSTs sent (OutRsts).
        pub resets_out: u64,
        /// Challenge ACKs sent (TCPChallengeACK).
        pub challenge_acks: u64,
        /// Zero-window probes sent (TCPWinProbe).
        pub window_probes: u64,
        /// Keepalive probes sent (TCPKeepAlive).
        pub keepalives: u64,
        /// Delayed ACKs whose timer ran out (DelayedACKs).
        pub delayed_acks: u64,
        /// Segments queued out of order (TCPOFOQueue).
        pub out_of_order: u64,
        /// Small payloads copied into the frame before (TCPRcvCoalesce).
        pub compacted: u64,
        /// Connections dropped by a full listener (ListenOverflows).
        pub listen_overflows: u64,
        /// SYNs answered with a cookie (SyncookiesSent).
        pub cookies_out: u64,
        /// Windows reduced because the peer echoed a mark (RFC 3168 6.1.2).
        pub marks_echoed: u64,
        /// Connections opened by a cookie that came back (SyncookiesRecv).
        pub cookies_in: u64,
        /// Segments with a cookie that was none of ours (SyncookiesFailed).
        pub cookies_bad: u64,
        /// Connections opened by peers with fast open (TCPFastOpenPassive).
        pub fast_in: u64,
        /// SYNs with a fast open cookie that was none of ours (TCPFastOpenPassiveFail).
        pub fast_in_bad: u64,
        /// SYNs of ours with data that were acknowledged with them (TCPFastOpenActive).
        pub fast_out: u64,
        /// The same, without them (TCPFastOpenActiveFail).
        pub fast_out_bad: u64,
        /// Connections that ended in silence (TCPAbortOnTimeout).
        pub aborts_on_timeout: u64,
        /// Connections ended by close with unread data (TCPAbortOnClose).
        pub aborts_on_close: u64,
        /// TIME-WAIT connections reused by a SYN (TWRecycled).
        pub time_wait_reused: u64,
        /// Connections open now, hibernating ones included.
        pub open: u64,
        /// Connections that hibernate now.
        pub dormant: u64,
        /// Times a connection went to hibernate.
        pub hibernated: u64,
        /// Times a hibernating connection was woken.
        pub woken: u64,
        /// Connections that could not be opened, or woken, for want of a row.
        pub table_full: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn drop_reasons_have_distinct_names() {
        for (i, a) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*a as usize, i);
            assert!(DropReason::ALL.iter().skip(i + 1).all(|b| a.name() != b.name()));
        }
    }
}
