//! The usual SYN and SYN,ACK: Ethernet, IPv4 without options, TCP with MSS, SACK-permitted, timestamps and window scale laid out as Linux
//! and we do it, and no payload. Like the usual segment it is read and written as one array.
//!
//! What is not exactly that is for the parsers of the single formats.

use base::{MacAddr, SeqNum};

use crate::bytes::{array, be16, be32, put32};
use crate::checksum::{Sum, pseudo_v4};
use crate::tcp_options::{SYN_OPTIONS_LEN, is_syn_layout, syn_options, syn_words};
use crate::usual::{DONT_FRAGMENT, Ends, IPV4_PLAIN, TCP_AT};
use crate::{IpProtocol, TcpFlags, TcpOptions, Timestamps};

/// Bytes of the three headers, which are all of the packet.
pub const LEN: usize = TCP_AT + 20 + SYN_OPTIONS_LEN;
/// Data offset of the TCP header, where it stands beside the control bits.
const DATA_OFFSET: u16 = (((LEN - TCP_AT) / 4) as u16) << 12;

/// A received usual SYN or SYN,ACK.
#[derive(Clone, Copy, Debug)]
pub struct UsualSyn<'a> {
    head: &'a [u8; LEN],
}

impl<'a> UsualSyn<'a> {
    /// `bytes`, if they are one with a valid IPv4 header, without any other control bit. The TCP checksum is not looked at.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head: &[u8; LEN] = bytes.try_into().ok()?;
        let is_one = be32::<12, _>(head) & 0xffff_ff00 == IPV4_PLAIN
            && be16::<46, _>(head) & !TcpFlags::ACK.0 == DATA_OFFSET | TcpFlags::SYN.0
            && usize::from(be16::<16, _>(head)) == LEN - 14
            && be16::<20, _>(head) & !DONT_FRAGMENT == 0
            && head[23] == IpProtocol::TCP.0
            && is_syn_layout(&array::<54, SYN_OPTIONS_LEN, _>(head))
            && Sum::ZERO.plus_array(&array::<14, 20, _>(head)).is_valid();
        is_one.then_some(Self { head })
    }

    /// Ethernet destination.
    #[must_use]
    pub const fn dst_mac(&self) -> MacAddr {
        MacAddr(array::<0, 6, _>(self.head))
    }

    /// Ethernet source.
    #[must_use]
    pub const fn src_mac(&self) -> MacAddr {
        MacAddr(array::<6, 6, _>(self.head))
    }

    /// The ECN field.
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.head[15] & 3
    }

    /// Addresses and ports.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends::at(be32::<34, _>(self.head), be32::<26, _>(self.head), be32::<30, _>(self.head))
    }

    /// SEG.SEQ.
    #[must_use]
    pub const fn seq(&self) -> SeqNum {
        SeqNum(be32::<38, _>(self.head))
    }

    /// SEG.ACK.
    #[must_use]
    pub const fn ack(&self) -> SeqNum {
        SeqNum(be32::<42, _>(self.head))
    }

    /// Control bits: SYN, and perhaps ACK.
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(be16::<46, _>(self.head) & TcpFlags::ALL.0)
    }

    /// SEG.WND.
    #[must_use]
    pub const fn window(&self) -> u16 {
        be16::<48, _>(self.head)
    }

    /// The TCP checksum as received.
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        be16::<50, _>(self.head)
    }

    /// The options.
    #[inline]
    #[must_use]
    pub fn options(&self) -> TcpOptions {
        syn_options(&array::<54, SYN_OPTIONS_LEN, _>(self.head))
    }

    /// Sum of the pseudo-header (RFC 9293 3.1).
    #[must_use]
    pub const fn pseudo(&self) -> Sum {
        let ends = self.ends();
        pseudo_v4(ends.src(), ends.dst(), IpProtocol::TCP, (LEN - TCP_AT) as u16)
    }

    /// Sum of the TCP header and its options.
    #[must_use]
    pub fn tcp_sum(&self) -> Sum {
        Sum::ZERO.plus_array(&array::<TCP_AT, { LEN - TCP_AT }, _>(self.head))
    }
}

/// Writes the options of a SYN or SYN,ACK, behind what the parts of [`UsualHeader::emit`](crate::UsualHeader::emit) write of it.
#[inline(always)]
pub fn put_options(to: &mut [u8; LEN], mss: u16, timestamps: Timestamps, window_scale: u8) {
    let [first, second, last] = syn_words(mss, window_scale);
    put32::<54, _>(to, first);
    put32::<58, _>(to, second);
    put32::<62, _>(to, timestamps.value);
    put32::<66, _>(to, timestamps.echo);
    put32::<70, _>(to, last);
}
