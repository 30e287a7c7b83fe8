//! TCP-AO signatures (RFC 5925 5) with the algorithms of RFC 5926: HMAC-SHA-1 and AES-128-CMAC, each with its key derivation.

use ::state::KeyRow;
use aes::Aes128;
use base::{IpAddress, Port, SeqNum};
use cmac::Cmac;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use wire::{IpProtocol, tcp};

use super::keys::{self, AES_CMAC, PLAIN_OPTIONS};

/// Bytes of the longest traffic key, and of the longest output of an algorithm.
const OUTPUT_MAX: usize = 20;
/// Bytes of an AES-128 key.
const AES_KEY: usize = 16;
/// Bytes of a TCP-AO option in front of the signature.
const HEAD: usize = 4;
/// Label of the key derivation (RFC 5926 3.1).
const LABEL: &[u8] = b"TCP-AO";

/// What keys of a connection are derived from: its ends, and their initial sequence numbers as far as the sender knows them (RFC 5925 5.2).
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// The sender of the segment.
    pub(super) src: (IpAddress, Port),
    /// Its receiver.
    pub(super) dst: (IpAddress, Port),
    /// ISN of the sender.
    pub(super) src_isn: SeqNum,
    /// ISN of the receiver; 0 in a SYN without ACK.
    pub(super) dst_isn: SeqNum,
}

/// One of the two algorithms at work.
#[allow(clippy::large_enum_variant, reason = "it lives on the stack for one segment, and there is no heap")]
enum Algorithm {
    Sha1(Hmac<Sha1>),
    Cmac(Cmac<Aes128>),
}

impl Algorithm {
    /// That of keys of `kind`, with `key`. `None`: the key has a wrong length.
    fn with(kind: u8, key: &[u8]) -> Option<Self> {
        if kind == AES_CMAC {
            return Cmac::new_from_slice(key).ok().map(Self::Cmac);
        }
        Hmac::new_from_slice(key).ok().map(Self::Sha1)
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(mac) => mac.update(bytes),
            Self::Cmac(mac) => mac.update(bytes),
        }
    }

    /// The output, and how long it is.
    fn end(self) -> ([u8; OUTPUT_MAX], usize) {
        let mut out = [0; OUTPUT_MAX];
        let mut put = |bytes: &[u8]| {
            out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            bytes.len()
        };
        let len = match self {
            Self::Sha1(mac) => put(&mac.finalize().into_bytes()),
            Self::Cmac(mac) => put(&mac.finalize().into_bytes()),
        };
        (out, len)
    }
}

/// RFC 5926 3.1.1.2: of a master key that has not the length of one for AES-128, one of that length is made, in `room`.
pub(super) fn shortened<'k>(master: &'k [u8], room: &'k mut [u8; AES_KEY]) -> Option<&'k [u8]> {
    if master.len() == AES_KEY {
        return Some(master);
    }
    let mut cmac = Algorithm::with(AES_CMAC, &[0; AES_KEY])?;
    cmac.add(master);
    room.copy_from_slice(cmac.end().0.get(..AES_KEY)?);
    Some(room)
}

/// The traffic key of `row` for `context` (RFC 5926 3.1.1), and how long it is.
fn traffic_key(row: &KeyRow, context: &Context) -> Option<([u8; OUTPUT_MAX], usize)> {
    let mut kdf = Algorithm::with(row.kind, keys::bytes(row))?;
    let bits: u16 = if row.kind == AES_CMAC { 128 } else { 160 };
    kdf.add(&[1]);
    kdf.add(LABEL);
    for (addr, _) in [context.src, context.dst] {
        match addr.as_v4() {
            Some(v4) => kdf.add(&v4.octets()),
            None => kdf.add(&addr.0),
        }
    }
    kdf.add(&context.src.1.0.to_be_bytes());
    kdf.add(&context.dst.1.0.to_be_bytes());
    kdf.add(&context.src_isn.0.to_be_bytes());
    kdf.add(&context.dst_isn.0.to_be_bytes());
    kdf.add(&bits.to_be_bytes());
    Some(kdf.end())
}

/// A signature on its way (RFC 5925 5.1).
pub(super) struct Signature(Algorithm);

impl Signature {
    /// Begins with a segment of `len` bytes whose header with options is `header`, and whose signature has its place at `place` in the options; `sne`
    /// extends its sequence number. `None`: the key is of no use.
    pub(super) fn begin(
        row: &KeyRow,
        context: &Context,
        sne: u32,
        (header, len): (&[u8], u32),
        place: core::ops::Range<usize>,
    ) -> Option<Self> {
        let (key, key_len) = traffic_key(row, context)?;
        let mut mac = Algorithm::with(row.kind, key.get(..key_len)?)?;
        mac.add(&sne.to_be_bytes());
        match (context.src.0.as_v4(), context.dst.0.as_v4()) {
            (Some(src), Some(dst)) => {
                mac.add(&src.octets());
                mac.add(&dst.octets());
                mac.add(&[0, IpProtocol::TCP.0]);
                mac.add(&(len as u16).to_be_bytes());
            }
            _ => {
                mac.add(&context.src.0.0);
                mac.add(&context.dst.0.0);
                mac.add(&len.to_be_bytes());
                mac.add(&u32::from(IpProtocol::TCP.0).to_be_bytes());
            }
        }
        let (fixed, options) = header.split_at_checked(tcp::HEADER_LEN)?;
        mac.add(fixed.get(..tcp::CHECKSUM_OFFSET)?);
        mac.add(&[0, 0]);
        mac.add(fixed.get(tcp::CHECKSUM_OFFSET + 2..)?);
        let (before, behind) = (options.get(..place.start)?, options.get(place.end..)?);
        // RFC 5925 3.1: without the other options, so that those may change on the way.
        let alone = row.flags & PLAIN_OPTIONS != 0;
        mac.add(if alone { before.get(before.len().checked_sub(HEAD)?..)? } else { before });
        for _ in place {
            mac.add(&[0]);
        }
        mac.add(if alone { &[] } else { behind });
        Some(Self(mac))
    }

    /// Goes on with bytes of the data.
    pub(super) fn add(&mut self, data: &[u8]) {
        self.0.add(data);
    }

    /// The signature, of which the first bytes count.
    pub(super) fn end(self) -> [u8; OUTPUT_MAX] {
        self.0.end().0
    }
}

/// The extension of sequence number `seq` (RFC 5925 6.2) in the direction whose numbers began at `isn` and which has carried `bytes` so far: how
/// often the numbers had wrapped, at the place nearest to there.
pub(super) const fn sne(isn: SeqNum, bytes: u64, seq: SeqNum) -> u32 {
    let about = (isn.0 as u64).wrapping_add(1).wrapping_add(bytes);
    let apart = seq.0.wrapping_sub(about as u32) as i32;
    let exact = about.wrapping_add(apart as i64 as u64);
    if exact > about && apart < 0 { 0 } else { (exact >> 32) as u32 }
}

#[cfg(test)]
#[path = "ao_tests.rs"]
mod tests;
