//! The three steering programs: one classifier with three ways to read the packet and three verdicts.
//!
//! Classifier: Ethernet without tag, to a single station; IPv4 with any options, no fragment; TCP or UDP. First the flow map, then the
//! listener map with the slot of the remote end: the port's own rule, then that of its block. The SYN that opens a connection leaves a pin, which the connection's other segments follow
//! when the listener has several lanes or is gone: lanes come and go without breaking what runs. Whatever is not found, or not understood, goes on to the kernel. Fragments go to the
//! kernel because only the first has ports (RFC 791 3.2); nothing is lost, the kernel reassembles and answers for itself.

use super::maps::{
    BLOCK_KEY, BLOCK_MASK, LISTENER_PINS, MIX, NO_LANE, PINS_FIRST, PINS_UNUSED, SLOT_SHIFT, STATE_BLOCKS,
    STATE_FLOWS, STATE_LANES,
};
use super::{Maps, STEER_LANES, SteerLane};
use crate::bpf::{AssembleError, Assembler, Helper, If, Label, Op, Reg, Size};
use sys::bpf::{Insn, Map};

/// Which program to make.
pub(super) enum Kind<'a> {
    /// XDP: redirects to the lane's AF_XDP socket in this map, at queue * STEER_LANES + lane.
    Xdp(&'a Map),
    /// TCX on the way in: drops what any lane takes; taps have had it before.
    TcxIngress,
    /// Filter of a lane's AF_PACKET socket: accepts what belongs to this lane.
    SocketFilter(SteerLane),
}

// Offsets in the frame.
const ETH_TYPE: i16 = 12;
const IP: i16 = 14;
const IP_FRAGMENT: i16 = IP + 6;
const IP_PROTO: i16 = IP + 9;
const IP_SRC: i16 = IP + 12;
const IP_DST: i16 = IP + 16;
/// Ethernet and IPv4 header without options.
const HEADERS: i32 = 34;
/// Source and destination port.
const PORTS: i32 = 4;
/// The TCP header up to and with its flags (RFC 9293 3.1).
const TCP_START: i32 = 14;
const TCP_FLAGS: i16 = 13;
const TCP_SYN: i32 = 0x02;
const TCP_SYN_ACK: i32 = 0x12;

// The stack, from the frame pointer down. The copied headers start at 2 mod 4, so that the IP header is aligned.
const FLOW_KEY: i16 = -16;
const PORTS_COPY: i16 = -32;
const HEADERS_COPY: i16 = -70;
const LISTENER_KEY: i16 = -80;
const PIN_VALUE: i16 = -88;

// Values of OPENS beside UDP's number.
const SEGMENT: i32 = 6;
const OPENING: i32 = 1;

// Fields of the contexts (struct xdp_md, struct __sk_buff).
const XDP_DATA: i16 = 0;
const XDP_DATA_END: i16 = 4;
const XDP_QUEUE: i16 = 16;
const SKB_PACKET_TYPE: i16 = 4;
const SKB_VLAN_PRESENT: i16 = 20;

// Verdicts.
const XDP_PASS: i32 = 2;
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;
const FILTER_NOTHING: i32 = 0;
const FILTER_WHOLE: i32 = -1;

/// Registers kept over calls: the context, the headers and later the listener's slots, the ports and later the lane, the
/// protocol and later whether the segment opens a connection.
const CONTEXT: Reg = Reg::R6;
const HEADER: Reg = Reg::R7;
const SLOTS: Reg = Reg::R7;
const PORT: Reg = Reg::R8;
const LANE: Reg = Reg::R8;
const PROTO: Reg = Reg::R9;
const OPENS: Reg = Reg::R9;

