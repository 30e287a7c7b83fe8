//! The three steering programs: one classifier with three ways to read the packet and three verdicts.
//!
//! Classifier: Ethernet without tag, to a single station; IPv4 with any options, no fragment, or IPv6 without extension headers; TCP or UDP. First the flow map, then the
//! listener map with the slot of the remote end: the port's own rule, then that of its block. The SYN that opens a connection leaves a pin, which the connection's other segments follow
//! when the listener has several lanes or is gone: lanes come and go without breaking what runs. The maps may change while such a SYN goes past the taps to TCX: the lane whose
//! tap takes it says so in the pin, no other takes it then, and TCX goes by that. Whatever is not found, or not understood, goes on to the kernel. Fragments go to the
//! kernel because only the first has ports (RFC 791 3.2); nothing is lost, the kernel reassembles and answers for itself. An ICMP error goes where the packet
//! that it quotes came from (`quoted`). The two families have maps of their own; the code for each is made by the same functions, by a [`Shape`].

use super::maps::{
    BLOCK_KEY, BLOCK_MASK, LISTENER_PINS, MIX, NO_LANE, PIN_TAKEN, PINS_FIRST, PINS_UNUSED, SLOT_SHIFT,
    STATE_BLOCKS, STATE_FLOWS, STATE_LANES,
};
use super::read::load_bytes;
use super::shape::{FOUR, IP, SIX, Shape};
use super::{FamilyMaps, Maps, STEER_LANES, SteerLane, quoted};
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
const IP_FRAGMENT: i16 = IP + 6;
/// Source and destination port.
const PORTS: i32 = 4;
/// The sequence number in the TCP header, and the header up to and with its flags (RFC 9293 3.1).
const TCP_SEQ: i16 = 4;
const TCP_START: i32 = 14;
const TCP_FLAGS: i16 = 13;
const TCP_SYN: i32 = 0x02;
const TCP_SYN_ACK: i32 = 0x12;

/// One family in the making: its shape and its maps.
#[derive(Clone, Copy)]
pub(super) struct Family<'a> {
    pub(super) shape: &'a Shape,
    own: &'a FamilyMaps,
    maps: &'a Maps,
}

// Values of OPENS beside UDP's number.
const SEGMENT: i32 = 6;
const OPENING: i32 = 1;

// Fields of the contexts (struct xdp_md, struct __sk_buff).
const XDP_DATA: i16 = 0;
pub(super) const XDP_DATA_END: i16 = 4;
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
pub(super) const CONTEXT: Reg = Reg::R6;
pub(super) const HEADER: Reg = Reg::R7;
const SLOTS: Reg = Reg::R7;
pub(super) const PORT: Reg = Reg::R8;
const LANE: Reg = Reg::R8;
pub(super) const PROTO: Reg = Reg::R9;
const OPENS: Reg = Reg::R9;

/// Makes the program of `kind`; `seed` as in [`super::slot_of`].
pub(super) fn generate(kind: &Kind<'_>, maps: &Maps, seed: u32) -> Result<Vec<Insn>, AssembleError> {
    let mut a = Assembler::new();
    let (pass, found, six) = (a.label(), a.label(), a.label());
    let (error, error_six) = (a.label(), a.label());
    let four = Family { shape: &FOUR, own: &maps.four, maps };
    let family_six = Family { shape: &SIX, own: &maps.six, maps };
    a.alu(Op::Mov, CONTEXT, Reg::R1);
    check_context(&mut a, kind, pass);
    read_headers(&mut a, kind, &FOUR, pass);
    check_link(&mut a, six, pass);
    check_v4(&mut a, error, pass);
    find_v4_transport(&mut a, pass);
    classify(&mut a, kind, &four, seed, (found, pass));
    a.jump(found);
    a.place(error);
    find_v4_transport(&mut a, pass);
    quoted::classify(&mut a, kind, &four, seed, (found, pass));
    a.jump(found);
    a.place(six);
    read_headers(&mut a, kind, &SIX, pass);
    check_v6(&mut a, error_six, pass);
    a.alu_imm(Op::Mov, Reg::R2, SIX.headers());
    classify(&mut a, kind, &family_six, seed, (found, pass));
    a.jump(found);
    a.place(error_six);
    a.alu_imm(Op::Mov, Reg::R2, SIX.headers());
    quoted::classify(&mut a, kind, &family_six, seed, (found, pass));
    a.place(found);
    verdict(&mut a, kind, pass);
    a.finish()
}

