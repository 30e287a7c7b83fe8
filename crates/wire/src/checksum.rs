//! The Internet checksum (RFC 1071), pseudo-header sums (RFC 9293 3.1, RFC 8200 8.1) and incremental update
//! (RFC 1624).
//!
//! A [`Sum`] is a running one's complement sum. It can be continued over pieces of any length, odd ones included,
//! so that a packet in several frames is summed frame by frame. [`Sum::finish`] gives the value for the checksum
//! field; [`Sum::fold`] gives it uncomplemented, which is what an unfinished checksum holds for a device to
//! complete (only the pseudo-header is in it).

use core::net::{Ipv4Addr, Ipv6Addr};

use base::IpAddress;

use crate::bytes::{TooShort, store16};
use crate::ip::IpProtocol;

/// A running one's complement sum of 16-bit words.
// The words are added as the machine loads them, in native order: RFC 1071 2(B) shows that the sum of swapped
// words is the swapped sum, so one swap at the end is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// One's complement sum modulo 2^64 - 1, which 2^16 - 1 divides.
    total: u64,
    /// An odd number of bytes has been added: the next byte is the low half of a word.
    odd: bool,
}

/// One's complement addition of 64-bit numbers (end-around carry).
#[inline(always)]
const fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u64)
}

/// The 16-bit one's complement sum that `total` stands for.
#[inline(always)]
const fn fold64(total: u64) -> u16 {
    let (x, carry) = (total as u32).overflowing_add((total >> 32) as u32);
    let x = x.wrapping_add(carry as u32);
    // Both halves added at once: the carry out of the lower sum goes into the upper one, which is the folded sum.
    (x.wrapping_add(x.rotate_left(16)) >> 16) as u16
}

/// `start` plus the words, the carry of each addition taken into the next one: an instruction a word.
#[inline(always)]
fn chain<const N: usize>(start: u64, words: &[[u8; 8]; N]) -> u64 {
    let (mut sum, mut carry) = (start, false);
    for word in words {
        (sum, carry) = sum.carrying_add(u64::from_ne_bytes(*word), carry);
    }
    sum.wrapping_add(u64::from(carry))
}

/// Sum of 64-bit words.
// Chains of carries, each begun from nothing, so that a processor works on several at once: as fast as SSE2 code or faster at
// every length, in half the instructions.
#[inline]
fn sum_words(words: &[[u8; 8]]) -> u64 {
    let mut sum = 0;
    let (blocks, rest) = words.as_chunks::<16>();
    for block in blocks {
        let (pair, _) = block.as_chunks::<8>();
        sum = pair.iter().fold(sum, |sum, half| add(sum, chain(0, half)));
    }
    let (blocks, rest) = rest.as_chunks::<8>();
    sum = blocks.iter().fold(sum, chain);
    let (blocks, rest) = rest.as_chunks::<4>();
    sum = blocks.iter().fold(sum, chain);
    rest.iter().fold(sum, |sum, word| add(sum, u64::from_ne_bytes(*word)))
}

/// Sum of `bytes` as native-order words, an odd last byte padded with zero.
#[inline(never)] // a call is less than its loops at every place
fn sum_slice(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = sum_words(words);
    if rest.is_empty() { sum } else { add(sum, last_word(bytes, rest)) }
}

/// From so many bytes on vector instructions are worth their call.
const LONG: usize = 256;

/// [`sum_slice`] of many bytes.
#[inline(never)]
fn sum_long(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks();
    match simd::sum(blocks) {
        Some(sum) => add(sum, sum_slice(rest)),
        None => sum_slice(bytes),
    }
}