/// Makes the program of `kind`; `seed` as in [`super::slot_of`].
pub(super) fn generate(kind: &Kind<'_>, maps: &Maps, seed: u32) -> Result<Vec<Insn>, AssembleError> {
    let mut a = Assembler::new();
    let (pass, found) = (a.label(), a.label());
    a.alu(Op::Mov, CONTEXT, Reg::R1);
    read_headers(&mut a, kind, pass);
    check_headers(&mut a, pass);
    read_ports(&mut a, kind, pass);
    build_keys(&mut a);
    find_flow(&mut a, maps, found);
    find_listener(&mut a, kind, maps, seed, (found, pass));
    a.place(found);
    verdict(&mut a, kind, pass);
    a.finish()
}

/// Leaves HEADER pointing at [`HEADERS`] readable bytes.
fn read_headers(a: &mut Assembler, kind: &Kind<'_>, pass: Label) {
    match kind {
        Kind::Xdp(_) => {
            a.load(Size::Word, HEADER, CONTEXT, XDP_DATA);
            a.load(Size::Word, Reg::R2, CONTEXT, XDP_DATA_END);
            a.alu(Op::Mov, Reg::R3, HEADER);
            a.alu_imm(Op::Add, Reg::R3, HEADERS);
            a.jump_if_reg(If::Gt, Reg::R3, Reg::R2, pass);
        }
        Kind::TcxIngress | Kind::SocketFilter(_) => {
            // PACKET_HOST is 0: not the frames this host sends, which a tap sees as well, nor those for other stations.
            a.load(Size::Word, Reg::R2, CONTEXT, SKB_PACKET_TYPE);
            a.jump_if(If::Ne, Reg::R2, 0, pass);
            a.load(Size::Word, Reg::R2, CONTEXT, SKB_VLAN_PRESENT);
            a.jump_if(If::Ne, Reg::R2, 0, pass);
            a.alu_imm(Op::Mov, Reg::R2, 0);
            a.alu_imm(Op::Mov, Reg::R4, HEADERS);
            load_bytes(a, HEADERS_COPY, pass);
            a.alu(Op::Mov, HEADER, Reg::Fp);
            a.alu_imm(Op::Add, HEADER, i32::from(HEADERS_COPY));
        }
    }
}

/// Copies R4 bytes at offset R2 of the socket buffer to the stack. A frame too short goes to the kernel.
fn load_bytes(a: &mut Assembler, to: i16, pass: Label) {
    a.alu(Op::Mov, Reg::R1, CONTEXT);
    a.alu(Op::Mov, Reg::R3, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R3, i32::from(to));
    a.call(Helper::SkbLoadBytes);
    a.jump_if(If::Ne, Reg::R0, 0, pass);
}

fn check_headers(a: &mut Assembler, pass: Label) {
    // IEEE 802.3 3.2.3: the lowest bit of the first byte says "group". TCP never goes to a group, and multicast UDP is the kernel's.
    a.load(Size::Byte, Reg::R2, HEADER, 0);
    a.jump_if(If::AnyBit, Reg::R2, 1, pass);
    a.load(Size::Half, Reg::R2, HEADER, ETH_TYPE);
    a.jump_if(If::Ne, Reg::R2, i32::from(0x0800_u16.to_be()), pass);
    // RFC 791 3.1: more-fragments flag and fragment offset.
    a.load(Size::Half, Reg::R2, HEADER, IP_FRAGMENT);
    a.jump_if(If::AnyBit, Reg::R2, i32::from(0x3fff_u16.to_be()), pass);
    let known = a.label();
    a.load(Size::Byte, PROTO, HEADER, IP_PROTO);
    a.jump_if(If::Eq, PROTO, 6, known);
    a.jump_if(If::Ne, PROTO, 17, pass);
    a.place(known);
}

