//! Shape and layout of one lane's span: a head that says where each table is, then the tables.

use base::limits::{BATCH_FRAMES, PORTS, SIGNAL_ROWS};
use base::{Idx, Instant};
use region::{FlowBucket, FlowHead, FlowTable, FrameLane, Layout, TableAt, Timer, WheelHead, plain};

use crate::dormant::OPTION_SETS;
use crate::{
    CongestionTables, Counters, Dormant, DormantGlobals, EventGlobals, EventRow, FAST_PEERS, FastPeer,
    Handle, Hop, IpGlobals, KEPT, Kept, KeyGlobals, KeyRow, LISTEN_BUCKETS, LaneLoad, Listener, OptionSet,
    PortInfo, Reassembly, SEEN, Scoreboard, Seen, SignalRow, TcbCold, TcbHot, TcbQueue, TxFrame, UdpSock,
    Unwires, Urgent,
};

/// Keys of listeners that fit beside one for each connection.
const KEYS_OF_LISTENERS: u32 = 256;

plain! {
    /// How many rows each table of a lane has.
    #[derive(PartialEq, Eq, Debug)]
    pub struct LaneShape {
        /// TCP connections.
        pub socks: u32,
        /// TCP listeners.
        pub listeners: u32,
        /// UDP sockets.
        pub udp_socks: u32,
        /// Next hops.
        pub hops: u32,
        /// IPv4 packets being put together.
        pub reassemblies: u32,
        /// SACK scoreboards: connections in loss recovery at one time.
        pub boards: u32,
        /// Free frames above which the lane gives a batch back to the region's pool.
        pub stock_high: u32,
        /// Connections besides those of `socks` that may hibernate.
        pub dormant: u32,
    }
}

impl LaneShape {
    /// A shape for `socks` TCP connections and the usual number of everything else.
    #[must_use]
    pub const fn for_socks(socks: u32) -> Self {
        let boards = if socks / 8 < 16 { 16 } else { socks / 8 };
        Self {
            socks,
            listeners: 64,
            udp_socks: 256,
            hops: base::limits::HOPS as u32,
            reassemblies: 64,
            boards,
            stock_high: 1024,
            dormant: 0,
        }
    }

    /// A shape for `connections` TCP connections of which at most `awake` are not idle; the rest hibernates.
    #[must_use]
    pub const fn for_connections(connections: u32, awake: u32) -> Self {
        let socks = if connections < awake { connections } else { awake };
        Self { dormant: connections - socks, ..Self::for_socks(socks) }
    }

    /// A shape for an unmodified program with so many connections. Of very many only a part can be busy at one time; the rest hibernates.
    #[must_use]
    pub const fn for_program(connections: u32) -> Self {
        /// Connections that a lane keeps awake, if it is made for so many or more.
        const AWAKE: u32 = 65_536;
        let busy = connections / 4;
        Self::for_connections(connections, if busy < AWAKE { AWAKE } else { busy })
    }

    /// TCP connections that fit, hibernating ones included.
    #[must_use]
    pub const fn connections(&self) -> u32 {
        self.socks.saturating_add(self.dormant)
    }

    /// Rows of the dormant table: one more than can be in use for long, so that of a full lane too one connection can fall
    /// asleep to make room for another that wakes.
    #[must_use]
    pub const fn dormant_rows(&self) -> u32 {
        if self.dormant == 0 { 0 } else { self.dormant.saturating_add(1) }
    }

    /// Names of connections. A name below `socks` may have to wait for its row, so there is one more for each row.
    #[must_use]
    pub const fn handles(&self) -> u32 {
        if self.dormant == 0 { 0 } else { self.connections().saturating_add(self.socks) }
    }

    /// Keys that sign segments: one for each connection and as many for listeners, up to a limit.
    #[must_use]
    pub const fn keys(&self) -> u32 {
        let wanted = self.socks.saturating_add(KEYS_OF_LISTENERS);
        if wanted < base::limits::KEYS_MAX { wanted } else { base::limits::KEYS_MAX }
    }

    /// Bytes of a lane's span, a multiple of 4096.
    #[must_use]
    pub const fn lane_bytes(&self) -> u64 {
        let (_, bytes) = LaneTables::place(self);
        bytes.next_multiple_of(4096)
    }
}

plain! {
    /// A ring of connections that have something to send; at most one entry a connection.
    #[derive(Debug, Default)]
    pub struct TxRing {
        /// Number of entries ever taken out, wrapping.
        pub head: u32,
        /// Number of entries ever put in, wrapping.
        pub tail: u32,
    }
}

