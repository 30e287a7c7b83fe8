//! ICMP errors in the steering programs: an error belongs to who has the flow of the packet that it quotes.
//!
//! The kernel looks for a socket by the quoted ends and does nothing without one, so an error about a lane's flow is of no use to it; one about the
//! kernel's own flows finds no rule here. Whether what is quoted was ever sent is for the lane to judge (RFC 5927 4.1), as it is for a segment's numbers.
//!
//! Fragments of errors, quoted fragments but the first, and quoted IPv6 packets with extension headers are the kernel's: lanes send none.

use super::program::{
    CONTEXT, DESTINATION_PORT, Family, HEADER, Kind, PORT, PROTO, SOURCE_PORT, XDP_DATA_END, build_ports,
    find_flow, find_rule,
};
use super::read::load_bytes;
use super::shape::{IP, Shape};
use crate::bpf::{Assembler, If, Label, Op, Reg, Size};

/// ICMP's protocol number, and ICMPv6's (RFC 792, RFC 4443).
pub(super) const ICMP: i32 = 1;
pub(super) const ICMP_V6: i32 = 58;
/// Bytes of a message in front of what it quotes.
const MESSAGE: i16 = 8;
/// Destination unreachable, time exceeded, parameter problem (RFC 792).
const ERRORS: [i32; 3] = [3, 11, 12];
/// Destination unreachable to parameter problem: the errors of RFC 4443 3, bounds included.
const ERRORS_V6: [i32; 2] = [1, 4];
/// Of the quoted transport header: the ports, and the 32 bits that show that we sent it.
const QUOTED_PORTS: i32 = 8;

/// Goes on with the lane of the flow that an ICMP error quotes. The message is R2 bytes into the frame.
pub(super) fn classify(
    a: &mut Assembler,
    kind: &Kind<'_>,
    family: &Family<'_>,
    seed: u32,
    (found, pass): (Label, Label),
) {
    // Until the quoted packet's protocol is known its register holds the place of the message.
    let (shape, place) = (family.shape, PROTO);
    a.alu(Op::Mov, place, Reg::R2);
    read(a, kind, shape.quoted_copy, i32::from(MESSAGE) + shape.ip_bytes(), pass);
    check_type(a, shape, pass);
    check_quoted(a, shape, pass);
    quoted_ends(a, shape, pass);
    find_quoted_transport(a, shape);
    a.load(Size::Byte, PROTO, PORT, MESSAGE + shape.proto - IP);
    check_protocol(a, pass);
    read(a, kind, shape.ports_copy, QUOTED_PORTS, pass);
    // The quoted packet's source is our end.
    build_ports(a, shape, (SOURCE_PORT, DESTINATION_PORT));
    find_flow(a, family, found, pass);
    find_rule(a, kind, family, seed, (found, pass), true);
}

/// Leaves PORT pointing at `bytes` readable bytes, R2 into the frame, of which `copy` is the place on the stack.
fn read(a: &mut Assembler, kind: &Kind<'_>, copy: i16, bytes: i32, pass: Label) {
    match kind {
        Kind::Xdp(_) => {
            a.alu(Op::Mov, PORT, HEADER);
            a.alu(Op::Add, PORT, Reg::R2);
            a.alu(Op::Mov, Reg::R3, PORT);
            a.alu_imm(Op::Add, Reg::R3, bytes);
            a.load(Size::Word, Reg::R2, CONTEXT, XDP_DATA_END);
            a.jump_if_reg(If::Gt, Reg::R3, Reg::R2, pass);
        }
        Kind::TcxIngress | Kind::SocketFilter(_) => {
            a.alu_imm(Op::Mov, Reg::R4, bytes);
            load_bytes(a, kind, copy, pass);
            a.alu(Op::Mov, PORT, Reg::Fp);
            a.alu_imm(Op::Add, PORT, i32::from(copy));
        }
    }
}

fn check_type(a: &mut Assembler, shape: &Shape, pass: Label) {
    a.load(Size::Byte, Reg::R2, PORT, 0);
    if shape.is_four() {
        let error = a.label();
        let [first, second, last] = ERRORS;
        a.jump_if(If::Eq, Reg::R2, first, error);
        a.jump_if(If::Eq, Reg::R2, second, error);
        a.jump_if(If::Ne, Reg::R2, last, pass);
        a.place(error);
    } else {
        let [first, last] = ERRORS_V6;
        a.jump_if(If::Lt, Reg::R2, first, pass);
        a.jump_if(If::Gt, Reg::R2, last, pass);
    }
}

/// Is a packet quoted of which the transport header follows?
fn check_quoted(a: &mut Assembler, shape: &Shape, pass: Label) {
    a.load(Size::Byte, Reg::R2, PORT, MESSAGE);
    if shape.is_four() {
        a.jump_if(If::Lt, Reg::R2, 0x45, pass);
        a.jump_if(If::Gt, Reg::R2, 0x4f, pass);
        a.load(Size::Half, Reg::R2, PORT, MESSAGE + 6);
        // RFC 791 3.1: the fragment offset.
        a.jump_if(If::AnyBit, Reg::R2, i32::from(0x1fff_u16.to_be()), pass);
    } else {
        a.alu_imm(Op::And, Reg::R2, 0xf0);
        a.jump_if(If::Ne, Reg::R2, 0x60, pass);
    }
}

/// Writes the addresses of both keys. What is quoted came from the address that the error goes to, or was never ours.
fn quoted_ends(a: &mut Assembler, shape: &Shape, pass: Label) {
    let (source, destination) = (MESSAGE + shape.src - IP, MESSAGE + shape.dst - IP);
    for word in 0..shape.words {
        let at = 4 * word;
        a.load(Size::Word, Reg::R2, HEADER, shape.dst + at);
        a.load(Size::Word, Reg::R3, PORT, source + at);
        a.jump_if_reg(If::Ne, Reg::R2, Reg::R3, pass);
        a.store(Size::Word, Reg::Fp, shape.flow_key + at, Reg::R2);
        a.store(Size::Word, Reg::Fp, shape.listener_key + at, Reg::R2);
        a.load(Size::Word, Reg::R2, PORT, destination + at);
        a.store(Size::Word, Reg::Fp, shape.flow_remote() + at, Reg::R2);
    }
}

/// Leaves the place of the quoted transport header in R2.
fn find_quoted_transport(a: &mut Assembler, shape: &Shape) {
    if shape.is_four() {
        a.load(Size::Byte, Reg::R2, PORT, MESSAGE);
        a.alu_imm(Op::And, Reg::R2, 0x0f);
        a.alu_imm(Op::Shl, Reg::R2, 2);
    } else {
        a.alu_imm(Op::Mov, Reg::R2, shape.ip_bytes());
    }
    a.alu(Op::Add, Reg::R2, PROTO);
    a.alu_imm(Op::Add, Reg::R2, i32::from(MESSAGE));
}

/// RFC 9293 and RFC 768 have rules; others are the kernel's.
fn check_protocol(a: &mut Assembler, pass: Label) {
    let known = a.label();
    a.jump_if(If::Eq, PROTO, 6, known);
    a.jump_if(If::Ne, PROTO, 17, pass);
    a.place(known);
}
