//! Reading bytes of a socket buffer, for the programs that have one (TCX, socket filters).

use super::program::{CONTEXT, Kind};
use super::shape::{LOAD_BYTES, LOAD_OFFSET};
use crate::bpf::{Assembler, Helper, If, Label, Op, Reg, Size};

/// BPF_HDR_START_MAC.
const FROM_LINK_HEADER: i32 = 0;

/// Copies R4 bytes at offset R2 of the socket buffer to the stack. A frame too short goes to the kernel.
pub(super) fn load_bytes(a: &mut Assembler, kind: &Kind<'_>, to: i16, pass: Label) {
    let done = a.label();
    match kind {
        Kind::Xdp(_) | Kind::SocketFilter(_) => {}
        Kind::TcxIngress => {
            // A packet that generic XDP copied begins at TCX with its IP header: Linux loses the length of what is in front. Its headers lie in one
            // piece, in which the link header is found; those of other packets may not, and are read below.
            a.store(Size::Double, Reg::Fp, LOAD_OFFSET, Reg::R2);
            a.store(Size::Double, Reg::Fp, LOAD_BYTES, Reg::R4);
            a.alu_imm(Op::Mov, Reg::R5, FROM_LINK_HEADER);
            load_with(a, Helper::SkbLoadBytesRelative, to);
            a.jump_if(If::Eq, Reg::R0, 0, done);
            a.load(Size::Double, Reg::R2, Reg::Fp, LOAD_OFFSET);
            a.load(Size::Double, Reg::R4, Reg::Fp, LOAD_BYTES);
        }
    }
    load_with(a, Helper::SkbLoadBytes, to);
    a.jump_if(If::Ne, Reg::R0, 0, pass);
    a.place(done);
}

fn load_with(a: &mut Assembler, helper: Helper, to: i16) {
    a.alu(Op::Mov, Reg::R1, CONTEXT);
    a.alu(Op::Mov, Reg::R3, Reg::Fp);
    a.alu_imm(Op::Add, Reg::R3, i32::from(to));
    a.call(helper);
}
