//! Making regions: sealed shared memory of a size the keeper agrees to, formatted and then unmapped.

use std::fmt;
use std::sync::atomic::AtomicU64;

use base::limits::{CONNECTIONS_MAX, FRAME_BYTES, LANES};
use control::proto::RegionWish;
use region::{Region, RegionShape};
use rustix::io::Errno;
use state::{LAYOUT_VERSION, LaneShape};
use sys::fds::Fd;
use sys::memory::{Access, Mapping, memfd};

use crate::client::Refusal;
use crate::settings::RegionSizes;

/// Largest region, bytes.
const REGION_BYTES_MAX: u64 = 64 << 30;

/// A region as the keeper knows it: it holds the memory, and never looks into it.
pub(crate) struct RegionMemory {
    /// The sealed memfd.
    pub(crate) fd: Fd,
    /// Its size, bytes.
    pub(crate) bytes: u64,
    /// Lanes and frames.
    pub(crate) shape: RegionShape,
    /// What it lies on.
    pub(crate) pages: Pages,
}

/// What a region lies on; shown behind its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// Ordinary pages, as wanted.
    Ordinary,
    /// Pages of 2 MiB.
    Huge,
    /// Ordinary ones, for want of so many huge ones; so many are free, if the system says.
    TooFew { needed: u64, free: Option<u64> },
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordinary => Ok(()),
            Self::Huge => f.write_str(", on pages of 2 MiB"),
            Self::TooFew { needed, free } => {
                write!(f, ", on ordinary pages: it needs {needed} of 2 MiB, and ")?;
                match free {
                    Some(free) => write!(f, "{free} are free")?,
                    None => f.write_str("too few are free")?,
                }
                f.write_str(" (raise sysctl vm.nr_hugepages, or ask for fewer --sockets or --frames)")
            }
        }
    }
}

impl RegionMemory {
    /// The number of the memory object, by which /proc names it.
    pub(crate) fn inode(&self) -> Option<u64> {
        rustix::fs::fstat(&self.fd).ok().map(|stat| stat.st_ino)
    }

    /// Calls `f` with the frames, mapped for the time of the call: AF_XDP pins what it is given.
    pub(crate) fn with_frames<R>(
        &self,
        f: impl FnOnce(&[AtomicU64]) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let mapping = Mapping::shared(&self.fd, self.bytes, Access::Write)?;
        let first = Region::frames_offset_of(&self.shape).ok_or(Errno::INVAL)? / 8;
        let words = u64::from(self.shape.frames) * (FRAME_BYTES as u64 / 8);
        let range = first as usize..(first + words) as usize;
        f(mapping.words().get(range).ok_or(Errno::INVAL)?)
    }
}

/// The lane shape that a wish's words say; they are `LaneShape`'s fields in order.
fn lane_shape(wish: &RegionWish) -> Result<LaneShape, Refusal> {
    let wrong = |what: &str| Refusal::new(Errno::INVAL, format!("region: {what}"));
    let [socks, listeners, udp_socks, hops, reassemblies, boards, stock_high, dormant, rest @ ..] =
        wish.shape;
    if rest.iter().any(|&word| word != 0) {
        return Err(wrong("unknown words in its shape"));
    }
    let shape = LaneShape { socks, listeners, udp_socks, hops, reassemblies, boards, stock_high, dormant };
    let rows = [socks, listeners, udp_socks, hops, reassemblies, boards];
    if rows.iter().any(|&rows| rows > RegionSizes::SOCKETS_MAX) || socks == 0 {
        return Err(wrong("more rows in a table than the limit"));
    }
    if dormant > CONNECTIONS_MAX {
        return Err(wrong("more hibernating connections than the limit"));
    }
    Ok(shape)
}