plain! {
    /// At most so many of something a second.
    #[derive(Debug, Default)]
    pub struct RateLimit {
        /// When the second began.
        pub since: Instant,
        /// How many since then.
        pub count: u32,
        /// Room.
        pub spare: u32,
    }
}

plain! {
    /// What belongs to all TCP connections of a lane.
    #[derive(Debug)]
    pub struct TcpGlobals {
        /// First free connection.
        pub free: Idx<TcbHot>,
        /// Connections in use.
        pub used: u32,
        /// First free listener.
        pub free_listener: Idx<Listener>,
        /// First free scoreboard that was used before.
        pub free_board: Idx<Scoreboard>,
        /// First listener of each bucket.
        pub listen_buckets: [Idx<Listener>; LISTEN_BUCKETS],
        /// Connections with something to send: control, ACK, data.
        pub rings: [TxRing; 3],
        /// Connections in TIME-WAIT that no program holds, oldest first.
        pub time_wait: TcbQueue,
        /// Oldest packet in the table of those that a port did not take.
        pub requeued_head: u32,
        /// Packets in that table.
        pub requeued_len: u32,
        /// Packets in that table whose payload was retained and given out again: from the first on.
        pub lent: u32,
        /// Scoreboards from here on were never used.
        pub fresh_board: u32,
        /// Challenge ACKs (RFC 5961 7).
        pub challenges: RateLimit,
        /// RSTs for segments to no connection.
        pub resets: RateLimit,
        /// ACKs for segments without payload that are outside the window.
        pub duplicates: RateLimit,
        /// Receive buffer of a connection whose options name none, bytes.
        pub rcv_buf_bytes: u32,
        /// Send buffer of a connection whose options name none, bytes.
        pub snd_buf_bytes: u32,
        /// What such a receive buffer may grow to, bytes.
        pub rcv_buf_max: u32,
        /// What such a send buffer may grow to, bytes.
        pub snd_buf_max: u32,
        /// Congestion control of a connection whose options name none, as the engine numbers it.
        pub congestion: u8,
        /// ECN (RFC 3168), as the engine numbers its ways.
        pub ecn: u8,
        /// Fast open, as net.ipv4.tcp_fastopen numbers its ways.
        pub fast_open: u16,
        /// What connections do whose options say nothing of it.
        pub usual: Usual,
        /// 1: nobody will listen in this lane any more, and it answers no SYN.
        pub leaves: u8,
        /// Room.
        pub spare: [u8; 3],
        /// How the MTU of paths is searched.
        pub path: PathSettings,
        /// Keys initial sequence numbers (RFC 6528).
        pub isn_key: [u64; 2],
        /// Connections that leave wires.
        pub unwires: Unwires,
    }
}

plain! {
    /// What connections of a lane do whose options say nothing of it; each 0 where the engine's own number counts.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct Usual {
        /// Idle time until the first keepalive probe, s (net.ipv4.tcp_keepalive_time).
        pub keep_idle_s: u32,
        /// Bytes that may wait to be sent (net.ipv4.tcp_notsent_lowat).
        pub notsent_low_bytes: u32,
        /// Half-open connections that a listener has at most where there are no cookies (net.ipv4.tcp_max_syn_backlog).
        pub half_open_max: u32,
        /// Time between keepalive probes, s (net.ipv4.tcp_keepalive_intvl).
        pub keep_interval_s: u16,
        /// For how long a connection without a program waits for the peer's FIN, s (net.ipv4.tcp_fin_timeout).
        pub fin_timeout_s: u16,
        /// Keepalive probes without an answer (net.ipv4.tcp_keepalive_probes).
        pub keep_probes: u8,
        /// SYN retransmissions (net.ipv4.tcp_syn_retries).
        pub syn_retries: u8,
        /// SYN,ACK retransmissions (net.ipv4.tcp_synack_retries).
        pub syn_ack_retries: u8,
        /// Retransmissions of data (net.ipv4.tcp_retries2).
        pub retries: u8,
        /// The same when no program holds the connection (net.ipv4.tcp_orphan_retries).
        pub orphan_retries: u8,
        /// 1: without SACK (net.ipv4.tcp_sack 0).
        pub no_sack: u8,
        /// 1: without timestamps (net.ipv4.tcp_timestamps 0).
        pub no_timestamps: u8,
        /// 1: without window scaling (net.ipv4.tcp_window_scaling 0).
        pub no_window_scaling: u8,
        /// TTL of packets over IPv4 (net.ipv4.ip_default_ttl).
        pub ttl: u8,
        /// Hop limit of packets over IPv6 (net.ipv6.conf.*.hop_limit).
        pub hop_limit: u8,
        /// SYN cookies, as the engine numbers it (net.ipv4.tcp_syncookies).
        pub cookies: u8,
        /// 1: who was idle goes on with the window that there was (net.ipv4.tcp_slow_start_after_idle 0).
        pub keeps_window: u8,
        /// 1: a handshake that ends while the accept queue is full is reset (net.ipv4.tcp_abort_on_overflow).
        pub resets_overflow: u8,
        /// Room.
        pub spare: [u8; 3],
    }
}

