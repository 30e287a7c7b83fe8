//! Indices and addresses.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Index of one `T` in its typed table of the region; the region's pointer. `u32::MAX` is [`Idx::NONE`].
#[repr(transparent)]
pub struct Idx<T> {
    raw: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Idx<T> {
    /// No entry.
    pub const NONE: Self = Self::new(u32::MAX);

    /// The entry numbered `raw`.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self { raw, kind: PhantomData }
    }

    /// The number as stored.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.raw
    }

    /// The number as a slice index.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.raw as usize
    }

    /// Is this [`Idx::NONE`]?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.raw == u32::MAX
    }

    /// `Some(self)` unless this is [`Idx::NONE`].
    #[must_use]
    pub const fn some(self) -> Option<Self> {
        if self.is_none() { None } else { Some(self) }
    }
}

impl<T> Clone for Idx<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Idx<T> {}
impl<T> PartialEq for Idx<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<T> Eq for Idx<T> {}
impl<T> Hash for Idx<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}
impl<T> Default for Idx<T> {
    fn default() -> Self {
        Self::NONE
    }
}
impl<T> fmt::Debug for Idx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() { f.write_str("#none") } else { write!(f, "#{}", self.raw) }
    }
}

/// One frame of the region's frame area. `u32::MAX` is [`FrameIdx::NONE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(transparent)]
pub struct FrameIdx(pub u32);

impl FrameIdx {
    /// No frame.
    pub const NONE: Self = Self(u32::MAX);

    /// Is this [`FrameIdx::NONE`]?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == u32::MAX
    }

    /// `Some(self)` unless this is [`FrameIdx::NONE`].
    #[must_use]
    pub const fn some(self) -> Option<Self> {
        if self.is_none() { None } else { Some(self) }
    }
}

impl Default for FrameIdx {
    fn default() -> Self {
        Self::NONE
    }
}

/// Number of a lane in its region, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct LaneId(pub u16);

/// A TCP or UDP port number in host order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Port(pub u16);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Is the group bit set (IEEE 802.3 3.2.3)?
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IP address of either family in 16 bytes; IPv4 is stored mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
/// All zero means "any".
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct IpAddress(pub [u8; 16]);

/// What stands in front of the 32 bits of a mapped IPv4 address.
const MAPPED: u128 = 0xffff;

impl IpAddress {
    /// The unspecified address: any address of either family.
    pub const ANY: Self = Self([0; 16]);

    /// Any IPv4 address: what a socket of AF_INET listens at.
    pub const ANY_V4: Self = Self::mapped(Ipv4Addr::UNSPECIFIED);

    /// Any IPv6 address and no IPv4 one (IPV6_V6ONLY). Written as the group ff00::, which is reserved (RFC 4291 2.7.1) and so no station's.
    pub const ANY_V6: Self = Self([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    /// `a` as a mapped address, the unspecified address too: for comparing and hashing.
    #[inline]
    #[must_use]
    pub const fn mapped(a: Ipv4Addr) -> Self {
        Self((MAPPED << 32 | a.to_bits() as u128).to_be_bytes())
    }

    /// `a` as a mapped address. The unspecified IPv4 address becomes [`IpAddress::ANY`].
    #[must_use]
    pub const fn from_v4(a: Ipv4Addr) -> Self {
        // As one number: the compiler makes two words of it, where it would put sixteen bytes together one by one.
        let bits = a.to_bits() as u128;
        if bits == 0 {
            return Self::ANY;
        }
        Self((MAPPED << 32 | bits).to_be_bytes())
    }

    /// `a`, which may itself be a mapped IPv4 address.
    #[must_use]
    pub const fn from_v6(a: Ipv6Addr) -> Self {
        Self(a.octets())
    }

    /// The IPv4 address, if it is one. [`IpAddress::ANY`] gives `None`.
    #[must_use]
    pub const fn as_v4(self) -> Option<Ipv4Addr> {
        let bits = u128::from_be_bytes(self.0);
        if bits >> 32 == MAPPED { Some(Ipv4Addr::from_bits(bits as u32)) } else { None }
    }

    /// The address as IPv6, IPv4 in its mapped form.
    #[must_use]
    pub const fn as_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.0)
    }

    /// Is it an IPv4 address, or any of them? [`IpAddress::ANY`] is none.
    #[inline]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        u128::from_be_bytes(self.0) >> 32 == MAPPED
    }

    /// Does it stand for many: [`IpAddress::ANY`], [`IpAddress::ANY_V4`] or [`IpAddress::ANY_V6`]?
    #[must_use]
    pub const fn is_wild(self) -> bool {
        let bits = u128::from_ne_bytes(self.0);
        bits == 0
            || bits == u128::from_ne_bytes(Self::ANY_V4.0)
            || bits == u128::from_ne_bytes(Self::ANY_V6.0)
    }

    /// Does a socket at this address, which may stand for many, take what is for the station address `addr`?
    #[must_use]
    pub fn covers(self, addr: Self) -> bool {
        self == addr
            || self.is_any()
            || (self == Self::ANY_V4 && addr.is_v4())
            || (self == Self::ANY_V6 && !addr.is_v4())
    }

    /// Can one station have it: is it neither a group nor unspecified, of either family?
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        match self.as_v4() {
            Some(a) => !(a.is_multicast() || a.is_broadcast() || a.is_unspecified()),
            None => !(self.is_any() || self.0[0] == 0xff),
        }
    }

    /// Is this [`IpAddress::ANY`]?
    #[must_use]
    pub const fn is_any(self) -> bool {
        u128::from_ne_bytes(self.0) == 0
    }
}

impl fmt::Debug for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_v4() {
            Some(v4) => fmt::Display::fmt(&v4, f),
            None => fmt::Display::fmt(&self.as_v6(), f),
        }
    }
}
