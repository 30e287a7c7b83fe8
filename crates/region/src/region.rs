//! The region as a whole: its header and where everything lies.
//!
//! | what | bytes |
//! |---|---|
//! | header: magic, layout version, shape, hash key, what lanes share of the frame pool, directory of flows, what they share of AF_XDP rings | 4096 |
//! | one control block a lane: lock, signals, request ring, mailbox | 4096 each |
//! | one span a lane: the tables that `state` carves | `lane_bytes` each |
//! | frame records | 16 a frame |
//! | links of the frame pool | 8 a frame |
//! | frames, which are also the AF_XDP UMEM | `FRAME_BYTES` each |
//!
//! Invariant: every offset is computed from the shape, never read from the region; a region whose shape does not fit its
//! memory is not opened.

use core::sync::atomic::{AtomicU64, Ordering};

use base::LaneId;
use base::limits::{DEVICES, FRAME_BYTES, LANES};

use crate::directory::{DIRECTORY_BYTES, Directory};
use crate::elastic::Shared;
use crate::frames::FrameMeta;
use crate::rings::RingsRow;
use crate::{FrameArea, LaneRef, SharedRings};

/// How many lanes and frames a region has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionShape {
    /// Lanes, 1 to `LANES`.
    pub lanes: u16,
    /// Bytes of tables for each lane; a multiple of 4096.
    pub lane_bytes: u64,
    /// Frames that all lanes share.
    pub frames: u32,
}

/// Why memory is not a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionError {
    /// The shape is outside its limits.
    Shape,
    /// The memory is smaller than the shape needs.
    TooSmall,
    /// It does not begin as a region does.
    NotARegion,
    /// It is a region of this other layout version.
    Version(u32),
}

impl core::fmt::Display for RegionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Shape => f.write_str("the number of lanes, frames or bytes is outside the limits"),
            Self::TooSmall => f.write_str("the memory is too small for a region of this shape"),
            Self::NotARegion => f.write_str("the memory is not a Corelane region"),
            Self::Version(v) => {
                write!(f, "the region has layout version {v}, which this program does not know")
            }
        }
    }
}

impl core::error::Error for RegionError {}

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;
/// "Corelane" in ASCII, as the first word.
const MAGIC: u64 = u64::from_le_bytes(*b"Corelane");

// Words of the header.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_LANES: usize = 2;
const AT_LANE_BYTES: usize = 3;
const AT_FRAMES: usize = 4;
const AT_KEY: [usize; 2] = [5, 6];
/// Alone in its cache line: every lane changes it.
const AT_POOL: usize = 16;
/// The directory.
const AT_DIRECTORY: usize = 128;
const _: () = assert!(AT_DIRECTORY + DIRECTORY_BYTES / 8 <= AT_RINGS);
/// The shared rings of each device.
const AT_RINGS: usize = 384;
const RINGS_WORDS: usize = size_of::<RingsRow>() / 8;
const _: () = assert!((AT_RINGS + DEVICES * RINGS_WORDS) * 8 <= PAGE as usize);
/// Changed with the pool.
const AT_SPARE: usize = 17;
const AT_LOW: usize = 18;
const AT_TRIM: usize = 19;
const AT_BARE: usize = 24;
const AT_BARE_SPARE: usize = 25;
const AT_FRESH: usize = 32;
const AT_ELASTIC: usize = 40;

/// Byte offsets of the parts of a region.
#[derive(Clone, Copy)]
struct Parts {
    control: u64,
    spans: u64,
    metas: u64,
    links: u64,
    frames: u64,
    end: u64,
}

impl Parts {
    /// `None` when the shape is outside its limits.
    fn of(shape: &RegionShape) -> Option<Self> {
        let lanes = u64::from(shape.lanes);
        let frames = u64::from(shape.frames);
        if lanes == 0
            || lanes > LANES as u64
            || !shape.lane_bytes.is_multiple_of(PAGE)
            || shape.frames == u32::MAX
        {
            return None;
        }
        let control = PAGE;
        let spans = control + lanes * PAGE;
        let metas = spans.checked_add(lanes.checked_mul(shape.lane_bytes)?)?;
        let links = metas.checked_add(frames * size_of::<FrameMeta>() as u64)?;
        let cells = links.checked_add(frames * 8)?.checked_next_multiple_of(PAGE)?;
        let end = cells.checked_add(frames * FRAME_BYTES as u64)?.checked_next_multiple_of(HUGE_PAGE)?;
        Some(Self { control, spans, metas, links, frames: cells, end })
    }
}

