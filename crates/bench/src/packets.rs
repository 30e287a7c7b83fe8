//! Packets of 64 bytes over a memif wire between two cores, without any stack: our port beside DPDK's.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::FrameIdx;
use base::limits::BATCH_FRAMES;
use port::memif::{MemifParts, MemifPort, WireShape, pair};
use port::{Port, PortSetup};
use region::{FrameArea, FrameLane, Region, RegionShape};
use state::{RxBatch, TxFrame};
use sys::launch::Launch;

use crate::rows::{Job, OURS, Outcome, Row, Sample, Trouble, Unit};
use crate::runner;

const BYTES: usize = 64;

/// The yardstick for the wire.
pub(crate) fn rows() -> Vec<Row> {
    let row = Row::new("memif-packets-64", "packets of 64 B, no stack, one core to another", Unit::PerSecond);
    vec![row.stack(OURS, ours).stack("testpmd", testpmd)]
}

/// One end of a wire with frames of its own.
struct End {
    port: MemifPort,
    area: FrameArea,
    stock: FrameLane,
    batch: RxBatch,
}

impl End {
    fn new(parts: MemifParts) -> Result<Self, Trouble> {
        let shape = RegionShape { lanes: 1, lane_bytes: 4096, frames: 4096 };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&shape))
            .map_err(|e| Trouble::failed("memory for frames", e))?;
        let region = Region::format(words, &shape, 1, [1, 2])
            .map_err(|e| Trouble::failed("a region", format!("{e:?}")))?;
        let setup = PortSetup { port: 0, mtu: 1_500, local_peer: true, own_address: false };
        let area = region.frame_area();
        let port = MemifPort::from_parts(parts, area, setup)
            .map_err(|e| Trouble::failed("a memif port", format!("{e:?}")))?;
        let stock = FrameLane { head: FrameIdx::NONE, free: 0, high: 256, failed: 0 };
        Ok(Self { port, area, stock, batch: RxBatch::new() })
    }

    /// A batch that is sent again and again: its frames are kept.
    fn packets(&mut self) -> Vec<TxFrame> {
        let mut frames = self.area.frames(&mut self.stock);
        let packet = |_| {
            let head = frames.alloc().expect("a free frame");
            frames.meta_mut(head).expect("its record").len = BYTES as u16;
            // Ethernet type of local experiments, so that nothing looks into it.
            frames.data_mut(head).fill(7);
            frames.data_mut(head)[12..14].copy_from_slice(&[0x88, 0xb5]);
            let mut packet = TxFrame::new(head);
            packet.header_bytes = BYTES as u16;
            packet
        };
        (0..BATCH_FRAMES).map(packet).collect()
    }

    fn send(&mut self, packets: &[TxFrame]) -> usize {
        let mut frames = self.area.frames(&mut self.stock);
        packets.iter().for_each(|packet| frames.retain(packet.head));
        let taken = self.port.tx(&mut frames, packets).expect("a wire");
        packets.iter().skip(taken).for_each(|packet| frames.release(packet.head));
        taken
    }

    fn receive(&mut self) -> usize {
        let mut frames = self.area.frames(&mut self.stock);
        self.batch.clear();
        let got = self.port.rx(&mut frames, &mut self.batch).expect("a wire");
        for packet in self.batch.items() {
            frames.release_chain(packet.head);
        }
        got
    }
}

