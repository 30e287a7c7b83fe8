//! Bytes as decisions: a target reads its script from the input.

/// What is left of an input. When it is used up, everything is 0.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Is it used up?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>().map_or(0, |[byte]| byte)
    }

    /// The next two, little-endian.
    pub fn half(&mut self) -> u16 {
        self.array().map_or(0, u16::from_le_bytes)
    }

    /// The next four.
    pub fn word(&mut self) -> u32 {
        self.array().map_or(0, u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let Some((taken, rest)) = self.bytes.split_first_chunk::<N>() else {
            self.bytes = &[];
            return None;
        };
        self.bytes = rest;
        Some(*taken)
    }

    /// Up to `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// A small signed difference: mostly 0, seldom large.
    pub fn delta(&mut self) -> u32 {
        match self.byte() {
            0..=127 => 0,
            byte @ 128..=191 => u32::from(byte - 128),
            byte @ 192..=247 => u32::from(byte - 191).wrapping_neg(),
            248..=251 => self.half().into(),
            252..=255 => self.word(),
        }
    }
}
