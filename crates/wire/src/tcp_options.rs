//! TCP options: MSS (RFC 9293 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018); MD5 (RFC 2385) and
//! TCP-AO (RFC 5925) are noted as present, every other kind is skipped.
//!
//! Malformed options never fail: what stands before the bad length counts, the rest is ignored. Which options count in
//! which segment (MSS, window scale, SACK-permitted in SYNs only) is the engine's business.

use base::SeqNum;

use crate::bytes::{TooShort, array, be32};

/// Bytes of all options of one segment, at most.
pub const OPTIONS_LEN_MAX: usize = 40;
/// SACK blocks of one segment, at most (RFC 2018 3).
pub const SACK_BLOCKS_MAX: usize = 4;
/// Largest shift of the window (RFC 7323 2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const AO: u8 = 29;

/// How the timestamps option starts when two NOPs align it (RFC 7323 appendix A).
const ALIGNED_TIMESTAMPS: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];
/// Bytes of the aligned timestamps option.
const ALIGNED_TIMESTAMPS_LEN: usize = 12;

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the value it echoes; counts if ACK is set.
    pub echo: u32,
}

/// A block of received data that is not acknowledged yet (RFC 2018 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlock {
    /// First sequence number of the block.
    pub left: SeqNum,
    /// The sequence number after its last.
    pub right: SeqNum,
}

/// Up to four SACK blocks, in the order of the option.
#[derive(Clone, Copy, Debug, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; SACK_BLOCKS_MAX],
    count: u8,
}

impl SackBlocks {
    /// No block.
    pub const NONE: Self =
        Self { blocks: [SackBlock { left: SeqNum(0), right: SeqNum(0) }; SACK_BLOCKS_MAX], count: 0 };

    /// The blocks.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.count)).unwrap_or(&self.blocks)
    }

    /// Is there none?
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a block at the end; `false`: there are four already.
    #[inline]
    pub fn push(&mut self, block: SackBlock) -> bool {
        match self.blocks.get_mut(usize::from(self.count)) {
            Some(free) => {
                *free = block;
                self.count += 1;
                true
            }
            None => false,
        }
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl Eq for SackBlocks {}

/// The options of one segment. Of an option that comes twice, the last counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Largest segment the sender takes, bytes of payload and options (RFC 6691).
    pub mss: Option<u16>,
    /// Shift of the sender's window, 0 to 14. A larger one is read as 14 (RFC 7323 2.3).
    pub window_scale: Option<u8>,
    /// The sender understands SACK.
    pub sack_permitted: bool,
    /// The timestamps.
    pub timestamps: Option<Timestamps>,
    /// The SACK blocks.
    pub sack: SackBlocks,
    /// An MD5 signature is there (never emitted).
    pub has_md5: bool,
    /// A TCP-AO authentication is there (never emitted).
    pub has_ao: bool,
}

/// The options of a SYN as Linux and we lay them out: MSS, SACK-permitted, timestamps, window scale.
fn of_syn(bytes: &[u8]) -> Option<TcpOptions> {
    let bytes: &[u8; 20] = bytes.try_into().ok()?;
    let usual = be32::<0, _>(bytes) >> 16 == u32::from_be_bytes([0, 0, MSS, 4])
        && be32::<4, _>(bytes) == u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10])
        && be32::<16, _>(bytes) >> 8 == u32::from_be_bytes([0, NOP, WINDOW_SCALE, 3]);
    usual.then(|| TcpOptions {
        mss: Some(be32::<0, _>(bytes) as u16),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: be32::<8, _>(bytes), echo: be32::<12, _>(bytes) }),
        window_scale: Some((be32::<16, _>(bytes) as u8).min(WINDOW_SCALE_MAX)),
        ..TcpOptions::NONE
    })
}

/// The timestamps, if `options` is exactly the aligned timestamps option: what nearly every segment of an established
/// connection carries.
#[inline]
#[must_use]
pub fn only_timestamps(options: &[u8]) -> Option<Timestamps> {
    let exact: &[u8; ALIGNED_TIMESTAMPS_LEN] = options.try_into().ok()?;
    if array::<0, 4, _>(exact) != ALIGNED_TIMESTAMPS {
        return None;
    }
    Some(Timestamps { value: be32::<4, _>(exact), echo: be32::<8, _>(exact) })
}

impl TcpOptions {
    /// No option.
    pub const NONE: Self = Self {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        timestamps: None,
        sack: SackBlocks::NONE,
        has_md5: false,
        has_ao: false,
    };

