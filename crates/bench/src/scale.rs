//! Rows of many open connections: what each takes, awake and hibernating, and ten million of them within 8 GiB. Every connection
//! is proven alive by one exchange after all are open.

use std::fs;

use base::Duration;
use base::limits::BATCH_FRAMES;
use engine::Engine;
use state::Ready;

use crate::kernel_memory;
use crate::lanes::{Lanes, MESSAGE, QUEUE, World, serve};
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Trouble, Unit};
use crate::work::{Cpu, Setting};

/// TCB rows of a lane whose connections hibernate.
const AWAKE: u32 = 65_536;
/// Virtual time that passes with each batch of exchanges, so that delayed acknowledgements fall due.
const PAUSE: Duration = Duration(2_000_000);

/// What a connection takes awake and hibernating; ten million.
pub(crate) fn rows() -> Vec<Row> {
    let limit = f64::from(8u32) * f64::from(1u32 << 30);
    vec![
        row("memory-awake", "an open connection that does not hibernate, a lane's end", Unit::Bytes, |job| {
            let connections = (job.count as usize).min(400_000);
            many(connections, connections as u32 + 64, |found| found.bytes_per_end())
        })
        .stack("linux lo", kernel_memory::run)
        .count(100_000)
        .goal(Goal::Value(512.0)),
        row("memory-hibernating", "a hibernating connection, a lane's end", Unit::Bytes, |job| {
            many(job.count as usize, AWAKE, |found| found.bytes_per_end())
        })
        .count(1_000_000)
        .goal(Goal::Value(128.0))
        .in_short(),
        row(
            "memory-10m",
            "10 000 000 open connections, both ends: peak memory of the process",
            Unit::Bytes,
            |_| many(10_000_000, AWAKE, |found| found.peak),
        )
        .goal(Goal::Value(limit))
        .limit_s(1_200),
    ]
}

fn row(id: &str, work: &str, unit: Unit, run: impl Fn(&Job) -> Outcome + 'static) -> Row {
    Row::new(id, work, unit).stack(OURS, run).limit_s(600)
}

/// Connections of the lanes with which those that are measured are compared: what a lane takes anyway.
const FEW: usize = 1_024;

/// What opening and exchanging found.
struct Found {
    connections: f64,
    /// Memory that all connections but the first ones took, bytes, and the number of those.
    grown: f64,
    ends: f64,
    /// Largest memory of the process ever, bytes.
    peak: f64,
    open_ns: f64,
    exchange_ns: f64,
    /// Hibernating when all were open.
    dormant: f64,
}

impl Found {
    fn bytes_per_end(&self) -> f64 {
        self.grown / self.ends
    }
}

