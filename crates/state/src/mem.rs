//! All tables of one lane in the hands of the lane's holder: taken out of the span, and made.

use base::limits::FRAME_BYTES;
use base::{FrameIdx, Idx, Instant};
use region::{
    CarveError, Carver, FlowBucket, FlowHead, FlowTable, FrameArea, FrameLane, Frames, LaneGuard, Layout,
    POOL_BATCH, Table, Timer, Wheel, WheelHead,
};

use crate::dormant::{FREE_HANDLE, LAST};
use crate::{
    Congestion, Counters, Dormant, DormantGlobals, EventGlobals, EventRow, FAST_PEERS, FastPeer, Handle, Hop,
    IpGlobals, Kept, KeyGlobals, KeyRow, LaneGlobals, LaneLoad, LaneShape, LaneTables, Listener, OptionSet,
    PortInfo, Rate, Reassembly, Scoreboard, Seen, SignalRow, TcbCold, TcbHot, TcpCounters, TcpGlobals,
    TxFrame, UdpSock, Urgent,
};

/// Every table of one lane, for the time the lane lock is held.
pub struct LaneMem<'a> {
    /// What there is one of.
    pub globals: &'a mut LaneGlobals,
    /// Counters.
    pub counters: &'a mut Counters,
    /// Ports, as the lane described them; `limits::PORTS` rows.
    pub ports: Table<'a, PortInfo>,
    /// Connections, hot part.
    pub hot: Table<'a, TcbHot>,
    /// Connections, cold part; same rows.
    pub cold: Table<'a, TcbCold>,
    /// The rings behind [`TcpGlobals::rings`], one after the other.
    pub rings: Table<'a, u32>,
    /// Timers of connections.
    pub wheel: Wheel<'a>,
    /// Finds connections.
    pub flows: FlowTable<'a>,
    /// Congestion control of connections; same rows.
    pub cc: Table<'a, Congestion>,
    /// Those that are paced; same rows.
    pub rates: Table<'a, Rate>,
    /// Urgent data of those that have some; same rows.
    pub urgent: Table<'a, Urgent>,
    /// Scoreboards.
    pub boards: Table<'a, Scoreboard>,
    /// Listeners.
    pub listeners: Table<'a, Listener>,
    /// Packets that a port did not take, a ring.
    pub requeued: Table<'a, TxFrame>,
    /// Events: connections, then listeners, then UDP sockets.
    pub events: Table<'a, EventRow>,
    /// Who gets signals.
    pub signals: Table<'a, SignalRow>,
    /// Next hops.
    pub hops: Table<'a, Hop>,
    /// UDP sockets.
    pub udp_socks: Table<'a, UdpSock>,
    /// What the IP layer has one of.
    pub ip: &'a mut IpGlobals,
    /// IPv4 packets being put together.
    pub reassemblies: Table<'a, Reassembly>,
    /// Sets of options of hibernating connections.
    pub option_sets: Table<'a, OptionSet>,
    /// What names of connections lead to; empty when none can hibernate.
    pub handles: Table<'a, Handle>,
    /// Hibernating connections.
    pub dormant: Table<'a, Dormant>,
    /// Their keepalive timers.
    pub dormant_wheel: Wheel<'a>,
    /// Keys that sign segments.
    pub keys: Table<'a, KeyRow>,
    /// Connections from which usual segments came lately, by their ports; [`crate::SEEN`] rows.
    pub seen: Table<'a, Seen>,
    /// Connections that sent usual segments lately, by their rows; [`crate::KEPT`] rows.
    pub kept: Table<'a, Kept>,
    /// Frames.
    pub frames: Frames<'a>,
}

impl<'a> LaneMem<'a> {
    /// The tables of the lane whose span `carver` carves. `area` is the region's frame area.
    ///
    /// # Errors
    /// [`CarveError`] when the head of the span describes no proper layout.
    #[inline(always)]
    pub fn carve(mut carver: Carver<'a>, area: &'a FrameArea) -> Result<Self, CarveError> {
        let at: &LaneTables = carver.one(Layout::new().table::<LaneTables>(1))?;
        Ok(Self {
            globals: carver.one(at.globals)?,
            frames: area.frames(carver.one(at.stock)?),
            counters: carver.one(at.counters)?,
            ports: carver.table(at.ports)?,
            hot: carver.table(at.hot)?,
            cold: carver.table(at.cold)?,
            rings: carver.table(at.rings)?,
            wheel: {
                let timers = carver.table(at.wheel.timers)?;
                Wheel::new(carver.one(at.wheel.head)?, timers)
            },
            cc: carver.table(at.congestion.windows)?,
            rates: carver.table(at.congestion.rates)?,
            urgent: carver.table(at.urgent)?,
            flows: FlowTable::new(carver.one(at.flow_head)?, carver.table(at.flows)?),
            boards: carver.table(at.boards)?,
            listeners: carver.table(at.listeners)?,
            requeued: carver.table(at.requeued)?,
            events: carver.table(at.events)?,
            signals: carver.table(at.signals)?,
            hops: carver.table(at.hops)?,
            udp_socks: carver.table(at.udp_socks)?,
            ip: carver.one(at.ip)?,
            reassemblies: carver.table(at.reassemblies)?,
            option_sets: carver.table(at.option_sets)?,
            handles: carver.table(at.handles)?,
            dormant: carver.table(at.dormant)?,
            dormant_wheel: {
                let timers = carver.table(at.dormant_wheel.timers)?;
                Wheel::new(carver.one(at.dormant_wheel.head)?, timers)
            },
            keys: carver.table(at.keys)?,
            seen: carver.table(at.seen)?,
            kept: carver.table(at.kept)?,
        })
    }