/// Goes on with the lane of the packet whose transport header is R2 bytes into the frame.
fn classify(
    a: &mut Assembler,
    kind: &Kind<'_>,
    family: &Family<'_>,
    seed: u32,
    (found, pass): (Label, Label),
) {
    read_ports(a, kind, family.shape, pass);
    build_keys(a, family.shape);
    find_flow(a, family, found, pass);
    find_rule(a, kind, family, seed, (found, pass), false);
}

/// Is it a frame for this station, without a tag?
fn check_context(a: &mut Assembler, kind: &Kind<'_>, pass: Label) {
    match kind {
        Kind::Xdp(_) => {}
        Kind::TcxIngress | Kind::SocketFilter(_) => {
            // PACKET_HOST is 0: not the frames this host sends, which a tap sees as well, nor those for other stations.
            a.load(Size::Word, Reg::R2, CONTEXT, SKB_PACKET_TYPE);
            a.jump_if(If::Ne, Reg::R2, 0, pass);
            a.load(Size::Word, Reg::R2, CONTEXT, SKB_VLAN_PRESENT);
            a.jump_if(If::Ne, Reg::R2, 0, pass);
        }
    }
}

/// Leaves HEADER pointing at the headers of a family, readable.
fn read_headers(a: &mut Assembler, kind: &Kind<'_>, shape: &Shape, pass: Label) {
    match kind {
        Kind::Xdp(_) => {
            a.load(Size::Word, HEADER, CONTEXT, XDP_DATA);
            a.load(Size::Word, Reg::R2, CONTEXT, XDP_DATA_END);
            a.alu(Op::Mov, Reg::R3, HEADER);
            a.alu_imm(Op::Add, Reg::R3, shape.headers());
            a.jump_if_reg(If::Gt, Reg::R3, Reg::R2, pass);
        }
        Kind::TcxIngress | Kind::SocketFilter(_) => {
            a.alu_imm(Op::Mov, Reg::R2, 0);
            a.alu_imm(Op::Mov, Reg::R4, shape.headers());
            load_bytes(a, kind, shape.headers_copy, pass);
            a.alu(Op::Mov, HEADER, Reg::Fp);
            a.alu_imm(Op::Add, HEADER, i32::from(shape.headers_copy));
        }
    }
}

/// Goes on at `six` for IPv6, and here for IPv4.
fn check_link(a: &mut Assembler, six: Label, pass: Label) {
    // IEEE 802.3 3.2.3: the lowest bit of the first byte says "group". TCP never goes to a group, and multicast UDP is the kernel's.
    a.load(Size::Byte, Reg::R2, HEADER, 0);
    a.jump_if(If::AnyBit, Reg::R2, 1, pass);
    a.load(Size::Half, Reg::R2, HEADER, ETH_TYPE);
    a.jump_if(If::Eq, Reg::R2, i32::from(0x86dd_u16.to_be()), six);
    a.jump_if(If::Ne, Reg::R2, i32::from(0x0800_u16.to_be()), pass);
}

fn check_v4(a: &mut Assembler, error: Label, pass: Label) {
    // RFC 791 3.1: more-fragments flag and fragment offset.
    a.load(Size::Half, Reg::R2, HEADER, IP_FRAGMENT);
    a.jump_if(If::AnyBit, Reg::R2, i32::from(0x3fff_u16.to_be()), pass);
    check_protocol(a, &FOUR, (quoted::ICMP, error), pass);
}

/// A packet with extension headers, a fragment too, is the kernel's.
fn check_v6(a: &mut Assembler, error: Label, pass: Label) {
    // RFC 8200 3: version 6.
    a.load(Size::Byte, Reg::R2, HEADER, IP);
    a.alu_imm(Op::And, Reg::R2, 0xf0);
    a.jump_if(If::Ne, Reg::R2, 0x60, pass);
    check_protocol(a, &SIX, (quoted::ICMP_V6, error), pass);
}