/// Checks version and header length and leaves PORT pointing at the two ports, with TCP at [`TCP_START`] readable bytes.
fn read_ports(a: &mut Assembler, kind: &Kind<'_>, pass: Label) {
    // RFC 791 3.1: version 4, and a header of at least five words.
    a.load(Size::Byte, Reg::R2, HEADER, IP);
    a.jump_if(If::Lt, Reg::R2, 0x45, pass);
    a.jump_if(If::Gt, Reg::R2, 0x4f, pass);
    a.alu_imm(Op::And, Reg::R2, 0x0f);
    a.alu_imm(Op::Shl, Reg::R2, 2);
    a.alu_imm(Op::Add, Reg::R2, i32::from(IP));
    let udp = a.label();
    a.alu_imm(Op::Mov, Reg::R4, PORTS);
    a.jump_if(If::Ne, PROTO, 6, udp);
    a.alu_imm(Op::Mov, Reg::R4, TCP_START);
    a.place(udp);
    match kind {
        Kind::Xdp(_) => {
            a.alu(Op::Mov, PORT, HEADER);
            a.alu(Op::Add, PORT, Reg::R2);
            a.alu(Op::Mov, Reg::R3, PORT);
            a.alu(Op::Add, Reg::R3, Reg::R4);
            a.load(Size::Word, Reg::R2, CONTEXT, XDP_DATA_END);
            a.jump_if_reg(If::Gt, Reg::R3, Reg::R2, pass);
        }
        Kind::TcxIngress | Kind::SocketFilter(_) => {
            load_bytes(a, PORTS_COPY, pass);
            a.alu(Op::Mov, PORT, Reg::Fp);
            a.alu_imm(Op::Add, PORT, i32::from(PORTS_COPY));
        }
    }
}

/// Writes both keys, as [`super::Flow`] and [`super::LocalEnd`] lay them out.
fn build_keys(a: &mut Assembler) {
    a.load(Size::Word, Reg::R2, HEADER, IP_DST);
    a.store(Size::Word, Reg::Fp, FLOW_KEY, Reg::R2);
    a.store(Size::Word, Reg::Fp, LISTENER_KEY, Reg::R2);
    a.load(Size::Word, Reg::R2, HEADER, IP_SRC);
    a.store(Size::Word, Reg::Fp, FLOW_KEY + 4, Reg::R2);
    a.load(Size::Half, Reg::R2, PORT, 2);
    a.store(Size::Half, Reg::Fp, FLOW_KEY + 8, Reg::R2);
    a.store(Size::Half, Reg::Fp, LISTENER_KEY + 4, Reg::R2);
    a.load(Size::Half, Reg::R2, PORT, 0);
    a.store(Size::Half, Reg::Fp, FLOW_KEY + 10, Reg::R2);
    a.store_imm(Size::Word, Reg::Fp, FLOW_KEY + 12, 0);
    a.store(Size::Byte, Reg::Fp, FLOW_KEY + 12, PROTO);
    a.store(Size::Byte, Reg::Fp, LISTENER_KEY + 6, PROTO);
    a.store_imm(Size::Byte, Reg::Fp, LISTENER_KEY + 7, 0);
}

fn look_up(a: &mut Assembler, map: &Map, key: i16) {
    a.load_map(Reg::R1, map);
    a.alu(Op::Mov, Reg::R2, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R2, i32::from(key));
    a.call(Helper::MapLookup);
}

fn find_flow(a: &mut Assembler, maps: &Maps, found: Label) {
    let missed = a.label();
    // Most hosts have no flow rules; one load is cheaper than a hash of 16 bytes.
    a.load_map_value(Reg::R1, &maps.state);
    a.load(Size::Word, Reg::R1, Reg::R1, STATE_FLOWS);
    a.jump_if(If::Eq, Reg::R1, 0, missed);
    // The lane register still holds the ports, for when the flow is not there.
    look_up(a, &maps.flows, FLOW_KEY);
    a.jump_if(If::Eq, Reg::R0, 0, missed);
    a.load(Size::Word, LANE, Reg::R0, 0);
    a.jump(found);
    a.place(missed);
}

