//! VLAN tags (IEEE 802.1Q 9.6): one customer tag, one service tag, or both (802.1ad). More tags are an error.
//!
//! A tag stands where the EtherType of the frame says VLAN: 16 bits of tag control information, then the EtherType of
//! what follows.

use crate::bytes::{TooShort, be16, put16, room};
use crate::eth::{EthFrame, EtherType};

/// Bytes that a tag adds to a frame.
pub const TAG_LEN: usize = 4;

/// Why the tags of a frame cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanError {
    /// The frame ends within a tag.
    Truncated,
    /// A third tag follows the second.
    TooManyTags,
}

/// A tag and the EtherType after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VlanTag {
    /// Priority, 0 to 7 (PCP).
    pub priority: u8,
    /// May be dropped first (DEI).
    pub drop_eligible: bool,
    /// VLAN identifier, 0 to 4095; 0: the tag only carries a priority.
    pub id: u16,
    /// What follows the tag.
    pub ethertype: EtherType,
}

impl VlanTag {
    /// The tag at the front of `bytes`, the payload of a frame whose EtherType says VLAN, and what follows it.
    ///
    /// # Errors
    /// [`VlanError::Truncated`].
    pub const fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), VlanError> {
        let Some((head, payload)) = bytes.split_first_chunk::<TAG_LEN>() else {
            return Err(VlanError::Truncated);
        };
        let control = be16::<0, _>(head);
        let tag = Self {
            priority: (control >> 13) as u8,
            drop_eligible: control & 0x1000 != 0,
            id: control & 0x0fff,
            ethertype: EtherType(be16::<2, _>(head)),
        };
        Ok((tag, payload))
    }

    /// Writes the tag to the front of `out`, which is behind an Ethernet header whose EtherType says VLAN; returns
    /// [`TAG_LEN`]. Bits beyond the ranges of the fields are cut off.
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<TAG_LEN>(out)?;
        let eligible = if self.drop_eligible { 0x1000 } else { 0 };
        put16::<0, _>(to, (u16::from(self.priority & 7) << 13) | eligible | (self.id & 0x0fff));
        put16::<2, _>(to, self.ethertype.0);
        Ok(TAG_LEN)
    }
}

/// A frame without its tags.
#[derive(Clone, Copy, Debug)]
pub struct Untagged<'a> {
    /// The outermost tag.
    pub outer: Option<VlanTag>,
    /// The tag within the outermost.
    pub inner: Option<VlanTag>,
    /// What the payload is.
    pub ethertype: EtherType,
    /// What follows the tags.
    pub payload: &'a [u8],
}

impl<'a> Untagged<'a> {
    /// Takes up to two tags off `frame`.
    ///
    /// # Errors
    /// See [`VlanError`].
    #[inline]
    pub fn parse(frame: &EthFrame<'a>) -> Result<Self, VlanError> {
        let plain = Self { outer: None, inner: None, ethertype: frame.ethertype(), payload: frame.payload() };
        if plain.ethertype.is_vlan() { plain.take_tags() } else { Ok(plain) }
    }

    fn take_tags(self) -> Result<Self, VlanError> {
        let (outer, payload) = VlanTag::parse(self.payload)?;
        let one = Self { outer: Some(outer), ethertype: outer.ethertype, payload, ..self };
        if !one.ethertype.is_vlan() {
            return Ok(one);
        }
        let (inner, payload) = VlanTag::parse(payload)?;
        if inner.ethertype.is_vlan() {
            return Err(VlanError::TooManyTags);
        }
        Ok(Self { inner: Some(inner), ethertype: inner.ethertype, payload, ..one })
    }
}
