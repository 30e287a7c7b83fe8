//! TCP segments (RFC 9293 3.1). Options are in [`crate::tcp_options`].

use core::ops::BitOr;

use base::{Port, SeqNum};

use crate::bytes::{TooShort, be16, be32, put, put16, put32, room, store16};
use crate::checksum::{Sum, fill};
use crate::tcp_options::TcpOptions;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// Where in the header the checksum is.
pub const CHECKSUM_OFFSET: usize = 16;

/// The control bits of a segment (RFC 9293 3.1, RFC 3168, RFC 9768 for AE). The three bits that are still reserved are
/// not kept: they are ignored on receipt and sent as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x001);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x002);
    /// Reset the connection.
    pub const RST: Self = Self(0x004);
    /// Push.
    pub const PSH: Self = Self(0x008);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x010);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x020);
    /// ECN echo (RFC 3168 6.1).
    pub const ECE: Self = Self(0x040);
    /// Congestion window reduced (RFC 3168 6.1).
    pub const CWR: Self = Self(0x080);
    /// Accurate ECN (RFC 9768 3.1).
    pub const AE: Self = Self(0x100);
    /// All of them.
    pub const ALL: Self = Self(0x1ff);

    /// Are all flags of `other` set?
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any flag of `other` set?
    #[inline]
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flags of both.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags but for those of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Is SYN set?
    #[inline]
    #[must_use]
    pub const fn is_syn(self) -> bool {
        self.intersects(Self::SYN)
    }

    /// Is ACK set?
    #[inline]
    #[must_use]
    pub const fn is_ack(self) -> bool {
        self.intersects(Self::ACK)
    }

    /// Is RST set?
    #[inline]
    #[must_use]
    pub const fn is_rst(self) -> bool {
        self.intersects(Self::RST)
    }

    /// Is FIN set?
    #[inline]
    #[must_use]
    pub const fn is_fin(self) -> bool {
        self.intersects(Self::FIN)
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// Why bytes are no TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpError {
    /// The bytes end within the header.
    Truncated,
    /// The data offset is below 5 words.
    DataOffset,
}

/// A TCP segment, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct TcpSegment<'a> {
    head: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// The segment in `bytes`, the payload of an IP packet. A segment in several frames has at least its whole header in
    /// the first. The checksum is not verified: see [`TcpSegment::checksum_ok`].
    ///
    /// # Errors
    /// See [`TcpError`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(TcpError::Truncated)?;
        let header_len = usize::from(head[12] >> 4) * 4;
        let options_len = header_len.checked_sub(HEADER_LEN).ok_or(TcpError::DataOffset)?;
        let (options, payload) = rest.split_at_checked(options_len).ok_or(TcpError::Truncated)?;
        Ok(Self { head, options, payload })
    }

    /// The source port.
    #[inline]
    #[must_use]
    pub const fn src_port(&self) -> Port {
        Port(be16::<0, _>(self.head))
    }

    /// The destination port.
    #[inline]
    #[must_use]
    pub const fn dst_port(&self) -> Port {
        Port(be16::<2, _>(self.head))
    }

    /// SEG.SEQ: the sequence number of the first payload byte, or of the SYN.
    #[inline]
    #[must_use]
    pub const fn seq(&self) -> SeqNum {
        SeqNum(be32::<4, _>(self.head))
    }

    /// SEG.ACK: the next sequence number the sender expects, if ACK is set.
    #[inline]
    #[must_use]
    pub const fn ack(&self) -> SeqNum {
        SeqNum(be32::<8, _>(self.head))
    }

    /// Bytes of the header, options included: 20 to 60.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The control bits.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(be16::<12, _>(self.head) & TcpFlags::ALL.0)
    }

    /// SEG.WND as sent, not scaled.
    #[inline]
    #[must_use]
    pub const fn window(&self) -> u16 {
        be16::<14, _>(self.head)
    }

    /// The checksum field.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        be16::<16, _>(self.head)
    }

    /// Is the checksum right? `pseudo` is the pseudo-header's sum. Only for a segment that is whole in the parsed bytes.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        pseudo.plus_array(self.head).plus_bytes(self.options).plus_bytes(self.payload).is_valid()
    }

    /// The urgent pointer; counts if URG is set.
    #[inline]
    #[must_use]
    pub const fn urgent(&self) -> u16 {
        be16::<18, _>(self.head)
    }

    /// The options as sent, 0 to 40 bytes; see [`TcpOptions::parse`].
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload that is in the parsed bytes.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's fields, without options.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> TcpHeader {
        TcpHeader {
            src_port: self.src_port(),
            dst_port: self.dst_port(),
            seq: self.seq(),
            ack: self.ack(),
            flags: self.flags(),
            window: self.window(),
            urgent: self.urgent(),
        }
    }
}

/// The fields of a TCP header, but for options and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// SEG.SEQ.
    pub seq: SeqNum,
    /// SEG.ACK; counts if ACK is set.
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// SEG.WND as sent, not scaled.
    pub window: u16,
    /// Urgent pointer; counts if URG is set.
    pub urgent: u16,
}

impl TcpHeader {
    /// Writes header and options, the checksum 0, to the front of `out`; returns their length, 20 to 60. Then see
    /// [`fill_checksum`].
    ///
    /// # Errors
    /// `out` is too short.
    #[inline]
    pub fn emit(&self, options: &TcpOptions, out: &mut [u8]) -> Result<usize, TooShort> {
        let len = HEADER_LEN + options.len_bytes();
        let Some((to, rest)) = out.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(TooShort { needed: len });
        };
        options.emit(rest).map_err(|_| TooShort { needed: len })?;
        put16::<0, _>(to, self.src_port.0);
        put16::<2, _>(to, self.dst_port.0);
        put32::<4, _>(to, self.seq.0);
        put32::<8, _>(to, self.ack.0);
        put16::<12, _>(to, ((len as u16 / 4) << 12) | (self.flags.0 & TcpFlags::ALL.0));
        put16::<14, _>(to, self.window);
        put16::<16, _>(to, 0);
        put16::<18, _>(to, self.urgent);
        Ok(len)
    }
}

/// Computes and writes the checksum of the whole `segment` with the pseudo-header's sum.
///
/// # Errors
/// `segment` is shorter than a header.
#[inline]
pub fn fill_checksum(segment: &mut [u8], pseudo: Sum) -> Result<(), TooShort> {
    fill(segment, CHECKSUM_OFFSET, pseudo).map(|_| ())
}

/// Writes `checksum`, which is that of a whole segment in several pieces or the pseudo-header's [`Sum::fold`], into the
/// header at the front of `segment`.
///
/// # Errors
/// `segment` is shorter than a header.
#[inline]
pub fn set_checksum(segment: &mut [u8], checksum: u16) -> Result<(), TooShort> {
    store16(segment, CHECKSUM_OFFSET, checksum)
}

/// Changes sequence number and control bits of the header at the front of `segment`: for splitting a super-segment. The
/// checksum is left as it is.
///
/// # Errors
/// `segment` is shorter than a header.
#[inline]
pub fn patch_seq_and_flags(segment: &mut [u8], seq: SeqNum, flags: TcpFlags) -> Result<(), TooShort> {
    let head = room::<HEADER_LEN>(segment)?;
    put32::<4, _>(head, seq.0);
    let [upper, lower] = (flags.0 & TcpFlags::ALL.0).to_be_bytes();
    let upper = (head[12] & 0xf0) | upper;
    put::<12, 2, _>(head, [upper, lower]);
    Ok(())
}
