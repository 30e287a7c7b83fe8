//! An assembler for eBPF with labels: just what the steering programs need (RFC 9669 gives the instruction set).
//!
//! A wrong program is the kernel's verifier's to refuse; here only what cannot be encoded is an error. Big-endian machines are left out.

use std::os::fd::{AsFd, AsRawFd};
use sys::bpf::Insn;

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reg {
    /// Result of calls and of the program.
    R0,
    /// First argument of calls; the context at the start.
    R1,
    /// Second argument.
    R2,
    /// Third argument.
    R3,
    /// Fourth argument.
    R4,
    /// Fifth argument.
    R5,
    /// Kept over calls.
    R6,
    /// Kept over calls.
    R7,
    /// Kept over calls.
    R8,
    /// Kept over calls.
    R9,
    /// End of the stack frame (512 bytes below it), read-only.
    Fp,
}

/// Width of a load or store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Size {
    const fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
            Self::Double => 0x18,
        }
    }
}

/// Operation of the arithmetic unit (RFC 9669 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// dst += src
    Add = 0x00,
    /// dst *= src
    Mul = 0x20,
    /// dst |= src
    Or = 0x40,
    /// dst &= src
    And = 0x50,
    /// dst <<= src
    Shl = 0x60,
    /// dst >>= src, unsigned
    Shr = 0x70,
    /// dst ^= src
    Xor = 0xa0,
    /// dst = src
    Mov = 0xb0,
}

/// Condition of a jump, unsigned (RFC 9669 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum If {
    /// Equal.
    Eq = 0x10,
    /// Greater.
    Gt = 0x20,
    /// Any common bit.
    AnyBit = 0x40,
    /// Not equal.
    Ne = 0x50,
    /// Less.
    Lt = 0xa0,
}

/// Helper functions of the kernel, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Helper {
    /// `bpf_map_lookup_elem(map, key)`: pointer to the value, or 0.
    MapLookup = 1,
    /// `bpf_map_update_elem(map, key, value, flags)`: 0, or negative.
    MapUpdate = 2,
    /// `bpf_skb_load_bytes(skb, offset, to, len)`: 0, or negative.
    SkbLoadBytes = 26,
    /// `bpf_redirect_map(map, key, otherwise)`: verdict.
    RedirectMap = 51,
    /// `bpf_skb_load_bytes_relative(skb, offset, to, len, from)`: 0, or negative.
    SkbLoadBytesRelative = 68,
}

/// A place in the program that jumps go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// Why a program does not assemble.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AssembleError {
    /// A jump goes to a label that was never placed.
    Unplaced,
    /// A jump goes further than 32767 instructions.
    TooFar,
}