/// A figure of this process in /proc, bytes.
fn memory(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn resident() -> Result<f64, Trouble> {
    memory("VmRSS").ok_or_else(|| Trouble::Skipped("/proc/self/status says nothing of memory".to_owned()))
}

/// What lanes with `awake` TCB rows take when a few connections are open.
fn base(awake: u32, connections: usize) -> Result<f64, Trouble> {
    let before = resident()?;
    let setting = Setting { mtu: 1_500, checksums: true, sockets: awake, dormant: 0, lost_ppm: 0 };
    let mut lanes = Lanes::new(&setting);
    let mut world = lanes.world();
    world.listen(connections);
    open(&mut world, &mut vec![state::SockRef::NONE; connections]);
    Ok(resident()? - before)
}

fn many(connections: usize, awake: u32, value: impl Fn(&Found) -> f64) -> Outcome {
    let dormant = (connections as u32 + 64).saturating_sub(awake);
    let setting = Setting { mtu: 1_500, checksums: true, sockets: awake, dormant, lost_ppm: 0 };
    // What hibernates is compared with lanes that have rows for the others; what does not, with small lanes.
    let fixed = if dormant == 0 { base(FEW as u32 + 64, FEW)? } else { base(awake, FEW)? };
    // Written once, so that it is in the memory from before.
    let mut names = vec![state::SockRef::NONE; connections];
    let before = resident()?;
    let mut lanes = Lanes::new(&setting);
    let mut world = lanes.world();
    world.listen(connections);
    let cpu = Cpu::now();
    open(&mut world, &mut names);
    let open_ns = cpu.figure(connections as u64).ns_per_operation;
    if dormant > 0 {
        for engine in [&mut world.client.engine, &mut world.server.engine] {
            engine.hibernate_idle(u32::MAX);
        }
    }
    let asleep = count(&mut world, |engine| engine.counters().tcp.dormant);
    let grown = resident()? - before - fixed;
    let ends = if dormant == 0 { 2.0 * (connections - FEW) as f64 } else { asleep };
    let cpu = Cpu::now();
    exchange(&mut world, &names)?;
    let exchange_ns = cpu.figure(connections as u64).ns_per_operation;
    let open = count(&mut world, |engine| engine.counters().tcp.open);
    if open != 2.0 * connections as f64 {
        return Err(Trouble::Failed(format!("{open} ends are open, not two of each connection")));
    }
    let peak = memory("VmHWM").unwrap_or(f64::NAN);
    let connections = connections as f64;
    let found = Found { connections, grown, ends, peak, open_ns, exchange_ns, dormant: asleep };
    Ok(Sample::of(value(&found))
        .with("connections", found.connections)
        .with("hibernating_ends", found.dormant)
        .with("end_bytes", found.bytes_per_end())
        .with("peak_bytes", found.peak)
        .with("open_ns", found.open_ns)
        .with("exchange_ns", found.exchange_ns))
}

/// What both ends count together.
fn count(world: &mut World<'_>, what: impl Fn(&Engine<'_>) -> u64) -> f64 {
    (what(&world.client.engine) + what(&world.server.engine)) as f64
}

/// Opens a connection for each name, a batch at a time.
fn open(world: &mut World<'_>, names: &mut [state::SockRef]) {
    let mut number = 0;
    for batch in names.chunks_mut(BATCH_FRAMES) {
        for name in batch {
            *name = world.connect(number);
            number += 1;
        }
        for _ in 0..4 {
            world.turn(serve);
        }
        while world.client.engine.poll_event(QUEUE).is_some() {}
        while let Some(event) = world.server.engine.poll_event(QUEUE) {
            assert_eq!(event.ready, Ready::OUT);
        }
    }
    // What is still owed is sent.
    for _ in 0..64 {
        world.now = world.now.plus(PAUSE);
        world.turn(serve);
    }
}

/// 64 bytes there and back on every connection, a batch at a time.
fn exchange(world: &mut World<'_>, names: &[state::SockRef]) -> Result<(), Trouble> {
    let mut buffer = [0u8; MESSAGE];
    for (first, batch) in (0..).step_by(BATCH_FRAMES).zip(names.chunks(BATCH_FRAMES)) {
        for (n, name) in (first..).zip(batch) {
            let mut message = [7; MESSAGE];
            message[..8].copy_from_slice(&u64::to_le_bytes(n));
            if world.client.engine.tcp_send(*name, &message, false) != Ok(MESSAGE) {
                return Err(Trouble::Failed(format!("connection {n} takes no request")));
            }
        }
        let mut missing = batch.len();
        for _ in 0..1_000 {
            world.turn(serve);
            while let Some(event) = world.client.engine.poll_event(QUEUE) {
                if !event.ready.any(Ready::IN) {
                    continue;
                }
                let got = world.client.engine.tcp_recv(event.sock, &mut buffer, false);
                if got != Ok(MESSAGE) || buffer[..8] != event.token.to_le_bytes() {
                    return Err(Trouble::Failed(format!("connection {} has a wrong answer", event.token)));
                }
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        if missing > 0 {
            return Err(Trouble::Failed(format!(
                "{missing} of the connections from {first} on do not answer"
            )));
        }
        world.now = world.now.plus(PAUSE);
    }
    Ok(())
}