/// Goes on here for TCP and UDP, and at `error` for `icmp`.
fn check_protocol(a: &mut Assembler, shape: &Shape, (icmp, error): (i32, Label), pass: Label) {
    let known = a.label();
    a.load(Size::Byte, PROTO, HEADER, shape.proto);
    a.jump_if(If::Eq, PROTO, 6, known);
    a.jump_if(If::Eq, PROTO, icmp, error);
    a.jump_if(If::Ne, PROTO, 17, pass);
    a.place(known);
}

/// Checks version and header length and leaves the place of the transport header in R2.
fn find_v4_transport(a: &mut Assembler, pass: Label) {
    // RFC 791 3.1: version 4, and a header of at least five words.
    a.load(Size::Byte, Reg::R2, HEADER, IP);
    a.jump_if(If::Lt, Reg::R2, 0x45, pass);
    a.jump_if(If::Gt, Reg::R2, 0x4f, pass);
    a.alu_imm(Op::And, Reg::R2, 0x0f);
    a.alu_imm(Op::Shl, Reg::R2, 2);
    a.alu_imm(Op::Add, Reg::R2, i32::from(IP));
}

/// Leaves PORT pointing at the two ports, which are R2 bytes into the frame, with TCP at [`TCP_START`] readable bytes.
fn read_ports(a: &mut Assembler, kind: &Kind<'_>, shape: &Shape, pass: Label) {
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
            load_bytes(a, kind, shape.ports_copy, pass);
            a.alu(Op::Mov, PORT, Reg::Fp);
            a.alu_imm(Op::Add, PORT, i32::from(shape.ports_copy));
        }
    }
}

/// Writes both keys, as [`super::Flow`] and [`super::LocalEnd`] lay them out.
fn build_keys(a: &mut Assembler, shape: &Shape) {
    for word in 0..shape.words {
        let at = 4 * word;
        a.load(Size::Word, Reg::R2, HEADER, shape.dst + at);
        a.store(Size::Word, Reg::Fp, shape.flow_key + at, Reg::R2);
        a.store(Size::Word, Reg::Fp, shape.listener_key + at, Reg::R2);
        a.load(Size::Word, Reg::R2, HEADER, shape.src + at);
        a.store(Size::Word, Reg::Fp, shape.flow_remote() + at, Reg::R2);
    }
    build_ports(a, shape, (DESTINATION_PORT, SOURCE_PORT));
}

/// Places in a TCP or UDP header (RFC 9293 3.1, RFC 768).
pub(super) const SOURCE_PORT: i16 = 0;
pub(super) const DESTINATION_PORT: i16 = 2;

/// Writes ports and protocol of both keys; `own` and `remote`: where in the transport header the port of each end stands.
pub(super) fn build_ports(a: &mut Assembler, shape: &Shape, (own, remote): (i16, i16)) {
    let (ports, port) = (shape.flow_ports(), shape.listener_port());
    a.load(Size::Half, Reg::R2, PORT, own);
    a.store(Size::Half, Reg::Fp, ports, Reg::R2);
    a.store(Size::Half, Reg::Fp, port, Reg::R2);
    a.load(Size::Half, Reg::R2, PORT, remote);
    a.store(Size::Half, Reg::Fp, ports + 2, Reg::R2);
    a.store_imm(Size::Word, Reg::Fp, ports + 4, 0);
    a.store(Size::Byte, Reg::Fp, ports + 4, PROTO);
    a.store(Size::Byte, Reg::Fp, port + 2, PROTO);
    a.store_imm(Size::Byte, Reg::Fp, port + 3, 0);
}

fn look_up(a: &mut Assembler, map: &Map, key: i16) {
    a.load_map(Reg::R1, map);
    a.alu(Op::Mov, Reg::R2, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R2, i32::from(key));
    a.call(Helper::MapLookup);
}

pub(super) fn find_flow(a: &mut Assembler, family: &Family<'_>, found: Label, pass: Label) {
    let missed = a.label();
    // Most hosts have no flow rules; one load is cheaper than a hash of 16 bytes.
    a.load_map_value(Reg::R1, &family.maps.state);
    a.load(Size::Word, Reg::R1, Reg::R1, STATE_FLOWS);
    a.jump_if(If::Eq, Reg::R1, 0, missed);
    // The lane register still holds the ports, for when the flow is not there.
    look_up(a, &family.own.flows, family.shape.flow_key);
    a.jump_if(If::Eq, Reg::R0, 0, missed);
    a.load(Size::Word, LANE, Reg::R0, 0);
    // A connection that was handed over to the kernel.
    a.jump_if(If::Eq, LANE, i32::from(NO_LANE), pass);
    a.jump(found);
    a.place(missed);
}

