//! TCP sequence numbers (RFC 9293 3.4): arithmetic modulo 2^32, no total order.

/// A TCP sequence number. It has no `Ord`: sequence order wraps, so comparisons are named methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// `self + bytes`, wrapping.
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// `self - bytes`, wrapping.
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// Bytes from `earlier` to `self`, modulo 2^32.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// `self < other` in sequence order (RFC 9293 3.4).
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// `self > other` in sequence order.
    #[must_use]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// `self <= other` in sequence order.
    #[must_use]
    pub const fn at_or_before(self, other: Self) -> bool {
        !other.before(self)
    }

    /// `self >= other` in sequence order.
    #[must_use]
    pub const fn at_or_after(self, other: Self) -> bool {
        !self.before(other)
    }

    /// The later of the two in sequence order.
    #[must_use]
    pub const fn later(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two in sequence order.
    #[must_use]
    pub const fn earlier(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::SeqNum;

    #[test]
    fn order_wraps_at_two_to_the_32() {
        let high = SeqNum(u32::MAX - 1);
        let low = high.plus(10);
        assert!(high.before(low) && low.after(high));
        assert_eq!(low.since(high), 10);
        assert_eq!(high.later(low), low);
        assert_eq!(high.earlier(low), high);
        assert!(high.at_or_before(high) && high.at_or_after(high));
    }
}
