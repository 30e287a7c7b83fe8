//! One small lane in memory that every input uses again: the engine, its frames, and packets in and out.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Duration, FrameIdx, Instant, IpAddress, LaneId, MacAddr};
use engine::Engine;
use port::chain;
use region::{LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{CsumState, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, RxBatch, RxFrame, TxBatch};

/// Frames of the region.
pub const FRAMES: u32 = 256;
/// Connections of the lane.
pub const SOCKS: u32 = 16;
/// Its address.
pub const OWN: [u8; 4] = [10, 0, 0, 1];
/// Its Ethernet address.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Everybody else's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Times in a row at which something may be due that was due before.
const STUCK_MAX: usize = 200;
/// Batches taken in one call, at most: more is a loop without end.
const BATCHES_MAX: usize = 1000;

thread_local! {
    static MEMORY: RefCell<Option<&'static [AtomicU64]>> = const { RefCell::new(None) };
}

/// The lane.
pub struct Host {
    /// The region's memory, word by word: what a corrupted region is made of.
    pub words: &'static [AtomicU64],
    region: Region,
    rx: Option<Box<RxBatch>>,
    tx: Option<Box<TxBatch>>,
}

fn shape() -> LaneShape {
    LaneShape {
        listeners: 4,
        udp_socks: 4,
        hops: 8,
        reassemblies: 4,
        boards: 4,
        stock_high: 64,
        dormant: 8,
        ..LaneShape::for_socks(SOCKS)
    }
}

fn region_shape() -> RegionShape {
    RegionShape { lanes: 1, lane_bytes: shape().lane_bytes(), frames: FRAMES }
}

fn port_info() -> PortInfo {
    let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
    if let Some(first) = addrs.first_mut() {
        *first = IpAddress::from_v4(OWN.into());
    }
    PortInfo { addrs, addr_count: 1, flags: PORT_UP, super_segment_max: 0, mac: MacAddr(OWN_MAC), mtu: 1500 }
}

impl Host {
    /// A fresh lane at `now`, with one port that has an address.
    ///
    /// # Errors
    /// No memory.
    pub fn new(now: Instant) -> Result<Self, String> {
        let shape = region_shape();
        let words = MEMORY.with(|memory| {
            let mut memory = memory.borrow_mut();
            match *memory {
                Some(words) => Ok(words),
                None => sys::memory::map_anonymous(Region::bytes_needed(&shape))
                    .inspect(|words| *memory = Some(words))
                    .map_err(|e| format!("no memory: {e}")),
            }
        })?;
        // The cells need no clearing: what is read from a frame was written before.
        let tables = Region::frames_offset_of(&shape).unwrap_or(0) / 8;
        for word in words.iter().take(tables as usize) {
            word.store(0, Ordering::Relaxed);
        }
        let region =
            Region::format(words, &shape, LAYOUT_VERSION, [1, 2]).map_err(|e| format!("no region: {e}"))?;
        let mut host = Self { words, region, rx: None, tx: None };
        let mut guard = host.lock().ok_or("a new lane is locked")?;
        LaneMem::format(&mut guard, &self::shape(), [3, 4], now).map_err(|e| format!("no lane: {e:?}"))?;
        drop(guard);
        host.engine(now, |e| e.set_port(0, &port_info())).ok_or("no tables")?;
        Ok(host)
    }

    fn lock(&self) -> Option<LaneGuard> {
        self.region.lane(LaneId(0))?.try_lock(Owner { pid: 1, tid: 1 })
    }

    /// Words of the region before its frame cells: header, locks, tables, records.
    #[must_use]
    pub fn table_words(&self) -> usize {
        (self.region.frames_offset() / 8) as usize
    }

    /// Calls `f` with the engine. `None`: the tables are not what they should be.
    pub fn engine<R>(&mut self, now: Instant, f: impl FnOnce(&mut Engine<'_>) -> R) -> Option<R> {
        let mut guard = self.lock()?;
        let area = guard.frame_area();
        let mem = LaneMem::carve(guard.carver(), &area).ok()?;
        Some(f(&mut Engine::new(mem, now)))
    }

    /// Hands `packets` (Ethernet frames) over in one batch; one that finds no frames is lost.
    pub fn receive(&mut self, now: Instant, packets: &[Vec<u8>], csum: CsumState) -> Option<()> {
        let mut batch = self.rx.take().unwrap_or_default();
        batch.clear();
        let done = self.engine(now, |engine| {
            for bytes in packets {
                let Some(head) = chain::of_bytes(&mut engine.mem().frames, bytes) else { continue };
                if batch.room() == 0 {
                    engine.mem().frames.release(head);
                    continue;
                }
                let len = bytes.len() as u32;
                batch.push(RxFrame { head, len, gso_size: 0, port: 0, local_peer: false, csum });
            }
            engine.handle_frames(&mut batch);
        });
        self.rx = Some(batch);
        done
    }

    /// Takes what the engine sends; `hop`: neighbours answer.
    ///
    /// # Errors
    /// It never ends.
    pub fn send(&mut self, now: Instant, hop: bool) -> Result<Vec<Vec<u8>>, String> {
        let mut sent = Vec::new();
        let mut batch = self.tx.take().unwrap_or_default();
        let ended = self.engine(now, |engine| {
            for _ in 0..BATCHES_MAX {
                if let Some((hop_at, key)) = engine.poll_unresolved() {
                    engine.handle_hop(hop_at, &key, hop.then_some(MacAddr(PEER_MAC)));
                }
                batch.clear();
                if engine.poll_transmit(&mut batch) == 0 {
                    return true;
                }
                let frames = &mut engine.mem().frames;
                for packet in batch.items() {
                    let mut bytes = Vec::new();
                    chain::read_tx(frames, packet, &mut bytes);
                    frames.release(packet.head);
                    sent.push(bytes);
                }
            }
            false
        });
        self.tx = Some(batch);
        if ended == Some(false) { Err("the engine sends without end".to_owned()) } else { Ok(sent) }
    }

    /// Lets `time` pass in steps of the engine's own deadlines, at most `steps`. Gives the time then.
    ///
    /// # Errors
    /// It never ends.
    pub fn pass(&mut self, from: Instant, time: Duration, steps: usize) -> Result<Instant, String> {
        let end = from.plus(time);
        let mut now = from;
        let mut stuck = 0;
        for _ in 0..steps {
            if self.engine(now, |e| e.handle_timers()).is_none() {
                return Ok(end);
            }
            self.send(now, true)?;
            let due = self.engine(now, |e| e.next_deadline()).unwrap_or(end);
            if due > end {
                break;
            }
            // What is due now may make something else due now, a few times over.
            stuck = if due <= now { stuck + 1 } else { 0 };
            if stuck > STUCK_MAX {
                return Err(format!("something is due at {due:?} and stays so"));
            }
            // Timers have the grain of the wheel: what is due now is done a little later.
            now = due.max(now.plus(Duration::from_micros(100)));
        }
        Ok(end)
    }

    /// Frames that can be had: all of them when nothing holds one.
    pub fn free_frames(&mut self, now: Instant) -> u32 {
        let count = |engine: &mut Engine<'_>| {
            let frames = &mut engine.mem().frames;
            let all: Vec<FrameIdx> =
                std::iter::from_fn(|| frames.alloc()).take(2 * FRAMES as usize).collect();
            for frame in &all {
                frames.release(*frame);
            }
            all.len() as u32
        };
        self.engine(now, count).unwrap_or(0)
    }
}