/// Goes on with the lane of the listener or block. What is `quoted` opens nothing: it goes as the connection's other segments do.
pub(super) fn find_rule(
    a: &mut Assembler,
    kind: &Kind<'_>,
    family: &Family<'_>,
    seed: u32,
    (found, pass): (Label, Label),
    quoted: bool,
) {
    let (pick, no_listener, opens_at_kernel) = (a.label(), a.label(), a.label());
    look_up(a, &family.own.listeners, family.shape.listener_key);
    look_up_block(a, family);
    a.alu(Op::Mov, SLOTS, Reg::R0);
    if !quoted {
        opens_connection(a);
        follow_tap(a, kind, family, found);
    }
    a.jump_if(If::Eq, SLOTS, 0, no_listener);
    a.jump_if(If::Ne, OPENS, SEGMENT, pick);
    a.load(Size::Byte, Reg::R2, SLOTS, LISTENER_PINS);
    a.jump_if(If::Eq, Reg::R2, i32::from(PINS_UNUSED), pick);
    let only = a.label();
    a.jump_if(If::Ne, Reg::R2, i32::from(PINS_FIRST), only);
    follow_pin(a, family, pick, (found, pass));
    a.place(no_listener);
    a.jump_if(If::Eq, OPENS, OPENING, opens_at_kernel);
    a.jump_if(If::Ne, OPENS, SEGMENT, pass);
    a.place(only);
    follow_pin(a, family, pass, (found, pass));
    a.place(opens_at_kernel);
    leave_pin(a, kind, family, pass);
    a.place(pick);
    pick_slot(a, family.shape, seed, pass);
    a.jump_if(If::Ne, OPENS, OPENING, found);
    match kind {
        Kind::SocketFilter(lane) => take(a, family, *lane, pass),
        // No tap took it, because the lanes changed: the peer sends it again.
        Kind::Xdp(_) | Kind::TcxIngress => pin(a, family, false),
    }
}

/// At TCX: goes on at `found` with the lane whose tap took this SYN, and takes the mark back, so that the SYN goes by the rules if it comes again.
fn follow_tap(a: &mut Assembler, kind: &Kind<'_>, family: &Family<'_>, found: Label) {
    match kind {
        Kind::SocketFilter(_) | Kind::Xdp(_) => {}
        Kind::TcxIngress => {
            let missed = a.label();
            a.jump_if(If::Ne, OPENS, OPENING, missed);
            find_mark(a, family, missed);
            a.store_imm(Size::Word, Reg::R0, PIN_TAKEN, 0);
            a.load(Size::Byte, LANE, Reg::R0, 0);
            a.jump(found);
            a.place(missed);
        }
    }
}

/// At the tap of `lane`, to which the SYN goes if LANE says so: takes it, but not from another tap.
fn take(a: &mut Assembler, family: &Family<'_>, lane: SteerLane, pass: Label) {
    let free = a.label();
    a.jump_if(If::Ne, LANE, i32::from(lane.number()), pass);
    find_mark(a, family, free);
    a.load(Size::Byte, Reg::R2, Reg::R0, 0);
    a.jump_if(If::Ne, Reg::R2, i32::from(lane.number()), pass);
    a.place(free);
    pin(a, family, true);
}

/// Leaves the pin of this SYN that a tap has taken in R0; goes on at `missed` if none has.
fn find_mark(a: &mut Assembler, family: &Family<'_>, missed: Label) {
    look_up(a, &family.own.pins, family.shape.flow_key);
    a.jump_if(If::Eq, Reg::R0, 0, missed);
    read_mark(a, family);
    a.load(Size::Word, Reg::R2, Reg::R0, PIN_TAKEN);
    a.jump_if_reg(If::Ne, Reg::R2, Reg::R3, missed);
}