fn find_listener(a: &mut Assembler, kind: &Kind<'_>, maps: &Maps, seed: u32, (found, pass): (Label, Label)) {
    let (pick, no_listener, opens_at_kernel) = (a.label(), a.label(), a.label());
    look_up(a, &maps.listeners, LISTENER_KEY);
    look_up_block(a, maps);
    a.alu(Op::Mov, SLOTS, Reg::R0);
    opens_connection(a);
    a.jump_if(If::Eq, SLOTS, 0, no_listener);
    a.jump_if(If::Ne, OPENS, SEGMENT, pick);
    a.load(Size::Byte, Reg::R2, SLOTS, LISTENER_PINS);
    a.jump_if(If::Eq, Reg::R2, i32::from(PINS_UNUSED), pick);
    let only = a.label();
    a.jump_if(If::Ne, Reg::R2, i32::from(PINS_FIRST), only);
    follow_pin(a, maps, pick, (found, pass));
    a.place(no_listener);
    a.jump_if(If::Eq, OPENS, OPENING, opens_at_kernel);
    a.jump_if(If::Ne, OPENS, SEGMENT, pass);
    a.place(only);
    follow_pin(a, maps, pass, (found, pass));
    a.place(opens_at_kernel);
    leave_pin(a, kind, maps, pass);
    a.place(pick);
    pick_slot(a, seed, pass);
    match kind {
        // Taps run before TCX, so it is enough that TCX pins.
        Kind::SocketFilter(_) => {}
        Kind::Xdp(_) | Kind::TcxIngress => {
            a.jump_if(If::Ne, OPENS, OPENING, found);
            pin(a, maps);
        }
    }
}

/// A port without a rule of its own may lie in a block that has one.
fn look_up_block(a: &mut Assembler, maps: &Maps) {
    let done = a.label();
    a.jump_if(If::Ne, Reg::R0, 0, done);
    a.load_map_value(Reg::R1, &maps.state);
    a.load(Size::Word, Reg::R1, Reg::R1, STATE_BLOCKS);
    a.jump_if(If::Eq, Reg::R1, 0, done);
    a.load(Size::Half, Reg::R2, Reg::Fp, LISTENER_KEY + 4);
    a.alu_imm(Op::And, Reg::R2, i32::from(BLOCK_MASK.to_be()));
    a.store(Size::Half, Reg::Fp, LISTENER_KEY + 4, Reg::R2);
    a.store_imm(Size::Byte, Reg::Fp, LISTENER_KEY + 7, i32::from(BLOCK_KEY));
    look_up(a, &maps.listeners, LISTENER_KEY);
    a.place(done);
}

/// Leaves in OPENS what kind of packet it is: UDP's number, [`SEGMENT`] or [`OPENING`].
fn opens_connection(a: &mut Assembler) {
    let done = a.label();
    // PROTO and OPENS are one register.
    a.jump_if(If::Ne, PROTO, 6, done);
    a.load(Size::Byte, Reg::R2, PORT, TCP_FLAGS);
    a.alu_imm(Op::And, Reg::R2, TCP_SYN_ACK);
    a.jump_if(If::Ne, Reg::R2, TCP_SYN, done);
    a.alu_imm(Op::Mov, OPENS, OPENING);
    a.place(done);
}

/// Goes on at `found` with the lane of the segment's pin, at `missed` without one, at `pass` when the pin's lane is gone or the connection is
/// the kernel's.
fn follow_pin(a: &mut Assembler, maps: &Maps, missed: Label, (found, pass): (Label, Label)) {
    look_up(a, &maps.pins, FLOW_KEY);
    a.jump_if(If::Eq, Reg::R0, 0, missed);
    a.load(Size::Word, LANE, Reg::R0, 0);
    a.jump_if(If::Eq, LANE, i32::from(NO_LANE), pass);
    a.load_map_value(Reg::R1, &maps.state);
    a.load(Size::Double, Reg::R1, Reg::R1, STATE_LANES);
    a.alu(Op::Shr, Reg::R1, LANE);
    a.jump_if(If::AnyBit, Reg::R1, 1, found);
    a.jump(pass);
}