const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const FROM_REGISTER: u8 = 0x08;

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A label, to be placed once.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places `label` before the next instruction.
    pub fn place(&mut self, label: Label) {
        let here = self.insns.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    fn emit(&mut self, code: u8, dst: Reg, src: u8, offset: i16, immediate: i32) {
        self.insns.push(Insn { code, registers: dst as u8 | src << 4, offset, immediate });
    }

    /// 64-bit `dst op= src`.
    pub fn alu(&mut self, op: Op, dst: Reg, src: Reg) {
        self.emit(ALU64 | FROM_REGISTER | op as u8, dst, src as u8, 0, 0);
    }

    /// 64-bit `dst op= value`, which is sign-extended.
    pub fn alu_imm(&mut self, op: Op, dst: Reg, value: i32) {
        self.emit(ALU64 | op as u8, dst, 0, 0, value);
    }

    /// 32-bit `dst op= src`; the upper half becomes zero.
    pub fn alu32(&mut self, op: Op, dst: Reg, src: Reg) {
        self.emit(ALU32 | FROM_REGISTER | op as u8, dst, src as u8, 0, 0);
    }

    /// 32-bit `dst op= value`; the upper half becomes zero.
    pub fn alu32_imm(&mut self, op: Op, dst: Reg, value: u32) {
        self.emit(ALU32 | op as u8, dst, 0, 0, value.cast_signed());
    }

    /// `dst = *(from + offset)`, zero-extended.
    pub fn load(&mut self, size: Size, dst: Reg, from: Reg, offset: i16) {
        self.emit(0x61 | size.code(), dst, from as u8, offset, 0);
    }

    /// `*(to + offset) = src`.
    pub fn store(&mut self, size: Size, to: Reg, offset: i16, src: Reg) {
        self.emit(0x63 | size.code(), to, src as u8, offset, 0);
    }

    /// `*(to + offset) = value`.
    pub fn store_imm(&mut self, size: Size, to: Reg, offset: i16, value: i32) {
        self.emit(0x62 | size.code(), to, 0, offset, value);
    }

    /// `dst = map`, as the helpers take it.
    pub fn load_map(&mut self, dst: Reg, map: &impl AsFd) {
        const PSEUDO_MAP_FD: u8 = 1;
        self.emit(0x18, dst, PSEUDO_MAP_FD, 0, map.as_fd().as_raw_fd());
        self.insns.push(Insn::default());
    }

    /// `dst` = pointer to the first value of an array map.
    pub fn load_map_value(&mut self, dst: Reg, map: &impl AsFd) {
        const PSEUDO_MAP_VALUE: u8 = 2;
        self.emit(0x18, dst, PSEUDO_MAP_VALUE, 0, map.as_fd().as_raw_fd());
        self.insns.push(Insn::default());
    }

    /// Calls a helper with R1 to R5; R1 to R5 are gone afterwards.
    pub fn call(&mut self, helper: Helper) {
        self.emit(0x85, Reg::R0, 0, 0, helper as i32);
    }

    /// Jumps.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(0x05, Reg::R0, 0, 0, 0);
    }

    /// Jumps if `reg cond value` (64-bit, value sign-extended).
    pub fn jump_if(&mut self, cond: If, reg: Reg, value: i32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(0x05 | cond as u8, reg, 0, 0, value);
    }

    /// Jumps if `reg cond other` (64-bit).
    pub fn jump_if_reg(&mut self, cond: If, reg: Reg, other: Reg, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(0x05 | FROM_REGISTER | cond as u8, reg, other as u8, 0, 0);
    }

    /// Ends the program with R0.
    pub fn exit(&mut self) {
        self.emit(0x95, Reg::R0, 0, 0, 0);
    }

    /// The program with its jumps resolved.
    ///
    /// # Errors
    /// [`AssembleError`].
    pub fn finish(mut self) -> Result<Vec<Insn>, AssembleError> {
        for (at, label) in self.jumps {
            let place = self.labels.get(label.0).copied().flatten().ok_or(AssembleError::Unplaced)?;
            // A jump counts from the instruction after it (RFC 9669 4.3).
            let distance = place as i64 - (at as i64 + 1);
            let insn = self.insns.get_mut(at).ok_or(AssembleError::Unplaced)?;
            insn.offset = i16::try_from(distance).map_err(|_| AssembleError::TooFar)?;
        }
        Ok(self.insns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_go_forward_and_backward_to_their_labels() {
        let mut a = Assembler::new();
        let (back, end) = (a.label(), a.label());
        a.place(back);
        a.alu_imm(Op::Add, Reg::R0, 1);
        a.jump_if(If::Eq, Reg::R0, 5, end);
        a.jump(back);
        a.place(end);
        a.exit();
        let offsets: Vec<i16> = a.finish().unwrap().iter().map(|insn| insn.offset).collect();
        assert_eq!(offsets, [0, 1, -3, 0]);
    }

    #[test]
    fn a_label_that_is_nowhere_is_an_error() {
        let mut a = Assembler::new();
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish(), Err(AssembleError::Unplaced));
    }

    #[test]
    fn encodings_are_those_of_rfc_9669() {
        let mut a = Assembler::new();
        a.alu(Op::Mov, Reg::R6, Reg::R1);
        a.alu_imm(Op::Mov, Reg::R0, -1);
        a.alu32_imm(Op::Shr, Reg::R2, 26);
        a.load(Size::Half, Reg::R2, Reg::R7, 12);
        a.store(Size::Word, Reg::Fp, -16, Reg::R2);
        a.store_imm(Size::Byte, Reg::Fp, -1, 0);
        a.call(Helper::MapLookup);
        a.exit();
        let codes: Vec<(u8, u8, i16, i32)> =
            a.finish().unwrap().iter().map(|i| (i.code, i.registers, i.offset, i.immediate)).collect();
        assert_eq!(
            codes,
            [
                (0xbf, 0x16, 0, 0),
                (0xb7, 0x00, 0, -1),
                (0x74, 0x02, 0, 26),
                (0x69, 0x72, 12, 0),
                (0x63, 0x2a, -16, 0),
                (0x72, 0x0a, -1, 0),
                (0x85, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
            ]
        );
    }
}