/// The mark of the SYN to R3, from the copy of its header that programs for socket buffers make.
fn read_mark(a: &mut Assembler, family: &Family<'_>) {
    a.load(Size::Word, Reg::R3, Reg::Fp, family.shape.ports_copy + TCP_SEQ);
    a.alu_imm(Op::Or, Reg::R3, 1);
}

/// A port without a rule of its own may lie in a block that has one.
fn look_up_block(a: &mut Assembler, family: &Family<'_>) {
    let done = a.label();
    a.jump_if(If::Ne, Reg::R0, 0, done);
    a.load_map_value(Reg::R1, &family.maps.state);
    a.load(Size::Word, Reg::R1, Reg::R1, STATE_BLOCKS);
    a.jump_if(If::Eq, Reg::R1, 0, done);
    a.load(Size::Half, Reg::R2, Reg::Fp, family.shape.listener_port());
    a.alu_imm(Op::And, Reg::R2, i32::from(BLOCK_MASK.to_be()));
    a.store(Size::Half, Reg::Fp, family.shape.listener_port(), Reg::R2);
    a.store_imm(Size::Byte, Reg::Fp, family.shape.listener_port() + 3, i32::from(BLOCK_KEY));
    look_up(a, &family.own.listeners, family.shape.listener_key);
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
fn follow_pin(a: &mut Assembler, family: &Family<'_>, missed: Label, (found, pass): (Label, Label)) {
    look_up(a, &family.own.pins, family.shape.flow_key);
    a.jump_if(If::Eq, Reg::R0, 0, missed);
    a.load(Size::Byte, LANE, Reg::R0, 0);
    a.jump_if(If::Eq, LANE, i32::from(NO_LANE), pass);
    a.load_map_value(Reg::R1, &family.maps.state);
    a.load(Size::Double, Reg::R1, Reg::R1, STATE_LANES);
    a.alu(Op::Shr, Reg::R1, LANE);
    a.jump_if(If::AnyBit, Reg::R1, 1, found);
    a.jump(pass);
}

/// A connection opens at the kernel: an older one between the same ends, which a lane had, must not draw its segments there. Goes on at
/// `pass`.
fn leave_pin(a: &mut Assembler, kind: &Kind<'_>, family: &Family<'_>, pass: Label) {
    match kind {
        Kind::SocketFilter(_) => {}
        Kind::Xdp(_) | Kind::TcxIngress => {
            look_up(a, &family.own.pins, family.shape.flow_key);
            a.jump_if(If::Eq, Reg::R0, 0, pass);
            a.store_imm(Size::Word, Reg::R0, 0, i32::from(NO_LANE));
        }
    }
    a.jump(pass);
}

/// As [`super::slot_of`], instruction by instruction; leaves the slot's lane in LANE.
fn pick_slot(a: &mut Assembler, shape: &Shape, seed: u32, pass: Label) {
    let [first, second, third] = MIX;
    a.load(Size::Word, Reg::R1, Reg::Fp, shape.flow_remote());
    for word in 1..shape.words {
        a.load(Size::Word, Reg::R2, Reg::Fp, shape.flow_remote() + 4 * word);
        a.alu32(Op::Xor, Reg::R1, Reg::R2);
    }
    a.alu32_imm(Op::Xor, Reg::R1, seed);
    a.alu32_imm(Op::Mul, Reg::R1, first);
    a.load(Size::Half, Reg::R2, Reg::Fp, shape.flow_ports() + 2);
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

/// Remembers LANE for the flow, and if it is `taken` the SYN. Should the map refuse, the segments go by their slot.
fn pin(a: &mut Assembler, family: &Family<'_>, taken: bool) {
    a.store(Size::Word, Reg::Fp, family.shape.pin_value, LANE);
    a.store_imm(Size::Word, Reg::Fp, family.shape.pin_value + PIN_TAKEN, 0);
    if taken {
        read_mark(a, family);
        a.store(Size::Word, Reg::Fp, family.shape.pin_value + PIN_TAKEN, Reg::R3);
    }
    a.load_map(Reg::R1, &family.own.pins);
    a.alu(Op::Mov, Reg::R2, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R2, i32::from(family.shape.flow_key));
    a.alu(Op::Mov, Reg::R3, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R3, i32::from(family.shape.pin_value));
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