/// One mapping of a region. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Region {
    words: &'static [AtomicU64],
    shape: RegionShape,
    parts: Parts,
}

impl Region {
    /// Bytes a region of this shape needs, a multiple of 2 MiB; `u64::MAX` for an impossible shape.
    #[must_use]
    pub fn bytes_needed(shape: &RegionShape) -> u64 {
        Parts::of(shape).map_or(u64::MAX, |p| p.end)
    }

    /// Formats zeroed memory. `layout_version` is that of crate `state`; `key` keys the flow hash and is secret.
    /// Every frame is free afterwards, and no memory of one was touched; the lanes' spans stay zero.
    ///
    /// # Errors
    /// [`RegionError::Shape`] or [`RegionError::TooSmall`].
    pub fn format(
        words: &'static [AtomicU64],
        shape: &RegionShape,
        layout_version: u32,
        key: [u64; 2],
    ) -> Result<Self, RegionError> {
        let region = Self::over(words, *shape)?;
        let put = |at: usize, value: u64| region.header(at).store(value, Ordering::Relaxed);
        put(AT_VERSION, u64::from(layout_version));
        put(AT_LANES, u64::from(shape.lanes));
        put(AT_LANE_BYTES, shape.lane_bytes);
        put(AT_FRAMES, u64::from(shape.frames));
        put(AT_KEY[0], key[0]);
        put(AT_KEY[1], key[1]);
        put(AT_POOL, u64::from(u32::MAX));
        put(AT_BARE, u64::from(u32::MAX));
        for at in [AT_SPARE, AT_BARE_SPARE, AT_LOW, AT_TRIM, AT_FRESH, AT_ELASTIC] {
            put(at, 0);
        }
        region.header(AT_MAGIC).store(MAGIC, Ordering::Release);
        Ok(region)
    }

    /// [`Region::format`] for a maker that maps the memory for this only and may unmap it afterwards.
    ///
    /// # Errors
    /// As [`Region::format`].
    pub fn prepare(
        words: &[AtomicU64],
        shape: &RegionShape,
        layout_version: u32,
        key: [u64; 2],
    ) -> Result<(), RegionError> {
        // SAFETY: the same words; `format` keeps them nowhere but in the `Region` it gives, which ends here.
        let words = unsafe { core::slice::from_raw_parts(words.as_ptr(), words.len()) };
        Self::format(words, shape, layout_version, key).map(|_| ())
    }

    /// The memory of frames that are free for long may go back to the kernel from now on. Only for a region whose frames
    /// no device has registered, nor will: an AF_XDP UMEM keeps the pages that it was registered with.
    pub fn make_elastic(words: &[AtomicU64]) {
        if let Some(word) = words.get(AT_ELASTIC) {
            word.store(1, Ordering::Release);
        }
    }

