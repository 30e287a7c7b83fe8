//! All tables of one lane in the hands of the lane's holder: taken out of the span, and made.

use base::limits::{EVENT_QUEUES, FRAME_BYTES};
use base::{Idx, Instant};
use region::{CarveError, Carver, FrameArea, Frames, Layout, Table};

use crate::{
    Counters, EventGlobals, EventQueue, EventRow, Hop, IpGlobals, LISTEN_BUCKETS, LaneGlobals, LaneShape,
    LaneTables, Listener, PortInfo, RateLimit, Reassembly, Scoreboard, TcbCold, TcbHot, TcpCounters,
    TcpGlobals, TxFrame, TxRing, UdpSock,
};

/// Every table of one lane, for the time the lane lock is held.
pub struct LaneMem<'a> {
    /// What there is one of.
    pub globals: &'a mut LaneGlobals,
    /// Counters.
    pub counters: &'a mut Counters,
    /// Ports, as the lane described them; [`DEVICES`] rows.
    pub ports: Table<'a, PortInfo>,
    /// Connections, hot part.
    pub hot: Table<'a, TcbHot>,
    /// Connections, cold part; same rows.
    pub cold: Table<'a, TcbCold>,
    /// The rings behind [`TcpGlobals::rings`], one after the other.
    pub rings: Table<'a, u32>,
    /// Scoreboards.
    pub boards: Table<'a, Scoreboard>,
    /// Listeners.
    pub listeners: Table<'a, Listener>,
    /// Packets that a port did not take, a ring.
    pub requeued: Table<'a, TxFrame>,
    /// Events: connections, then listeners, then UDP sockets.
    pub events: Table<'a, EventRow>,
    /// Next hops.
    pub hops: Table<'a, Hop>,
    /// UDP sockets.
    pub udp_socks: Table<'a, UdpSock>,
    /// What the IP layer has one of.
    pub ip: &'a mut IpGlobals,
    /// IPv4 packets being put together.
    pub reassemblies: Table<'a, Reassembly>,
    /// Frames.
    pub frames: Frames<'a>,
}

impl<'a> LaneMem<'a> {
    /// The tables of the lane whose span `carver` carves. `area` is the region's frame area.
    ///
    /// # Errors
    /// [`CarveError`] when the head of the span describes no proper layout.
    pub fn carve(mut carver: Carver<'a>, area: FrameArea) -> Result<Self, CarveError> {
        let at = *carver.one(Layout::new().table::<LaneTables>(1))?;
        Ok(Self {
            globals: carver.one(at.globals)?,
            frames: area.frames(carver.one(at.stock)?),
            counters: carver.one(at.counters)?,
            ports: carver.table(at.ports)?,
            hot: carver.table(at.hot)?,
            cold: carver.table(at.cold)?,
            rings: carver.table(at.rings)?,
            boards: carver.table(at.boards)?,
            listeners: carver.table(at.listeners)?,
            requeued: carver.table(at.requeued)?,
            events: carver.table(at.events)?,
            hops: carver.table(at.hops)?,
            udp_socks: carver.table(at.udp_socks)?,
            ip: carver.one(at.ip)?,
            reassemblies: carver.table(at.reassemblies)?,
        })
    }

    /// Writes the head for `shape` into the span.
    ///
    /// # Errors
    /// [`CarveError`] when the span is shorter than [`LaneShape::lane_bytes`].
    pub fn write_head(mut carver: Carver<'_>, shape: &LaneShape) -> Result<(), CarveError> {
        *carver.one(Layout::new().table::<LaneTables>(1))? = LaneTables::place(shape).0;
        Ok(())
    }

    /// Brings every table of a lane of `shape` to its first state: all rows free, all queues empty. `key` keys the flow
    /// hash; `secret` keys what peers must not guess.
    pub fn init(&mut self, shape: &LaneShape, key: [u64; 2], secret: [u64; 2]) {
        self.globals.shape = *shape;
        self.globals.key = key;
        self.init_tcp(secret);
        *self.ip = IpGlobals::EMPTY;
        let none = EventQueue { head: u32::MAX, tail: u32::MAX };
        self.globals.events = EventGlobals { queues: [none; EVENT_QUEUES] };
        self.events.rows_mut().fill(EventRow { next: u32::MAX, prev: u32::MAX, ..EventRow::default() });
        self.counters.drops.fill(0);
        self.counters.tcp = TcpCounters::default();
        for port in self.ports.rows_mut() {
            port.flags = 0;
            port.addr_count = 0;
        }
    }

    fn init_tcp(&mut self, isn_key: [u64; 2]) {
        let buffer = default_buffer_bytes(self.frames.count());
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
        chain_free(self.boards.rows_mut(), |row, next| {
            row.count = 0;
            row.bytes = 0;
            row.next = next;
        });
        self.globals.tcp = TcpGlobals {
            free: first(self.hot.len()),
            used: 0,
            free_listener: first(self.listeners.len()),
            free_board: first(self.boards.len()),
            listen_buckets: [Idx::NONE; LISTEN_BUCKETS],
            rings: [TxRing::default(); 3],
            requeued_head: 0,
            requeued_len: 0,
            challenges: RateLimit::default(),
            resets: RateLimit::default(),
            rcv_buf_bytes: buffer,
            snd_buf_bytes: buffer,
            isn_key,
        };
    }
}

/// Buffer of a connection by default, bytes: 4 MiB, and no more than an eighth of all frames.
const fn default_buffer_bytes(frames: u32) -> u32 {
    let most = 4 << 20;
    let share = (frames / 8).saturating_mul(FRAME_BYTES as u32);
    if share < 65_536 {
        65_536
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
