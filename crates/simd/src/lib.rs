//! The sum behind the Internet checksum by vector instructions, where the processor has them: of long pieces three to four times as
//! fast as word by word.
//!
//! Invariant: code for AVX2 runs only after [`has_avx2`] said that processor and operating system have it.

#![no_std]

/// Bytes that are summed at once.
pub const BLOCK: usize = 32;

/// The sum of all 16-bit words of `blocks` in the machine's order. `None`: the processor has no instructions for it.
#[inline]
#[must_use]
pub fn sum(blocks: &[[u8; BLOCK]]) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the processor has AVX2, and the operating system keeps its registers.
        return Some(unsafe { x86::sum(blocks) });
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = blocks;
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{
        __cpuid, __cpuid_count, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_set1_epi16, _mm256_setzero_si256, _mm256_xor_si256, _xgetbv,
    };
    use core::sync::atomic::{AtomicU8, Ordering};

    use super::BLOCK;

    /// Blocks summed in 32 bits: the sum of their words, each as a signed number, cannot overflow.
    const PART: usize = 1024;
    const WORDS: usize = BLOCK / 2;
    const _: () = assert!(PART * WORDS * (1 << 15) < i32::MAX as usize);

    const NO: u8 = 1;
    const YES: u8 = 2;
    /// [`YES`], [`NO`], or 0: nobody has asked.
    static AVX2: AtomicU8 = AtomicU8::new(0);

    /// May AVX2 be used?
    #[inline]
    pub(super) fn has_avx2() -> bool {
        match AVX2.load(Ordering::Relaxed) {
            0 => ask(),
            known => known == YES,
        }
    }

    #[cold]
    fn ask() -> bool {
        let known = found();
        AVX2.store(if known { YES } else { NO }, Ordering::Relaxed);
        known
    }

    /// Intel's manual, volume 1, 14.7.1: the processor has AVX2, and the operating system keeps the wide registers.
    fn found() -> bool {
        const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
        const AVX2_BIT: u32 = 1 << 5;
        const XMM_AND_YMM: u64 = 6;
        let has = __cpuid(0).eax >= 7
            && __cpuid(1).ecx & OSXSAVE_AND_AVX == OSXSAVE_AND_AVX
            && __cpuid_count(7, 0).ebx & AVX2_BIT != 0;
        // SAFETY: OSXSAVE says that there is the instruction.
        has && unsafe { _xgetbv(0) } & XMM_AND_YMM == XMM_AND_YMM
    }

    /// The sum of all 16-bit words of `blocks`.
    ///
    /// # Safety
    /// The processor has AVX2, and the operating system keeps its registers.
    #[target_feature(enable = "avx2")]
    pub(super) fn sum(blocks: &[[u8; BLOCK]]) -> u64 {
        let mut total = 0_u64;
        for part in blocks.chunks(PART) {
            let taken_off = (part.len() * WORDS) as u64 * (1 << 15);
            total = total.wrapping_add(taken_off).wrapping_add_signed(i64::from(signed_sum(part)));
        }
        total
    }

    /// The sum of all words of `blocks`, at most [`PART`], of each of which 2^15 was taken off.
    #[target_feature(enable = "avx2")]
    fn signed_sum(blocks: &[[u8; BLOCK]]) -> i32 {
        // Four sums, so that an addition need not wait for the one before it.
        let mut sums = [_mm256_setzero_si256(); 4];
        let (fours, rest) = blocks.as_chunks::<4>();
        for four in fours {
            for (sum, block) in sums.iter_mut().zip(four) {
                *sum = _mm256_add_epi32(*sum, pairs(block));
            }
        }
        for (sum, block) in sums.iter_mut().zip(rest) {
            *sum = _mm256_add_epi32(*sum, pairs(block));
        }
        let [a, b, c, d] = sums;
        let sum = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_01_00_11_10>(sum));
        _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b_10_11_00_01>(sum)))
    }

    /// The sums of neighbouring words of `block`, of each of which 2^15 was taken off: so they are signed numbers, as the instruction
    /// that adds neighbours wants them.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn pairs(block: &[u8; BLOCK]) -> __m256i {
        // SAFETY: so many bytes can be read there, and the load wants no alignment.
        let words = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
        _mm256_madd_epi16(_mm256_xor_si256(words, _mm256_set1_epi16(i16::MIN)), _mm256_set1_epi16(1))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::{BLOCK, sum};

    /// The words' sum, one by one.
    fn plain(blocks: &[[u8; BLOCK]]) -> u64 {
        blocks.as_flattened().as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum()
    }

    /// The sum by vector instructions is that of the words, at every alignment, for every number of blocks, and where a sum of many
    /// words at their largest would overflow.
    #[test]
    fn the_sum_is_that_of_the_words() {
        let mut state = 1_u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let random: Vec<u8> = (0..BLOCK * 70 + BLOCK).map(|_| byte()).collect();
        for align in 0..BLOCK {
            for blocks in 0..70 {
                let (blocks, _) = random[align..][..blocks * BLOCK].as_chunks();
                assert!(sum(blocks).is_none_or(|sum| sum == plain(blocks)), "{align} {}", blocks.len());
            }
        }
        for value in [0, 0x7f, 0x80, 0xff] {
            for blocks in [1, 1023, 1024, 1025, 5000] {
                let blocks = vec![[value; BLOCK]; blocks];
                assert!(sum(&blocks).is_none_or(|sum| sum == plain(&blocks)), "{value} {}", blocks.len());
            }
        }
    }

    /// What the processor is found to have is what the standard library finds.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_the_processor_has_is_found_out() {
        assert_eq!(super::x86::has_avx2(), std::is_x86_feature_detected!("avx2"));
        assert_eq!(sum(&[[1; BLOCK]]).is_some(), super::x86::has_avx2());
    }
}