    /// Opens a region that [`Region::format`] made, here or in another process.
    ///
    /// # Errors
    /// [`RegionError`] when it is none, has another layout version, or does not fit its memory.
    pub fn open(words: &'static [AtomicU64], layout_version: u32) -> Result<Self, RegionError> {
        let get = |at: usize| words.get(at).map_or(0, |w| w.load(Ordering::Acquire));
        if get(AT_MAGIC) != MAGIC {
            return Err(RegionError::NotARegion);
        }
        let version = get(AT_VERSION);
        if version != u64::from(layout_version) {
            return Err(RegionError::Version(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        let shape = RegionShape {
            lanes: u16::try_from(get(AT_LANES)).map_err(|_| RegionError::Shape)?,
            lane_bytes: get(AT_LANE_BYTES),
            frames: u32::try_from(get(AT_FRAMES)).map_err(|_| RegionError::Shape)?,
        };
        Self::over(words, shape)
    }

    fn over(words: &'static [AtomicU64], shape: RegionShape) -> Result<Self, RegionError> {
        let parts = Parts::of(&shape).ok_or(RegionError::Shape)?;
        if parts.end / 8 > words.len() as u64 {
            return Err(RegionError::TooSmall);
        }
        Ok(Self { words, shape, parts })
    }

    /// Is `other` the same mapping?
    #[must_use]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        core::ptr::eq(self.words, other.words)
    }

    /// Its lanes and frames.
    #[must_use]
    pub fn shape(&self) -> RegionShape {
        self.shape
    }

    /// The secret that keys the flow hash.
    #[must_use]
    pub fn key(&self) -> [u64; 2] {
        AT_KEY.map(|at| self.header(at).load(Ordering::Relaxed))
    }

    /// Which lane has which flows.
    #[must_use]
    pub fn directory(&self) -> Option<Directory> {
        Directory::new(self.words.get(AT_DIRECTORY..AT_DIRECTORY + DIRECTORY_BYTES / 8)?)
    }

    /// What its lanes share of the AF_XDP rings of their device number `device`. `None` beyond `DEVICES`.
    #[must_use]
    pub fn rings(&self, device: u8) -> Option<SharedRings> {
        let at = AT_RINGS + usize::from(device) * RINGS_WORDS;
        let words = self.words.get(at..at + RINGS_WORDS).filter(|_| usize::from(device) < DEVICES)?;
        SharedRings::new(words)
    }

    /// The frames and their records.
    #[must_use]
    pub fn frame_area(&self) -> FrameArea {
        let (parts, frames) = (self.parts, self.shape.frames as usize);
        let metas = self.span(parts.metas, frames * size_of::<FrameMeta>());
        let links = self.span(parts.links, frames * 8);
        let cells = self.span(parts.frames, frames * FRAME_BYTES);
        let shared = Shared {
            pool: self.header(AT_POOL),
            spare: self.header(AT_SPARE),
            low: self.header(AT_LOW),
            trim_at: self.header(AT_TRIM),
            bare: self.header(AT_BARE),
            bare_spare: self.header(AT_BARE_SPARE),
            fresh: self.header(AT_FRESH),
            elastic: self.header(AT_ELASTIC),
        };
        // SAFETY: both spans lie in the mapping, which lasts as long as the process, and are as long as `frames` asks.
        unsafe { FrameArea::new(metas.as_ptr() as *mut FrameMeta, cells.as_ptr() as *mut u8, shared, links) }
    }

    /// Byte offset of the first frame in the region: where the UMEM begins in the memfd. A multiple of 4096.
    #[must_use]
    pub fn frames_offset(&self) -> u64 {
        self.parts.frames
    }

    /// Byte offset of the first frame in a region of this shape; `None` for an impossible shape.
    #[must_use]
    pub fn frames_offset_of(shape: &RegionShape) -> Option<u64> {
        Parts::of(shape).map(|parts| parts.frames)
    }

    /// The lane numbered `id`.
    #[must_use]
    pub fn lane(&self, id: LaneId) -> Option<LaneRef> {
        if id.0 >= self.shape.lanes {
            return None;
        }
        let control = self.span(self.parts.control + u64::from(id.0) * PAGE, PAGE as usize);
        LaneRef::new(*self, id, control)
    }

    /// The tables of lane `id`.
    pub(crate) fn lane_span(&self, id: LaneId) -> &'static [AtomicU64] {
        let bytes = self.shape.lane_bytes;
        self.span(self.parts.spans + u64::from(id.0) * bytes, bytes as usize)
    }

    /// `bytes` bytes from byte `at`; both from [`Parts`], hence inside.
    fn span(&self, at: u64, bytes: usize) -> &'static [AtomicU64] {
        let first = (at / 8) as usize;
        self.words.get(first..first + bytes / 8).unwrap_or(&[])
    }

    fn header(&self, at: usize) -> &'static AtomicU64 {
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.words.get(at).unwrap_or(&NOWHERE) // never: the header page lies inside
    }
}
