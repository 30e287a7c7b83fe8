//! Loss between two hosts: an XDP program at a device of a veth pair drops packets before stack, taps and filters see them. Which ones follows
//! from their number alone, so every stack loses the same ones by count.

use control::bpf::{Assembler, If, Op, Reg, Size};
use sys::bpf::{Attachment, Insn, Map, MapKind, Program, ProgramKind, XdpMode};

use crate::rows::Trouble;

/// IPv4's Ethernet type as it lies in a packet, read as a little-endian number: what else there is (ARP) is not lost.
const IPV4: i32 = 0x0008;
/// Where the Ethernet type lies, and the end of the header.
const TYPE_AT: i16 = 12;
const HEADER: i32 = 14;
/// Verdicts (linux/bpf.h).
const DROP: i32 = 1;
const PASS: i32 = 2;
/// A linear congruential generator modulo 2^32 (Knuth, The Art of Computer Programming, volume 2, 3.3.4, table 1, line 16).
const FACTOR: u32 = 1_664_525;
const SUMMAND: u32 = 1_013_904_223;
/// The first number.
const SEED: u64 = 23;

/// A device that loses packets which arrive, until this is dropped.
#[derive(Debug)]
pub(crate) struct Losses {
    _attachment: Attachment,
}

impl Losses {
    /// At device `name` of this thread's network namespace, so many of a million. Native mode: packets then come one by one, because veth
    /// segments what its peer sends before that.
    pub(crate) fn at(name: &str, ppm: u32) -> Result<Self, Trouble> {
        let failed = |what: &'static str| {
            move |error: &dyn std::fmt::Display| Trouble::failed(&format!("{what} that loses packets"), error)
        };
        let state = Map::create(MapKind::Array, 4, 8, 1, "bench_loss").map_err(|e| failed("a map")(&e))?;
        state.update(&[0; 4], &SEED.to_ne_bytes()).map_err(|e| failed("a map")(&e))?;
        let insns = program(&state, ppm).map_err(|e| failed("a program")(&format!("{e:?}")))?;
        let program =
            Program::load(ProgramKind::Xdp, &insns, "bench_loss").map_err(|e| failed("a program")(&e))?;
        let index = sys::links::index(name).map_err(|e| failed("a device")(&e))?;
        let attachment =
            Attachment::xdp(&program, index, XdpMode::Native).map_err(|e| failed("a device")(&e))?;
        Ok(Self { _attachment: attachment })
    }
}

/// The program: one IPv4 packet, one number; below the share of 2^32 that `ppm` is, the packet is dropped.
fn program(state: &Map, ppm: u32) -> Result<Vec<Insn>, control::bpf::AssembleError> {
    let share = (u64::from(ppm) << 32) / 1_000_000;
    let mut a = Assembler::new();
    let pass = a.label();
    a.load(Size::Word, Reg::R2, Reg::R1, 0);
    a.load(Size::Word, Reg::R3, Reg::R1, 4);
    a.alu(Op::Mov, Reg::R4, Reg::R2);
    a.alu_imm(Op::Add, Reg::R4, HEADER);
    a.jump_if_reg(If::Gt, Reg::R4, Reg::R3, pass);
    a.load(Size::Half, Reg::R5, Reg::R2, TYPE_AT);
    a.jump_if(If::Ne, Reg::R5, IPV4, pass);
    a.load_map_value(Reg::R6, state);
    a.load(Size::Word, Reg::R7, Reg::R6, 0);
    a.alu32_imm(Op::Mul, Reg::R7, FACTOR);
    a.alu32_imm(Op::Add, Reg::R7, SUMMAND);
    a.store(Size::Word, Reg::R6, 0, Reg::R7);
    // Half of 2^32 is the most that an immediate can say.
    a.jump_if(If::Gt, Reg::R7, i32::try_from(share).unwrap_or(i32::MAX), pass);
    a.alu_imm(Op::Mov, Reg::R0, DROP);
    a.exit();
    a.place(pass);
    a.alu_imm(Op::Mov, Reg::R0, PASS);
    a.exit();
    a.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program would drop of the first `packets`, by the same arithmetic.
    fn dropped(packets: u32, ppm: u32) -> u32 {
        let share = (u64::from(ppm) << 32) / 1_000_000;
        let mut x = SEED as u32;
        (0..packets)
            .filter(|_| {
                x = x.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
                u64::from(x) <= share
            })
            .count() as u32
    }

    #[test]
    fn as_many_packets_are_lost_as_were_asked_for() {
        for (ppm, wanted) in [(1_000, 1_000), (10_000, 10_000)] {
            let found = dropped(1_000_000, ppm);
            assert!(found.abs_diff(wanted) < wanted / 10, "{found} of a million at {ppm}");
        }
        assert_eq!(dropped(1_000, 0), 0);
    }

    #[test]
    fn the_kernel_drops_the_packets_that_the_arithmetic_says_and_no_arp() {
        let Ok(state) = Map::create(MapKind::Array, 4, 8, 1, "bench_test") else { return };
        let program = |ppm| {
            state.update(&[0; 4], &SEED.to_ne_bytes()).expect("its one value");
            let insns = super::program(&state, ppm).expect("it assembles");
            Program::load(ProgramKind::Xdp, &insns, "bench_test").expect("the verifier takes it")
        };
        let mut packet = [0; 64];
        packet[12..14].copy_from_slice(&[8, 0]);
        let tenth = program(100_000);
        let lost = (0..1_000)
            .filter(|_| tenth.test_run(&packet, &[], 1).expect("a run").result == DROP as u32)
            .count();
        assert_eq!(lost as u32, dropped(1_000, 100_000));
        packet[13] = 6;
        let all = program(499_999);
        assert!((0..100).all(|_| all.test_run(&packet, &[], 1).expect("a run").result == PASS as u32));
    }
}