    /// The options in `bytes`, the option bytes of one segment.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::NONE;
        }
        if let Some(timestamps) = only_timestamps(bytes) {
            return Self { timestamps: Some(timestamps), ..Self::NONE };
        }
        if let Some(options) = of_syn(bytes) {
            return options;
        }
        Self::parse_all(bytes)
    }

    /// The options in `bytes`, whatever their layout.
    fn parse_all(mut bytes: &[u8]) -> Self {
        let mut options = Self::NONE;
        while let [kind, rest @ ..] = bytes {
            match *kind {
                END => break,
                NOP => bytes = rest,
                kind => {
                    // RFC 9293 3.1 (MUST-7): be prepared for an illegal option length. Where the next option would
                    // start is not known then, so what follows is ignored.
                    let Some(&len) = rest.first() else { break };
                    let Some((option, after)) = bytes.split_at_checked(usize::from(len)) else { break };
                    let Some(data) = option.get(2..) else { break };
                    options.take(kind, data);
                    bytes = after;
                }
            }
        }
        options
    }

    /// Takes over one option. RFC 9293 3.1 (MUST-6): an unknown kind is ignored; so is a known one whose length is
    /// not its own.
    fn take(&mut self, kind: u8, data: &[u8]) {
        match (kind, data) {
            (MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            // RFC 7323 2.3: a shift above 14 is to be used as 14.
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(WINDOW_SCALE_MAX)),
            (SACK_PERMITTED, &[]) => self.sack_permitted = true,
            (TIMESTAMPS, data) => {
                if let Ok(data) = <&[u8; 8]>::try_from(data) {
                    let (value, echo) = (be32::<0, _>(data), be32::<4, _>(data));
                    self.timestamps = Some(Timestamps { value, echo });
                }
            }
            (SACK, data) => self.take_sack(data),
            (MD5, data) => self.has_md5 |= data.len() == 16,
            (AO, data) => self.has_ao |= data.len() >= 2,
            _ => {}
        }
    }

    fn take_sack(&mut self, data: &[u8]) {
        let (blocks, []) = data.as_chunks::<8>() else { return };
        self.sack = SackBlocks::NONE;
        for block in blocks {
            let (left, right) = (SeqNum(be32::<0, _>(block)), SeqNum(be32::<4, _>(block)));
            self.sack.push(SackBlock { left, right });
        }
    }

    /// SACK blocks that fit beside the other options (RFC 2018 3: three with timestamps, else four).
    #[inline]
    fn sack_fitting(&self) -> usize {
        let room = OPTIONS_LEN_MAX.saturating_sub(self.len_without_sack() + 4) / 8;
        room.min(self.sack.as_slice().len())
    }

    #[inline]
    const fn len_without_sack(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        // SACK-permitted takes the place of the two NOPs before the timestamps.
        let rest = match (self.timestamps.is_some(), self.sack_permitted) {
            (true, _) => ALIGNED_TIMESTAMPS_LEN,
            (false, true) => 4,
            (false, false) => 0,
        };
        mss + scale + rest
    }

    /// Bytes that [`TcpOptions::emit`] writes: a multiple of 4, at most 40.
    #[inline]
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        let sack = match self.sack_fitting() {
            0 => 0,
            blocks => 4 + 8 * blocks,
        };
        self.len_without_sack() + sack
    }

    /// Writes the options to the front of `out`, aligned and in the order that Linux uses; returns their length, a
    /// multiple of 4. SACK blocks that do not fit into 40 bytes are left out, the last first.
    ///
    /// # Errors
    /// `out` is too short; nothing has been written.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let len = self.len_bytes();
        if len == 0 {
            return Ok(0);
        }
        let Some(out) = out.get_mut(..len) else {
            return Err(TooShort { needed: len });
        };
        let mut words = out.as_chunks_mut::<4>().0.iter_mut();
        let mut put = |word: [u8; 4]| {
            if let Some(to) = words.next() {
                *to = word;
            }
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put([MSS, 4, a, b]);
        }
        match self.timestamps {
            Some(Timestamps { value, echo }) => {
                put(if self.sack_permitted {
                    [SACK_PERMITTED, 2, TIMESTAMPS, 10]
                } else {
                    ALIGNED_TIMESTAMPS
                });
                put(value.to_be_bytes());
                put(echo.to_be_bytes());
            }
            None if self.sack_permitted => put([NOP, NOP, SACK_PERMITTED, 2]),
            None => {}
        }
        if let Some(shift) = self.window_scale {
            put([NOP, WINDOW_SCALE, 3, shift.min(WINDOW_SCALE_MAX)]);
        }
        let blocks = self.sack_fitting();
        if blocks > 0 {
            put([NOP, NOP, SACK, 2 + 8 * blocks as u8]);
        }
        for block in self.sack.as_slice().iter().take(blocks) {
            put(block.left.0.to_be_bytes());
            put(block.right.0.to_be_bytes());
        }
        Ok(len)
    }
}
