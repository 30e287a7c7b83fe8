//! Big-endian loads and stores at offsets that the compiler checks against the length of the array.

/// The output slice is shorter than what is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooShort {
    /// Bytes that are needed.
    pub needed: usize,
}

/// The `L` bytes at `AT`.
#[inline(always)]
pub(crate) const fn array<const AT: usize, const L: usize, const N: usize>(from: &[u8; N]) -> [u8; L] {
    const { assert!(AT + L <= N) };
    let mut out = [0; L];
    let mut i = 0;
    while i < L {
        out[i] = from[AT + i];
        i += 1;
    }
    out
}

/// The 16-bit number at `AT`.
#[inline(always)]
pub(crate) const fn be16<const AT: usize, const N: usize>(from: &[u8; N]) -> u16 {
    u16::from_be_bytes(array::<AT, 2, N>(from))
}

/// The 32-bit number at `AT`.
#[inline(always)]
pub(crate) const fn be32<const AT: usize, const N: usize>(from: &[u8; N]) -> u32 {
    u32::from_be_bytes(array::<AT, 4, N>(from))
}

/// Writes `value` at `AT`.
#[inline(always)]
pub(crate) const fn put<const AT: usize, const L: usize, const N: usize>(to: &mut [u8; N], value: [u8; L]) {
    const { assert!(AT + L <= N) };
    let mut i = 0;
    while i < L {
        to[AT + i] = value[i];
        i += 1;
    }
}

/// Writes the 16-bit number `value` at `AT`.
#[inline(always)]
pub(crate) const fn put16<const AT: usize, const N: usize>(to: &mut [u8; N], value: u16) {
    put::<AT, 2, N>(to, value.to_be_bytes());
}

/// Writes the 32-bit number `value` at `AT`.
#[inline(always)]
pub(crate) const fn put32<const AT: usize, const N: usize>(to: &mut [u8; N], value: u32) {
    put::<AT, 4, N>(to, value.to_be_bytes());
}

/// The first `N` bytes of `out`, to be written.
#[inline(always)]
pub(crate) fn room<const N: usize>(out: &mut [u8]) -> Result<&mut [u8; N], TooShort> {
    out.first_chunk_mut::<N>().ok_or(TooShort { needed: N })
}

/// Writes the 16-bit number `value` at byte `at` of `out`.
#[inline(always)]
pub(crate) fn store16(out: &mut [u8], at: usize, value: u16) -> Result<(), TooShort> {
    match out.get_mut(at..).and_then(|o| o.first_chunk_mut::<2>()) {
        Some(field) => {
            *field = value.to_be_bytes();
            Ok(())
        }
        None => Err(TooShort { needed: at + 2 }),
    }
}