    /// Makes the lane that `guard` holds, whoever had it before: writes the head for `shape`, and brings every table to its
    /// first state. `secret` keys what peers must not guess.
    ///
    /// # Errors
    /// [`CarveError`] when the span is shorter than [`LaneShape::lane_bytes`].
    pub fn format(
        guard: &mut LaneGuard,
        shape: &LaneShape,
        secret: [u64; 2],
        now: Instant,
    ) -> Result<(), CarveError> {
        let region = guard.region();
        // What an earlier holder of this lane took: its tables, which alone knew those frames, end here.
        guard.reclaim_frames();
        guard.formats();
        let tables = LaneTables::place(shape).0;
        let mut carver = guard.carver();
        *carver.one(tables.tables)? = tables;
        *carver.one(tables.globals)? = LaneGlobals {
            shape: *shape,
            key: region.key(),
            tcp: TcpGlobals::EMPTY,
            dormant: DormantGlobals::empty(shape.socks),
            events: EventGlobals::EMPTY,
            load: LaneLoad::EMPTY,
            keys: KeyGlobals::EMPTY,
            fast_peers: [FastPeer::default(); FAST_PEERS],
            ways: 1,
            spare: 0,
        };
        *carver.one(tables.stock)? = FrameLane {
            head: FrameIdx::NONE,
            free: 0,
            high: shape.stock_high.max(2 * POOL_BATCH),
            failed: 0,
        };
        carver.table(tables.wheel.timers)?.rows_mut().fill(Timer::default());
        *carver.one(tables.wheel.head)? = WheelHead::starting(now);
        let flows = FlowHead::for_capacity(shape.connections());
        *carver.one(tables.flow_head)? = flows;
        // Only what hashes lead to: overflow buckets are made as they are taken, so that what nobody uses costs no memory.
        let buckets = flows.buckets() as usize;
        carver
            .table(tables.flows)?
            .rows_mut()
            .iter_mut()
            .take(buckets)
            .for_each(|b| *b = FlowBucket::default());
        *carver.one(tables.dormant_wheel.head)? = WheelHead::starting(now);
        let area = guard.frame_area();
        let mut mem = LaneMem::carve(guard.carver(), &area)?;
        mem.init_tcp(secret);
        *mem.ip = IpGlobals::EMPTY;
        mem.option_sets.rows_mut().fill(OptionSet::default());
        mem.seen.rows_mut().fill(Seen::default());
        mem.kept.rows_mut().fill(Kept::NONE);
        // Handles behind those of TCB rows, hibernating connections and their timers are made as they are taken for the first
        // time, so that what nobody uses costs no memory.
        let firsts = mem.hot.len() as usize;
        for handle in mem.handles.rows_mut().iter_mut().take(firsts) {
            handle.place = FREE_HANDLE | LAST;
            handle.generation &= !1;
        }
        mem.events.rows_mut().fill(EventRow { next: u32::MAX, prev: u32::MAX, ..EventRow::default() });
        mem.counters.drops.fill(0);
        mem.counters.tcp = TcpCounters::default();
        for port in mem.ports.rows_mut() {
            port.flags = 0;
            port.addr_count = 0;
        }
        Ok(())
    }

    fn init_tcp(&mut self, isn_key: [u64; 2]) {
        let never = Instant::NEVER;
        self.hot.rows_mut().fill(TcbHot {
            rexmit_at: never,
            ack_at: never,
            armed_at: never,
            ..TcbHot::default()
        });
        self.cold.rows_mut().fill(TcbCold { idle_at: never, ..TcbCold::default() });
        chain_free(self.cold.rows_mut(), |row, next| row.passive.next = Idx::new(next.raw()));
        self.listeners.rows_mut().fill(Listener::default());
        chain_free(self.listeners.rows_mut(), |row, next| row.next = next);
        self.globals.tcp = TcpGlobals {
            free: first(self.hot.len()),
            free_listener: first(self.listeners.len()),
            rcv_buf_bytes: BUFFER_BYTES,
            snd_buf_bytes: BUFFER_BYTES,
            rcv_buf_max: buffer_max(self.frames.count()),
            snd_buf_max: buffer_max(self.frames.count()),
            isn_key,
            ..TcpGlobals::EMPTY
        };
    }
}

/// Buffer of a connection at first, bytes.
const BUFFER_BYTES: u32 = 65_536;

/// What the buffer of one connection may grow to in a region of so many frames, bytes: 32 MiB, and no more than an eighth of all frames.
#[must_use]
pub const fn buffer_max(frames: u32) -> u32 {
    let most = 32 << 20;
    let share = (frames / 8).saturating_mul(FRAME_BYTES as u32);
    if share < BUFFER_BYTES {
        BUFFER_BYTES
    } else if share < most {
        share
    } else {
        most
    }
}

/// The first row of a table of `rows`.
const fn first<T>(rows: u32) -> Idx<T> {
    if rows == 0 { Idx::NONE } else { Idx::new(0) }
}

/// Links all rows to one free list, in order.
fn chain_free<T>(rows: &mut [T], link: impl Fn(&mut T, Idx<T>)) {
    let len = rows.len() as u32;
    for (at, row) in (1..).zip(rows) {
        link(row, if at < len { Idx::new(at) } else { Idx::NONE });
    }
}
