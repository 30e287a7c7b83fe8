//! The eBPF assembler that makes the steering programs: a program from the input runs in another machine (rbpf), and in a model that follows
//! what was asked of the assembler, not what it made of it. Both must end with the same number.

use control::bpf::{Assembler, If, Label, Op, Reg, Size};
use sys::bpf::Insn;

use super::Target;
use crate::input::Input;

pub(super) const TARGET: Target = Target {
    name: "assembler",
    what: "eBPF programs: arithmetic, jumps, loads and stores, against rbpf",
    longest: 512,
    play,
    seeds,
};

const REGISTERS: [Reg; 10] =
    [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9];
const STEPS_MAX: usize = 100;
/// Bytes of stack that programs use.
const STACK: usize = 64;

/// One step, as it is asked for. Registers by number.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alu {
        wide: bool,
        op: Op,
        dst: usize,
        src: usize,
    },
    AluImm {
        wide: bool,
        op: Op,
        dst: usize,
        value: i32,
    },
    Load {
        size: Size,
        dst: usize,
        at: usize,
    },
    Store {
        size: Size,
        at: usize,
        src: usize,
    },
    StoreImm {
        size: Size,
        at: usize,
        value: i32,
    },
    /// Over so many of the next steps.
    Jump {
        over: usize,
    },
    JumpIf {
        cond: If,
        reg: usize,
        value: i32,
        over: usize,
    },
    JumpIfReg {
        cond: If,
        reg: usize,
        other: usize,
        over: usize,
    },
}

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let start: Vec<i32> = REGISTERS.iter().map(|_| input.word().cast_signed()).collect();
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < STEPS_MAX {
        steps.push(step(&mut input));
    }
    let program = assemble(&start, &steps)?;
    let expected = model(&start, &steps);
    let code: Vec<u8> = program.iter().flat_map(encode).collect();
    let machine = rbpf::EbpfVmNoData::new(Some(&code)).map_err(|e| format!("rbpf refuses it: {e}"))?;
    let got = machine.execute_program().map_err(|e| format!("rbpf stops: {e} {steps:?}"))?;
    if got == expected { Ok(()) } else { Err(format!("{got:#x} instead of {expected:#x}: {steps:?}")) }
}

fn encode(insn: &Insn) -> Vec<u8> {
    let mut bytes = vec![insn.code, insn.registers];
    bytes.extend(insn.offset.to_le_bytes());
    bytes.extend(insn.immediate.to_le_bytes());
    bytes
}

fn step(input: &mut Input<'_>) -> Step {
    let (kind, a, b) = (input.byte(), usize::from(input.byte()), usize::from(input.byte()));
    let (dst, src) = (a % REGISTERS.len(), b % REGISTERS.len());
    let wide = kind & 0x80 != 0;
    let over = b % 8;
    let op = match kind >> 4 & 7 {
        0 => Op::Add,
        1 => Op::Mul,
        2 => Op::And,
        3 => Op::Shl,
        4 => Op::Shr,
        5 => Op::Xor,
        6 => Op::Or,
        _ => Op::Mov,
    };
    let cond = match kind >> 4 & 7 {
        0 => If::Eq,
        1 => If::Gt,
        2 => If::AnyBit,
        3 => If::Ne,
        _ => If::Lt,
    };
    let size = match kind >> 4 & 3 {
        0 => Size::Byte,
        1 => Size::Half,
        2 => Size::Word,
        _ => Size::Double,
    };
    // Aligned, as the kernel's verifier wants it.
    let at = 8 * (b % (STACK / 8));
    let shifts = matches!(op, Op::Shl | Op::Shr);
    match kind & 7 {
        // A shift by a register may be longer than the word, which RFC 9669 masks: shifts are by constants here.
        0 if !shifts => Step::Alu { wide, op, dst, src },
        0 | 1 => {
            let value = if shifts { i32::from(input.byte() & 31) } else { input.word().cast_signed() };
            Step::AluImm { wide, op, dst, value }
        }
        2 => Step::Load { size, dst, at },
        3 => Step::Store { size, at, src },
        4 => Step::StoreImm { size, at, value: input.word().cast_signed() },
        5 => Step::Jump { over },
        // Never below 0: rbpf extends it by zeros for unsigned comparisons, RFC 9669 and the kernel by its sign.
        6 => Step::JumpIf { cond, reg: dst, value: input.word().cast_signed() & i32::MAX, over },
        _ => Step::JumpIfReg { cond, reg: dst, other: src, over },
    }
}

const fn bytes_of(size: Size) -> usize {
    match size {
        Size::Byte => 1,
        Size::Half => 2,
        Size::Word => 4,
        Size::Double => 8,
    }
}

fn register(number: usize) -> Reg {
    REGISTERS.get(number).copied().unwrap_or(Reg::R0)
}