/// A connection opens at the kernel: an older one between the same ends, which a lane had, must not draw its segments there. Goes on at
/// `pass`.
fn leave_pin(a: &mut Assembler, kind: &Kind<'_>, maps: &Maps, pass: Label) {
    match kind {
        Kind::SocketFilter(_) => {}
        Kind::Xdp(_) | Kind::TcxIngress => {
            look_up(a, &maps.pins, FLOW_KEY);
            a.jump_if(If::Eq, Reg::R0, 0, pass);
            a.store_imm(Size::Word, Reg::R0, 0, i32::from(NO_LANE));
        }
    }
    a.jump(pass);
}

/// As [`super::slot_of`], instruction by instruction; leaves the slot's lane in LANE.
fn pick_slot(a: &mut Assembler, seed: u32, pass: Label) {
    let [first, second, third] = MIX;
    a.load(Size::Word, Reg::R1, Reg::Fp, FLOW_KEY + 4);
    a.alu32_imm(Op::Xor, Reg::R1, seed);
    a.alu32_imm(Op::Mul, Reg::R1, first);
    a.load(Size::Half, Reg::R2, Reg::Fp, FLOW_KEY + 10);
    a.alu32(Op::Xor, Reg::R1, Reg::R2);
    a.alu32_imm(Op::Mul, Reg::R1, second);
    a.alu32(Op::Mov, Reg::R2, Reg::R1);
    a.alu32_imm(Op::Shr, Reg::R2, 15);
    a.alu32(Op::Xor, Reg::R1, Reg::R2);
    a.alu32_imm(Op::Mul, Reg::R1, third);
    a.alu32_imm(Op::Shr, Reg::R1, SLOT_SHIFT);
    a.alu(Op::Add, SLOTS, Reg::R1);
    a.load(Size::Byte, LANE, SLOTS, 0);
    a.jump_if(If::Eq, LANE, i32::from(NO_LANE), pass);
}

/// Remembers LANE for the flow. Should the map refuse, the segments go by their slot.
fn pin(a: &mut Assembler, maps: &Maps) {
    a.store(Size::Word, Reg::Fp, PIN_VALUE, LANE);
    a.load_map(Reg::R1, &maps.pins);
    a.alu(Op::Mov, Reg::R2, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R2, i32::from(FLOW_KEY));
    a.alu(Op::Mov, Reg::R3, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R3, i32::from(PIN_VALUE));
    a.alu_imm(Op::Mov, Reg::R4, 0);
    a.call(Helper::MapUpdate);
}

/// The verdict for LANE, then the verdict at `pass`.
fn verdict(a: &mut Assembler, kind: &Kind<'_>, pass: Label) {
    let otherwise = match kind {
        Kind::Xdp(sockets) => {
            a.load(Size::Word, Reg::R2, CONTEXT, XDP_QUEUE);
            a.alu_imm(Op::Mul, Reg::R2, i32::from(STEER_LANES));
            a.alu(Op::Add, Reg::R2, LANE);
            a.load_map(Reg::R1, *sockets);
            // The third argument is the verdict when the lane has no socket at this queue.
            a.alu_imm(Op::Mov, Reg::R3, XDP_PASS);
            a.call(Helper::RedirectMap);
            XDP_PASS
        }
        Kind::TcxIngress => {
            a.alu_imm(Op::Mov, Reg::R0, TCX_DROP);
            TCX_NEXT
        }
        Kind::SocketFilter(lane) => {
            a.jump_if(If::Ne, LANE, i32::from(lane.number()), pass);
            a.alu_imm(Op::Mov, Reg::R0, FILTER_WHOLE);
            FILTER_NOTHING
        }
    };
    a.exit();
    a.place(pass);
    a.alu_imm(Op::Mov, Reg::R0, otherwise);
    a.exit();
}
