//! Bytes that are a function of who sends them and of their position, so that a receiver knows each byte it should see.

/// Byte number `at` of the stream `stream`.
#[must_use]
pub(crate) fn byte(stream: u64, at: u64) -> u8 {
    let word = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let word = (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word.to_be_bytes().get((at % 8) as usize).copied().unwrap_or(0)
}

/// Fills `out` with the bytes of `stream` from `at` on.
pub(crate) fn fill(stream: u64, at: u64, out: &mut [u8]) {
    for (to, i) in out.iter_mut().zip(at..) {
        *to = byte(stream, i);
    }
}

/// The first position from `at` on where `bytes` is not what `stream` has there.
pub(crate) fn first_difference(stream: u64, at: u64, bytes: &[u8]) -> Option<u64> {
    bytes.iter().zip(at..).find(|(b, i)| **b != byte(stream, *i)).map(|(_, i)| i)
}

#[cfg(test)]
mod tests {
    use super::{fill, first_difference};

    #[test]
    fn a_shifted_or_changed_stream_is_noticed() {
        let mut bytes = [0; 1000];
        fill(7, 123, &mut bytes);
        assert_eq!(first_difference(7, 123, &bytes), None);
        assert!(first_difference(7, 124, &bytes).is_some_and(|at| at < 134));
        assert!(first_difference(8, 123, &bytes).is_some_and(|at| at < 133));
        bytes[500] ^= 1;
        assert_eq!(first_difference(7, 123, &bytes), Some(623));
    }
}