fn assemble(start: &[i32], steps: &[Step]) -> Result<Vec<Insn>, String> {
    let mut a = Assembler::new();
    for (value, reg) in start.iter().zip(REGISTERS) {
        a.alu_imm(Op::Mov, reg, *value);
    }
    for at in (0..STACK).step_by(8) {
        a.store_imm(Size::Double, Reg::Fp, below(at), 0);
    }
    let labels: Vec<Label> = (0..=steps.len() + 8).map(|_| a.label()).collect();
    for (n, step) in steps.iter().enumerate() {
        let label = |over: usize| {
            let to = (n + 1 + over).min(steps.len());
            labels.get(to).copied().ok_or("no label")
        };
        a.place(label_at(&labels, n)?);
        match *step {
            Step::Alu { wide: true, op, dst, src } => a.alu(op, register(dst), register(src)),
            Step::Alu { wide: false, op, dst, src } => a.alu32(op, register(dst), register(src)),
            Step::AluImm { wide: true, op, dst, value } => a.alu_imm(op, register(dst), value),
            Step::AluImm { wide: false, op, dst, value } => {
                a.alu32_imm(op, register(dst), value.cast_unsigned());
            }
            Step::Load { size, dst, at } => a.load(size, register(dst), Reg::Fp, below(at)),
            Step::Store { size, at, src } => a.store(size, Reg::Fp, below(at), register(src)),
            Step::StoreImm { size, at, value } => a.store_imm(size, Reg::Fp, below(at), value),
            Step::Jump { over } => a.jump(label(over)?),
            Step::JumpIf { cond, reg, value, over } => a.jump_if(cond, register(reg), value, label(over)?),
            Step::JumpIfReg { cond, reg, other, over } => {
                a.jump_if_reg(cond, register(reg), register(other), label(over)?);
            }
        }
    }
    a.place(label_at(&labels, steps.len())?);
    for reg in REGISTERS.iter().skip(1) {
        a.alu(Op::Xor, Reg::R0, *reg);
        a.alu_imm(Op::Mul, Reg::R0, 3);
    }
    for at in (0..STACK).step_by(8) {
        a.load(Size::Double, Reg::R1, Reg::Fp, below(at));
        a.alu(Op::Add, Reg::R0, Reg::R1);
    }
    a.exit();
    a.finish().map_err(|e| format!("it does not assemble: {e:?}"))
}

fn label_at(labels: &[Label], at: usize) -> Result<Label, String> {
    labels.get(at).copied().ok_or_else(|| "no label".to_owned())
}

/// The offset from the frame pointer of byte `at` of the stack that is used.
fn below(at: usize) -> i16 {
    at as i16 - STACK as i16
}

fn model(start: &[i32], steps: &[Step]) -> u64 {
    let mut r: Vec<u64> = start.iter().map(|value| i64::from(*value).cast_unsigned()).collect();
    let mut stack = [0_u8; STACK];
    let get = |r: &[u64], at: usize| r.get(at).copied().unwrap_or(0);
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        match *step {
            Step::Alu { wide, op, dst, src } => {
                let value = calculate(wide, op, get(&r, dst), get(&r, src));
                set(&mut r, dst, value);
            }
            Step::AluImm { wide, op, dst, value } => {
                let value = calculate(wide, op, get(&r, dst), i64::from(value).cast_unsigned());
                set(&mut r, dst, value);
            }
            Step::Load { size, dst, at } => {
                let mut word = [0; 8];
                for (to, from) in word.iter_mut().zip(stack.iter().skip(at).take(bytes_of(size))) {
                    *to = *from;
                }
                set(&mut r, dst, u64::from_le_bytes(word));
            }
            Step::Store { size, at, src } => put(&mut stack, at, bytes_of(size), get(&r, src)),
            Step::StoreImm { size, at, value } => {
                put(&mut stack, at, bytes_of(size), i64::from(value).cast_unsigned());
            }
            Step::Jump { over } => at += over,
            Step::JumpIf { cond, reg, value, over } => {
                at += if holds(cond, get(&r, reg), i64::from(value).cast_unsigned()) { over } else { 0 };
            }
            Step::JumpIfReg { cond, reg, other, over } => {
                at += if holds(cond, get(&r, reg), get(&r, other)) { over } else { 0 };
            }
        }
    }
    let mixed = r.iter().skip(1).fold(get(&r, 0), |sum, reg| (sum ^ reg).wrapping_mul(3));
    stack.chunks(8).fold(mixed, |sum, word| {
        sum.wrapping_add(word.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word)))
    })
}

fn set(registers: &mut [u64], at: usize, value: u64) {
    if let Some(register) = registers.get_mut(at) {
        *register = value;
    }
}

fn put(stack: &mut [u8; STACK], at: usize, len: usize, value: u64) {
    for (to, from) in stack.iter_mut().skip(at).zip(value.to_le_bytes()).take(len) {
        *to = from;
    }
}

fn calculate(wide: bool, op: Op, a: u64, b: u64) -> u64 {
    let (a, b) = if wide { (a, b) } else { (a & 0xffff_ffff, b & 0xffff_ffff) };
    let bits = if wide { 63 } else { 31 };
    let value = match op {
        Op::Add => a.wrapping_add(b),
        Op::Mul => a.wrapping_mul(b),
        Op::And => a & b,
        Op::Shl => a << (b & bits),
        Op::Shr => a >> (b & bits),
        Op::Xor => a ^ b,
        Op::Or => a | b,
        Op::Mov => b,
    };
    if wide { value } else { value & 0xffff_ffff }
}

const fn holds(cond: If, a: u64, b: u64) -> bool {
    match cond {
        If::Eq => a == b,
        If::Gt => a > b,
        If::AnyBit => a & b != 0,
        If::Ne => a != b,
        If::Lt => a < b,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seed: Vec<u8> = (0..40).collect();
    for kind in 0..=255_u8 {
        seed.extend([kind, kind.wrapping_mul(7), kind.wrapping_mul(13), 1, 2, 3, 4]);
    }
    seed.chunks(400).map(<[u8]>::to_vec).collect()
}
