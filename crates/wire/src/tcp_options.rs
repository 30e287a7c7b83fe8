//! TCP options: MSS (RFC 9293 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018), fast open (RFC 7413), and
//! that there is a signature by MD5 (RFC 2385) or TCP-AO (RFC 5925), for which room is made on the way out. Every other kind is skipped.
//!
//! Malformed options never fail: what stands before the bad length counts, the rest is ignored. Which options count in
//! which segment (MSS, window scale, SACK-permitted in SYNs only) is the engine's business.

use base::SeqNum;

use crate::bytes::{TooShort, array, be32};
use crate::sign::{AO, MD5};
pub use crate::sign::{MD5_LEN, SIGNATURE_AT, Sign, signature_at};

/// Bytes of all options of one segment, at most.
pub const OPTIONS_LEN_MAX: usize = 40;
/// SACK blocks of one segment, at most (RFC 2018 3).
pub const SACK_BLOCKS_MAX: usize = 4;
/// Largest shift of the window (RFC 7323 2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

pub(crate) const END: u8 = 0;
pub(crate) const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const FAST_OPEN: u8 = 34;
/// Options on trial (RFC 6994), told apart by two bytes behind the length.
const TRIAL: u8 = 254;
/// Those of fast open before it had a number of its own (RFC 7413 4.1.1).
const TRIAL_FAST_OPEN: [u8; 2] = [0xf9, 0x89];

/// Bytes of a fast open cookie, at most (RFC 7413 2).
pub const COOKIE_LEN_MAX: usize = 16;
/// The same, at least.
pub const COOKIE_LEN_MIN: usize = 4;

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

/// Up to four SACK blocks, in the order of the option; or in their place, as only SYNs have it and they have no blocks, the fast open option.
#[derive(Clone, Copy, Debug, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; SACK_BLOCKS_MAX],
    count: u8,
    /// 0: no fast open option; else the length of the cookie and 1, with [`ON_TRIAL`] in the old form.
    fast_open: u8,
}

/// Bit of [`SackBlocks::fast_open`].
const ON_TRIAL: u8 = 0x80;

impl SackBlocks {
    /// No block.
    pub const NONE: Self = Self {
        blocks: [SackBlock { left: SeqNum(0), right: SeqNum(0) }; SACK_BLOCKS_MAX],
        count: 0,
        fast_open: 0,
    };

    /// The blocks.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.count)).unwrap_or(&self.blocks)
    }

    /// `option` in the place of blocks.
    #[cold]
    fn of_fast_open(option: &FastOpen) -> Self {
        let on_trial = if option.on_trial { ON_TRIAL } else { 0 };
        let mut blocks = Self { fast_open: (option.len + 1) | on_trial, ..Self::NONE };
        let mut words = option.bytes.as_chunks::<4>().0.iter().map(|word| SeqNum(u32::from_be_bytes(*word)));
        for block in &mut blocks.blocks {
            block.left = words.next().unwrap_or_default();
            block.right = words.next().unwrap_or_default();
        }
        blocks
    }

    /// The option in the place of blocks.
    fn fast_open(&self) -> Option<FastOpen> {
        if self.fast_open == 0 { None } else { Some(self.as_fast_open()) }
    }

    #[cold]
    fn as_fast_open(&self) -> FastOpen {
        let mut bytes = [0; COOKIE_LEN_MAX];
        let words = self.blocks.iter().flat_map(|block| [block.left.0, block.right.0]);
        for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_be_bytes();
        }
        let len = (self.fast_open & !ON_TRIAL).saturating_sub(1);
        FastOpen { bytes, len, on_trial: self.fast_open & ON_TRIAL != 0 }
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
        self.as_slice() == other.as_slice() && self.fast_open() == other.fast_open()
    }
}
impl Eq for SackBlocks {}

/// The fast open option (RFC 7413 4.1.1): a cookie of 4 to 16 bytes, or none at all, which asks for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastOpen {
    bytes: [u8; COOKIE_LEN_MAX],
    len: u8,
    /// In the form that was used before the option had a number.
    pub on_trial: bool,
}

impl FastOpen {
    /// Asks for a cookie.
    pub const REQUEST: Self = Self { bytes: [0; COOKIE_LEN_MAX], len: 0, on_trial: false };

    /// The option with `cookie`. `None`: a cookie has 4 to 16 bytes, an even number; none are a request.
    #[must_use]
    pub fn of(cookie: &[u8], on_trial: bool) -> Option<Self> {
        let fits = cookie.is_empty() || (COOKIE_LEN_MIN..=COOKIE_LEN_MAX).contains(&cookie.len());
        let mut option = Self { len: cookie.len() as u8, on_trial, ..Self::REQUEST };
        if !fits || !cookie.len().is_multiple_of(2) {
            return None;
        }
        option.bytes.get_mut(..cookie.len())?.copy_from_slice(cookie);
        Some(option)
    }