fn ours(job: &Job) -> Outcome {
    let (client, server) =
        pair(WireShape::default()).map_err(|e| Trouble::failed("a wire", format!("{e:?}")))?;
    let (mut from, mut to) = (End::new(client)?, End::new(server)?);
    let cores = sys::affinity::allowed().map_err(|e| Trouble::failed("processors", e))?;
    let (Some(first), Some(last)) = (cores.first().copied(), cores.last().copied()) else {
        return Err(Trouble::failed("processors", "none"));
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        sys::affinity::pin_to(first).expect("a processor");
        let packets = from.packets();
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            sent += from.send(&packets[sent..]);
            if sent == packets.len() {
                sent = 0;
            }
        }
    });
    sys::affinity::pin_to(last).map_err(|e| Trouble::failed("a processor", e))?;
    while to.receive() == 0 {}
    let (start, mut got) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(u64::from(job.seconds)) {
        for _ in 0..100 {
            got += to.receive();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    sender.join().map_err(|_| Trouble::failed("the sender", "it panicked"))?;
    Ok(Sample::of(got as f64 / seconds))
}

/// Two testpmd: one sends, one counts. They share nothing but the memif socket.
fn testpmd(job: &Job) -> Outcome {
    let socket = std::env::temp_dir().join(format!("corelane-bench-{}.sock", std::process::id()));
    let cores = sys::affinity::allowed().map_err(|e| Trouble::failed("processors", e))?;
    let (Some(first), Some(last)) = (cores.first(), cores.last()) else {
        return Err(Trouble::failed("processors", "none"));
    };
    if first == last {
        return Err(Trouble::Skipped("testpmd wants two processors".to_owned()));
    }
    let start = |role: &str, mode: &str, main: usize| {
        let mut command = Command::new("dpdk-testpmd");
        command.args(["-l", &format!("{first},{last}"), "--main-lcore", &main.to_string()]);
        command.args(["--no-huge", "-m", "64", "--no-pci", "--no-telemetry", "--no-shconf"]);
        command.arg(format!("--file-prefix=corelane-bench-{}-{role}", std::process::id()));
        command.arg(format!("--vdev=net_memif0,role={role},socket={},socket-abstract=no", socket.display()));
        command.args([
            "--",
            "--auto-start",
            "--no-mlockall",
            "--total-num-mbufs=4096",
            "--nb-cores=1",
            "--stats-period=1",
        ]);
        command.arg(format!("--forward-mode={mode}")).stdin(Stdio::piped());
        command
    };
    let seconds = u64::from(job.seconds) + 3;
    let mut sender = start("client", "txonly", *last);
    sender.stdout(Stdio::null()).stderr(Stdio::null());
    let path = socket.clone();
    let sending = std::thread::spawn(move || -> Option<Child> {
        // The other one makes the socket.
        let began = Instant::now();
        while !path.exists() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut child = Launch { dies_with_parent: false, ..Launch::default() }.spawn(&mut sender).ok()?;
        std::thread::sleep(Duration::from_secs(seconds));
        child.kill().ok()?;
        child.wait().ok()?;
        Some(child)
    });
    let mut receiver = Command::new("timeout");
    let program = start("server", "rxonly", *first);
    receiver
        .args(["-s", "INT", &(seconds + 2).to_string()])
        .arg(program.get_program())
        .args(program.get_args());
    receiver.stderr(Stdio::null());
    let said = runner::output_of(&mut receiver, Duration::from_secs(seconds + 10));
    let sent = sending.join();
    // It may never have been made.
    let _ = std::fs::remove_file(&socket);
    let rates = rates(&said?);
    if !matches!(sent, Ok(Some(_))) {
        return Err(Trouble::Skipped(
            "dpdk-testpmd cannot be started (Debian: dpdk, librte-net-memif23)".to_owned(),
        ));
    }
    let best = rates.into_iter().fold(0.0, f64::max);
    if best > 0.0 {
        Ok(Sample::of(best))
    } else {
        Err(Trouble::Skipped("testpmd received nothing".to_owned()))
    }
}

/// The rates in what testpmd prints each second: `Rx-pps:  1234567  Rx-bps: ...`.
fn rates(text: &str) -> Vec<f64> {
    let rate = |line: &str| line.split("Rx-pps:").nth(1)?.split_whitespace().next()?.parse().ok();
    text.lines().filter_map(rate).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rates_of_testpmd_are_read() {
        let text =
            "  Throughput (since last show)\n  Rx-pps:      7654321          Rx-bps:   123\n  Tx-pps: 0\n";
        assert_eq!(super::rates(text), [7_654_321.0]);
    }
}