/// The last, partial word of `bytes`, which are `rest`, padded with zeros.
#[inline]
fn last_word(bytes: &[u8], rest: &[u8]) -> u64 {
    if let Some(last) = bytes.last_chunk::<8>() {
        // What was summed before is shifted out.
        let before = 64 - 8 * (rest.len() as u32 % 8);
        let word = u64::from_ne_bytes(*last);
        return if cfg!(target_endian = "little") { word >> (before % 64) } else { word << (before % 64) };
    }
    let mut word = [0; 8];
    word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    u64::from_ne_bytes(word)
}

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self { total: 0, odd: false };

    /// The sum of `bytes`.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let total = if bytes.len() < LONG { sum_slice(bytes) } else { sum_long(bytes) };
        Self { total, odd: bytes.len() % 2 == 1 }
    }

    /// Continues with `bytes`, which follow what was added so far.
    #[inline]
    #[must_use]
    pub fn plus_bytes(self, bytes: &[u8]) -> Self {
        self.plus(Self::of(bytes))
    }

    /// Continues with a piece whose sum is known.
    #[inline]
    #[must_use]
    pub const fn plus(self, piece: Self) -> Self {
        // RFC 1071 2(B): a piece that starts in the middle of a word counts with its bytes swapped. Rotating all
        // 64 bits by one byte swaps the 16-bit sum, since 2^64 = 1 modulo 2^64 - 1.
        let total = if self.odd { piece.total.rotate_left(8) } else { piece.total };
        Self { total: add(self.total, total), odd: self.odd != piece.odd }
    }

    /// Continues with the two bytes of `word`, big-endian.
    #[inline]
    #[must_use]
    pub const fn plus_u16(self, word: u16) -> Self {
        self.plus(Self { total: word.to_be() as u64, odd: false })
    }

    /// Continues with the four bytes of `word`, big-endian.
    #[inline]
    #[must_use]
    pub const fn plus_u32(self, word: u32) -> Self {
        self.plus(Self { total: word.to_be() as u64, odd: false })
    }

    /// Continues with the bytes of a header of known length.
    #[inline]
    #[must_use]
    pub(crate) fn plus_array<const N: usize>(self, header: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4) && N <= 64) };
        let (words, rest) = header.as_chunks::<8>();
        let (mut total, mut carry) = (0_u64, false);
        for word in words {
            (total, carry) = total.carrying_add(u64::from_ne_bytes(*word), carry);
        }
        let half = rest.first_chunk().map_or(0, |half| u64::from(u32::from_ne_bytes(*half)));
        (total, carry) = total.carrying_add(half, carry);
        self.plus(Self { total: total.wrapping_add(u64::from(carry)), odd: false })
    }

    /// The sum of 32-bit words, big-endian.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn of_words<const N: usize>(words: [u32; N]) -> Self {
        // So few cannot overflow: no carry is to be brought round.
        const { assert!(N < 1 << 16) };
        let (mut total, mut at) = (0, 0);
        while at < N {
            total += words[at].to_be() as u64;
            at += 1;
        }
        Self { total, odd: false }
    }

    /// The sum of 16-bit words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub(crate) fn of_native<const N: usize>(words: [[u8; 2]; N]) -> Self {
        const { assert!(N < 1 << 16) };
        let total = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
        Self { total, odd: false }
    }

    /// The sum folded to 16 bits, not complemented, as a number to be stored big-endian: the content of an
    /// unfinished checksum field, when this is the pseudo-header's sum.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold64(self.total))
    }

    /// The checksum: the complement of the folded sum, as a number to be stored big-endian.
    #[inline]
    #[must_use]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// Is the checksum right that was among the summed bytes (RFC 1071 1(3))?
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        fold64(self.total) == 0xffff
    }
}

/// Sum of the pseudo-header of TCP or UDP over IPv4 (RFC 9293 3.1). `len`: bytes of transport header and payload.
#[inline]
#[must_use]
pub const fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, len: u16) -> Sum {
    Sum::of_words([src.to_bits(), dst.to_bits(), (protocol.0 as u32) << 16 | len as u32])
}

/// Sum of the pseudo-header over IPv6 (RFC 8200 8.1). `len`: bytes of upper-layer header and payload.
#[inline]
#[must_use]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: IpProtocol, len: u32) -> Sum {
    Sum::ZERO
        .plus_array(&src.octets())
        .plus_array(&dst.octets())
        .plus_u32(len)
        .plus_u32(u32::from(protocol.0))
}

/// Sum of the pseudo-header for addresses of either family; both of one family, neither "any".
#[inline]
#[must_use]
pub fn pseudo(src: IpAddress, dst: IpAddress, protocol: IpProtocol, len: u32) -> Sum {
    // A mapped IPv4 address sums like the plain one: its ffff is one's complement zero.
    pseudo_v6(src.as_v6(), dst.as_v6(), protocol, len)
}

/// The checksum `check` after a summed word changed from `old` to `new` (RFC 1624 3, equation 3).
#[inline]
#[must_use]
pub const fn update_u16(check: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.plus_u16(!check).plus_u16(!old).plus_u16(new).finish()
}

/// The checksum `check` after a summed 32-bit field, such as an IPv4 address, changed from `old` to `new`.
#[inline]
#[must_use]
pub const fn update_u32(check: u16, old: u32, new: u32) -> u16 {
    Sum::ZERO.plus_u16(!check).plus_u32(!old).plus_u32(new).finish()
}

/// The checksum `check` after a summed IPv6 address changed from `old` to `new`.
#[inline]
#[must_use]
pub fn update_v6(check: u16, old: Ipv6Addr, new: Ipv6Addr) -> u16 {
    Sum::ZERO.plus_u16(!check).plus_array(&(!old.to_bits()).to_be_bytes()).plus_array(&new.octets()).finish()
}

/// Writes the checksum of `message`, which starts with its header and carries on from `before` (the pseudo-header, or
/// nothing), into the 16-bit field at byte `at`. What the field held does not matter.
pub(crate) fn fill(message: &mut [u8], at: usize, before: Sum) -> Result<u16, TooShort> {
    store16(message, at, 0)?;
    let check = before.plus_bytes(message).finish();
    store16(message, at, check)?;
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        // RFC 1071 3: the sum of these bytes is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
        assert_eq!(Sum::of(&bytes).finish(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_as_printed() {
        // RFC 1624 4: checksum dd2f, word 5555 becomes 3285, new checksum 0000.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