    /// The cookie; empty in a request.
    #[must_use]
    pub fn cookie(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    /// The option as it is sent, NOPs behind it.
    #[cold]
    fn emit(&self) -> [u8; COOKIE_LEN_MAX + 4] {
        let mut out = [NOP; COOKIE_LEN_MAX + 4];
        let len = self.cookie().len();
        let head: &[u8] = if self.on_trial {
            &[TRIAL, 4 + len as u8, TRIAL_FAST_OPEN[0], TRIAL_FAST_OPEN[1]]
        } else {
            &[FAST_OPEN, 2 + len as u8]
        };
        for (to, from) in out.iter_mut().zip(head.iter().chain(self.cookie())) {
            *to = *from;
        }
        out
    }
}

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
    /// How it is signed.
    pub sign: Sign,
}

/// Bytes of the options of a SYN as Linux and we lay them out: MSS, SACK-permitted, timestamps, window scale.
pub(crate) const SYN_OPTIONS_LEN: usize = 20;
/// The words of them before and behind the timestamps' values.
const SYN_WORDS: [u32; 3] = [
    u32::from_be_bytes([MSS, 4, 0, 0]),
    u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10]),
    u32::from_be_bytes([NOP, WINDOW_SCALE, 3, 0]),
];

/// [`SYN_WORDS`] with an MSS and the shift of the window.
#[inline(always)]
pub(crate) const fn syn_words(mss: u16, shift: u8) -> [u32; 3] {
    let shift = if shift > WINDOW_SCALE_MAX { WINDOW_SCALE_MAX } else { shift };
    [SYN_WORDS[0] | mss as u32, SYN_WORDS[1], SYN_WORDS[2] | shift as u32]
}

/// Are `bytes` the options of a SYN in that layout?
#[inline]
pub(crate) const fn is_syn_layout(bytes: &[u8; SYN_OPTIONS_LEN]) -> bool {
    be32::<0, _>(bytes) >> 16 == SYN_WORDS[0] >> 16
        && be32::<4, _>(bytes) == SYN_WORDS[1]
        && be32::<16, _>(bytes) >> 8 == SYN_WORDS[2] >> 8
}

/// The options of a SYN in that layout.
#[inline]
pub(crate) fn syn_options(bytes: &[u8; SYN_OPTIONS_LEN]) -> TcpOptions {
    TcpOptions {
        mss: Some(be32::<0, _>(bytes) as u16),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: be32::<8, _>(bytes), echo: be32::<12, _>(bytes) }),
        window_scale: Some((be32::<16, _>(bytes) as u8).min(WINDOW_SCALE_MAX)),
        ..TcpOptions::NONE
    }
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
        sign: Sign::None,
    };

    /// These with the fast open option, for a SYN: it takes the place of SACK blocks.
    #[must_use]
    pub fn with_fast_open(self, option: &FastOpen) -> Self {
        Self { sack: SackBlocks::of_fast_open(option), ..self }
    }

    /// The fast open option.
    #[must_use]
    pub fn fast_open(&self) -> Option<FastOpen> {
        self.sack.fast_open()
    }

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
        if let Some(bytes) = bytes.as_array().filter(|bytes| is_syn_layout(bytes)) {
            return syn_options(bytes);
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
            (MD5 | AO, data) => self.sign = self.sign.after(kind, data),
            (FAST_OPEN, cookie) => self.take_fast_open(cookie, false),
            (TRIAL, data) => {
                if let Some(cookie) = data.strip_prefix(&TRIAL_FAST_OPEN) {
                    self.take_fast_open(cookie, true);
                }
            }
            _ => {}
        }
    }

    /// RFC 7413 4.1.1: a cookie of another length than it may have is as none.
    #[cold]
    fn take_fast_open(&mut self, cookie: &[u8], on_trial: bool) {
        if let Some(option) = FastOpen::of(cookie, on_trial) {
            self.sack = SackBlocks::of_fast_open(&option);
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
        if self.sack.is_empty() {
            return 0;
        }
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
        let fast_open = match self.sack.fast_open {
            0 => 0,
            coded => {
                let head = if coded & ON_TRIAL != 0 { 4 } else { 2 };
                (head + (coded & !ON_TRIAL) as usize - 1).next_multiple_of(4)
            }
        };
        self.sign.len_bytes() + mss + scale + rest + fast_open
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
        if !matches!(self.sign, Sign::None) {
            self.sign.emit(&mut words);
        }
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
        if let Some(option) = self.fast_open() {
            // As many of the words as there is room for.
            option.emit().as_chunks::<4>().0.iter().for_each(|word| put(*word));
        }
        Ok(len)
    }
}
