//! The one promise that lets bytes of a region be read as a type.

use base::{FrameIdx, Idx, Instant, IpAddress, LaneId, MacAddr, Port, SeqNum};

/// A type for which every bit pattern of its size is a value, with no pointer and no interior mutability.
/// Declare region structs with [`plain!`](crate::plain), which checks every field.
///
/// # Safety
/// The implementor is `repr(C)` or `repr(transparent)`, valid for every bit pattern (a corrupted region
/// must not make undefined behaviour), and means the same at every address and in every process.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain_scalars {
    ($($t:ty),*) => {$(
        // SAFETY: an integer, or a transparent wrapper of integers: every bit pattern is a value.
        unsafe impl Plain for $t {}
    )*};
}
plain_scalars!(
    u8, u16, u32, u64, u128, i8, i16, i32, i64, FrameIdx, Instant, IpAddress, LaneId, MacAddr, Port, SeqNum
);
// SAFETY: a transparent u32.
unsafe impl<T: 'static> Plain for Idx<T> {}
// SAFETY: an array of plain values has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Declares a `repr(C)` struct that may live in a region. Every field must itself be [`Plain`], so no
/// `bool`, no `enum`, no reference.
#[macro_export]
macro_rules! plain {
    ($(#[$m:meta])* $v:vis struct $name:ident { $($(#[$fm:meta])* $fv:vis $field:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        $v struct $name { $($(#[$fm])* $fv $field: $t),* }
        // SAFETY: repr(C), and the where clause demands that every field is plain.
        unsafe impl $crate::Plain for $name where $($t: $crate::Plain),* {}
    };
}