plain! {
    /// How the MTU of paths is searched (RFC 4821).
    #[derive(PartialEq, Eq, Debug)]
    pub struct PathSettings {
        /// As net.ipv4.tcp_mtu_probing: 0 never, 1 after a black hole, 2 from the start.
        pub when: u16,
        /// Payload after a black hole, bytes (net.ipv4.tcp_base_mss).
        pub base_mss: u16,
        /// Least payload that black holes lead to, bytes (net.ipv4.tcp_mtu_probe_floor).
        pub floor_mss: u16,
        /// A search ends when it is known to so many bytes (net.ipv4.tcp_probe_threshold).
        pub threshold: u16,
        /// Time until a search begins anew, s (net.ipv4.tcp_probe_interval).
        pub interval_s: u32,
        /// Room.
        pub spare: u32,
    }
}

impl PathSettings {
    /// Linux's numbers; after a black hole, as RFC 4821 7.7 and RFC 8899 4.3 want it.
    pub const DEFAULT: Self =
        Self { when: 1, base_mss: 1024, floor_mss: 48, threshold: 8, interval_s: 600, spare: 0 };
}

impl Usual {
    /// The engine's own numbers.
    pub const NONE: Self = Self {
        keep_idle_s: 0,
        notsent_low_bytes: 0,
        half_open_max: 0,
        keep_interval_s: 0,
        fin_timeout_s: 0,
        keep_probes: 0,
        syn_retries: 0,
        syn_ack_retries: 0,
        retries: 0,
        orphan_retries: 0,
        no_sack: 0,
        no_timestamps: 0,
        no_window_scaling: 0,
        ttl: 0,
        hop_limit: 0,
        cookies: 0,
        keeps_window: 0,
        resets_overflow: 0,
        spare: [0; 3],
    };
}

impl TcpGlobals {
    /// No connection, and no row to make one of.
    pub const EMPTY: Self = Self {
        free: Idx::NONE,
        used: 0,
        free_listener: Idx::NONE,
        free_board: Idx::NONE,
        listen_buckets: [Idx::NONE; LISTEN_BUCKETS],
        rings: [TxRing { head: 0, tail: 0 }; 3],
        time_wait: TcbQueue { head: Idx::NONE, tail: Idx::NONE, len: 0 },
        requeued_head: 0,
        requeued_len: 0,
        lent: 0,
        fresh_board: 0,
        challenges: RateLimit { since: Instant(0), count: 0, spare: 0 },
        resets: RateLimit { since: Instant(0), count: 0, spare: 0 },
        duplicates: RateLimit { since: Instant(0), count: 0, spare: 0 },
        rcv_buf_bytes: 0,
        snd_buf_bytes: 0,
        rcv_buf_max: 0,
        snd_buf_max: 0,
        congestion: 0,
        ecn: 0,
        fast_open: 1,
        usual: Usual::NONE,
        leaves: 0,
        spare: [0; 3],
        path: PathSettings::DEFAULT,
        isn_key: [0; 2],
        unwires: Unwires::NONE,
    };
}

plain! {
    /// What a lane has one of.
    #[derive(Debug)]
    pub struct LaneGlobals {
        /// The shape the tables were made with.
        pub shape: LaneShape,
        /// Keys the flow hash.
        pub key: [u64; 2],
        /// TCP.
        pub tcp: TcpGlobals,
        /// Hibernating connections.
        pub dormant: DormantGlobals,
        /// Event queues.
        pub events: EventGlobals,
        /// What it notes for the region's other lanes.
        pub load: LaneLoad,
        /// Keys that sign segments.
        pub keys: KeyGlobals,
        /// What peers said of fast open.
        pub fast_peers: [FastPeer; FAST_PEERS],
        /// One up when a port's or a next hop's Ethernet address changes; never 0.
        pub ways: u32,
        /// Room.
        pub spare: u32,
    }
}

