//! Every limit of the program in one place, with the relations between them asserted.

/// Frames handled in one pass through the engine's stages.
pub const BATCH_FRAMES: usize = 64;
/// Bytes of one frame cell. AF_XDP takes 2048 or 4096.
pub const FRAME_BYTES: usize = 4096;
/// Room in front of a received packet in its first frame, bytes (AF_XDP's XDP_PACKET_HEADROOM).
pub const FRAME_HEADROOM: usize = 256;
/// Longest chain of frames that is one packet (MAX_SKB_FRAGS).
pub const CHAIN_FRAMES: usize = 17;
/// Largest IP packet in or out, a super-frame included, bytes.
pub const SUPER_FRAME_BYTES: usize = 65_535;
/// Payload of a super-segment that we build, bytes: 15 whole frames and headers stay below one IP packet and one chain.
pub const SUPER_SEGMENT_BYTES: usize = 15 * FRAME_BYTES;
/// Lanes in one region: each process of a program that accepts or connects has one.
pub const LANES: usize = 64;
/// TCP connections of one lane, hibernating ones included.
pub const CONNECTIONS_MAX: u32 = 1 << 24;
/// Devices one program uses at the same time.
pub const DEVICES: usize = 16;
/// Ports of one lane: its devices, and wires to other lanes of this host.
pub const PORTS: usize = 64;
/// Event queues of one lane (one per attached process).
pub const EVENT_QUEUES: usize = 64;
/// Sockets of one lane for whose events somebody gets signals (F_SETOWN, O_ASYNC).
pub const SIGNAL_ROWS: u32 = 1024;
/// Next hops one lane remembers.
pub const HOPS: usize = 1024;
/// Packets that wait at one next hop for its MAC; more drop the oldest.
pub const HOP_WAITING: u16 = 16;
/// Packets in one lane's queue of those that belong to no connection.
pub const OUTBOX_PACKETS: u32 = 512;
/// Frames that all incomplete packets of one lane hold together.
pub const REASSEMBLY_FRAMES: u32 = 512;
/// Keys of one lane that sign segments (TCP-MD5).
pub const KEYS_MAX: u32 = 8192;
/// Longest listen backlog (net.core.somaxconn's default).
pub const BACKLOG_MAX: u32 = 4096;
/// Extension headers of one IPv6 packet that are walked, and options in each that are looked at (RFC 8504 5.3).
pub const IPV6_EXTENSIONS: usize = 8;
/// Receive buffer of a port's socket: super-frames of a few fast connections while the lane is not polled, bytes.
pub const PORT_RECEIVE_BUFFER_BYTES: i32 = 16 << 20;
/// Send buffer of a port's socket: bounds what is in flight in the device, bytes.
pub const PORT_SEND_BUFFER_BYTES: i32 = 8 << 20;
/// Entries of each of the four rings of an AF_XDP socket.
pub const XDP_RING_ENTRIES: u32 = 2048;
/// Most receive queues of a device that the xdp port serves: a lane has an AF_XDP socket on each.
pub const XDP_QUEUES: usize = 16;
/// Largest message between a program and the keeper, bytes.
pub const KEEPER_MESSAGE_BYTES: usize = 4096;

const _: () = assert!(SUPER_SEGMENT_BYTES + 128 <= SUPER_FRAME_BYTES);
const _: () = assert!(SUPER_SEGMENT_BYTES / FRAME_BYTES + 2 <= CHAIN_FRAMES);
const _: () = assert!(FRAME_HEADROOM < FRAME_BYTES);
const _: () = assert!(LANES <= 64);
const _: () = assert!(CONNECTIONS_MAX <= 1 << 28);
const _: () = assert!(DEVICES < PORTS && PORTS <= 256);
const _: () = assert!(XDP_RING_ENTRIES.is_power_of_two());