/// Makes a region as wished; `elastic`: no device will register its frames. At most `left` bytes, if a policy says so.
pub(crate) fn make(
    (wish, left): (&RegionWish, Option<u64>),
    key: [u64; 2],
    elastic: bool,
) -> Result<RegionMemory, Refusal> {
    let wrong = |what: &str| Refusal::new(Errno::INVAL, format!("region: {what}"));
    if wish.lanes == 0 || usize::from(wish.lanes) > LANES {
        return Err(wrong(&format!("1 to {LANES} lanes")));
    }
    if wish.frames == 0 || wish.frames > RegionSizes::FRAMES_MAX {
        return Err(wrong("more frames than the limit"));
    }
    let lane_bytes = lane_shape(wish)?.lane_bytes();
    // Programs ask for as many as there may be; very large lanes are fewer.
    let fit = REGION_BYTES_MAX / 2 / lane_bytes.max(1);
    let lanes = wish.lanes.min(u16::try_from(fit).unwrap_or(u16::MAX).max(1));
    let shape = RegionShape { lanes, lane_bytes, frames: wish.frames };
    let bytes = Region::bytes_needed(&shape);
    if bytes > REGION_BYTES_MAX {
        return Err(Refusal::new(Errno::NOMEM, format!("region: {bytes} bytes are more than the limit")));
    }
    if let Some(left) = left.filter(|left| bytes > *left) {
        let text = format!(
            "region: {bytes} bytes are more than the {left} that the policy's `memory` leaves; ask for fewer --sockets or --frames"
        );
        return Err(Refusal::new(Errno::NOMEM, text));
    }
    let failed = |errno: Errno| Refusal::new(errno, format!("region of {bytes} bytes: {errno}"));
    let memory = memfd("corelane-region", bytes, wish.hugepages).map_err(failed)?;
    let pages = match (memory.huge, wish.hugepages) {
        (true, _) => Pages::Huge,
        (false, true) => {
            let needed = bytes.div_ceil(sys::memory::HUGE_PAGE_BYTES);
            Pages::TooFew { needed, free: sys::memory::free_huge_pages() }
        }
        (false, false) => Pages::Ordinary,
    };
    let mapping = Mapping::shared(&memory.fd, memory.bytes, Access::Write).map_err(failed)?;
    Region::prepare(mapping.words(), &shape, LAYOUT_VERSION, key)
        .map_err(|e| Refusal::new(Errno::INVAL, format!("region: {e}")))?;
    if elastic && !memory.huge {
        Region::make_elastic(mapping.words());
    }
    Ok(RegionMemory { fd: memory.fd, bytes: memory.bytes, shape, pages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::proto::SHAPE_WORDS;

    fn wish() -> RegionWish {
        let lane = LaneShape::for_socks(64);
        let mut shape = [0; SHAPE_WORDS];
        let words = [
            lane.socks,
            lane.listeners,
            lane.udp_socks,
            lane.hops,
            lane.reassemblies,
            lane.boards,
            lane.stock_high,
        ];
        shape[..7].copy_from_slice(&words);
        RegionWish { lanes: 2, frames: 512, hugepages: false, shape }
    }

    #[test]
    fn a_region_that_was_made_opens_with_its_shape() {
        let made = make((&wish(), None), [1, 2], true).expect("made");
        let words = sys::memory::map_shared(&made.fd, made.bytes).expect("mapped");
        let region = Region::open(words, LAYOUT_VERSION).expect("a region");
        assert_eq!(region.shape(), made.shape);
        assert_eq!(region.key(), [1, 2]);
    }

    #[test]
    fn huge_pages_are_used_or_it_is_said_how_many_are_missing() {
        let wish = RegionWish { hugepages: true, ..wish() };
        let made = make((&wish, None), [1, 2], true).expect("made");
        let needed = made.bytes / sys::memory::HUGE_PAGE_BYTES;
        match made.pages {
            Pages::Huge => {}
            Pages::TooFew { needed: said, free } => {
                assert_eq!(said, needed);
                assert!(free.is_none_or(|free| free < needed), "{free:?} of {needed}");
            }
            Pages::Ordinary => panic!("it was wished for"),
        }
        let words = sys::memory::map_shared(&made.fd, made.bytes).expect("mapped");
        assert!(Region::open(words, LAYOUT_VERSION).is_ok());
        let text = Pages::TooFew { needed: 9, free: Some(2) }.to_string();
        assert!(
            text.contains("needs 9 of 2 MiB, and 2 are free") && text.contains("vm.nr_hugepages"),
            "{text}"
        );
    }

    #[test]
    fn wishes_beyond_the_limits_are_refused() {
        let refused = |change: fn(&mut RegionWish)| {
            let mut wish = wish();
            change(&mut wish);
            make((&wish, None), [1, 2], false).err().map(|refusal| refusal.errno)
        };
        assert_eq!(refused(|w| w.lanes = 0), Some(Errno::INVAL));
        assert_eq!(refused(|w| w.lanes = LANES as u16 + 1), Some(Errno::INVAL));
        assert_eq!(refused(|w| w.frames = u32::MAX), Some(Errno::INVAL));
        assert_eq!(refused(|w| w.shape[0] = u32::MAX), Some(Errno::INVAL));
        assert_eq!(refused(|w| w.shape[15] = 1), Some(Errno::INVAL));
        assert_eq!(refused(|_| ()), None);
    }
}