plain! {
    /// Where each table lies.
    pub struct LaneTables {
        /// This.
        pub tables: TableAt<LaneTables>,
        /// What there is one of.
        pub globals: TableAt<LaneGlobals>,
        /// The lane's stock of free frames.
        pub stock: TableAt<FrameLane>,
        /// Counters.
        pub counters: TableAt<Counters>,
        /// Ports.
        pub ports: TableAt<PortInfo>,
        /// Connections, hot part.
        pub hot: TableAt<TcbHot>,
        /// Connections, cold part.
        pub cold: TableAt<TcbCold>,
        /// The three rings of connections with something to send, `ring_slots` each.
        pub rings: TableAt<u32>,
        /// Timers of connections, same rows.
        pub wheel: WheelAt,
        /// Congestion control of connections, same rows.
        pub congestion: CongestionTables,
        /// Urgent data of connections, same rows.
        pub urgent: TableAt<Urgent>,
        /// Head of the flow table.
        pub flow_head: TableAt<FlowHead>,
        /// Buckets of the flow table.
        pub flows: TableAt<FlowBucket>,
        /// Scoreboards.
        pub boards: TableAt<Scoreboard>,
        /// Listeners.
        pub listeners: TableAt<Listener>,
        /// Packets that a port did not take.
        pub requeued: TableAt<TxFrame>,
        /// Events.
        pub events: TableAt<EventRow>,
        /// Who gets signals.
        pub signals: TableAt<SignalRow>,
        /// Next hops.
        pub hops: TableAt<Hop>,
        /// UDP sockets.
        pub udp_socks: TableAt<UdpSock>,
        /// What the IP layer has one of.
        pub ip: TableAt<IpGlobals>,
        /// IPv4 packets being put together.
        pub reassemblies: TableAt<Reassembly>,
        /// Sets of options of hibernating connections.
        pub option_sets: TableAt<OptionSet>,
        /// What names of connections lead to.
        pub handles: TableAt<Handle>,
        /// Hibernating connections.
        pub dormant: TableAt<Dormant>,
        /// Their keepalive timers, same rows.
        pub dormant_wheel: WheelAt,
        /// Keys that sign segments.
        pub keys: TableAt<KeyRow>,
        /// Connections from which usual segments came lately.
        pub seen: TableAt<Seen>,
        /// Connections that sent usual segments lately.
        pub kept: TableAt<Kept>,
    }
}

plain! {
    /// Where a timer wheel is.
    pub struct WheelAt {
        /// Its timers.
        pub timers: TableAt<Timer>,
        /// Its head.
        pub head: TableAt<WheelHead>,
    }
}

impl LaneTables {
    /// Places for all tables of `shape`, and the bytes they take.
    #[must_use]
    pub const fn place(shape: &LaneShape) -> (Self, u64) {
        let mut at = Layout::new();
        let tables = Self {
            tables: at.table(1),
            globals: at.table(1),
            stock: at.table(1),
            counters: at.table(1),
            ports: at.table(PORTS as u32),
            hot: at.table(shape.socks),
            cold: at.table(shape.socks),
            rings: at.table(3 * shape.socks.next_power_of_two()),
            wheel: WheelAt { timers: at.table(shape.socks), head: at.table(1) },
            congestion: CongestionTables { windows: at.table(shape.socks), rates: at.table(shape.socks) },
            urgent: at.table(shape.socks),
            flow_head: at.table(1),
            flows: at.table(FlowTable::rows_for(shape.connections())),
            boards: at.table(shape.boards),
            listeners: at.table(shape.listeners),
            requeued: at.table(BATCH_FRAMES as u32),
            events: at.table(shape.socks + shape.listeners + shape.udp_socks),
            signals: at.table(SIGNAL_ROWS),
            hops: at.table(shape.hops),
            udp_socks: at.table(shape.udp_socks),
            ip: at.table(1),
            reassemblies: at.table(shape.reassemblies),
            option_sets: at.table(if shape.dormant == 0 { 0 } else { OPTION_SETS }),
            handles: at.table(shape.handles()),
            dormant: at.table(shape.dormant_rows()),
            dormant_wheel: WheelAt { timers: at.table(shape.dormant_rows()), head: at.table(1) },
            keys: at.table(shape.keys()),
            seen: at.table(SEEN),
            kept: at.table(KEPT),
        };
        (tables, at.bytes())
    }
}
