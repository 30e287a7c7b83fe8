//! Prints what the wire layer costs: cycles to parse a segment, bytes per cycle of the checksum.
//!
//! Cycles are measured against a chain of dependent additions in the same run (one cycle each), so the figures do not
//! depend on the clock rate. Each figure is the minimum of many short batches.

use std::hint::black_box;
use std::time::Instant;

use base::{MacAddr, Port, SeqNum};
use wire::checksum::pseudo_v4;
use wire::*;

const BATCHES: usize = 400;
const PER_BATCH: u32 = 256;

/// Nanoseconds of one call of `f`, the best batch.
fn best_ns(mut f: impl FnMut()) -> f64 {
    let batch = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_nanos() as f64 / f64::from(PER_BATCH)
    };
    let mut all = || (0..PER_BATCH).for_each(|_| f());
    (0..BATCHES).map(|_| batch(&mut all)).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds of one cycle: 64 dependent additions and rotations take 128.
fn cycle_ns() -> f64 {
    let mut x = 1_u64;
    let ns = best_ns(|| {
        for i in 0..64 {
            x = step(x, i);
        }
    });
    black_box(x);
    ns / 128.0
}

/// Two dependent one-cycle operations that the compiler cannot merge over turns.
#[inline(always)]
fn step(x: u64, i: u64) -> u64 {
    x.wrapping_add(i | 1).rotate_left(7)
}

fn frame(payload: usize) -> Vec<u8> {
    let mut out = vec![0x5a; 66 + payload];
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let head = (|| {
        EthHeader { dst: mac, src: mac, ethertype: EtherType::IPV4 }.emit(&mut out)?;
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let ip = Ipv4Header::plain((src, dst), IpProtocol::TCP, 32 + payload as u16);
        ip.emit(&mut out[14..])?;
        let options = TcpOptions { timestamps: Some(Timestamps { value: 1, echo: 2 }), ..TcpOptions::NONE };
        let tcp = TcpHeader {
            src_port: Port(40_000),
            dst_port: Port(80),
            flags: TcpFlags::ACK,
            ..TcpHeader::default()
        };
        tcp.emit(&options, &mut out[34..])?;
        tcp::fill_checksum(&mut out[34..], pseudo_v4(src, dst, IpProtocol::TCP, ip.payload_len))
    })();
    assert_eq!(head, Ok(()));
    out
}

/// What the engine needs of a segment.
type Key = (u32, u32, u32, SeqNum, SeqNum, TcpFlags, u16, Timestamps, usize);

#[inline(never)]
fn parse(frame: &[u8]) -> Option<Key> {
    let eth = EthFrame::parse(frame).ok()?;
    if eth.ethertype() != EtherType::IPV4 {
        return None;
    }
    let ip = Ipv4Packet::parse(eth.payload()).ok()?;
    if ip.protocol() != IpProtocol::TCP || ip.is_fragment() {
        return None;
    }
    let tcp = TcpSegment::parse(ip.payload()).ok()?;
    let timestamps = tcp_options::only_timestamps(tcp.options())?;
    let ports = u32::from(tcp.src_port().0) << 16 | u32::from(tcp.dst_port().0);
    let (seq, ack, window) = (tcp.seq(), tcp.ack(), tcp.window());
    Some((
        ip.src().to_bits(),
        ip.dst().to_bits(),
        ports,
        seq,
        ack,
        tcp.flags(),
        window,
        timestamps,
        tcp.payload().len(),
    ))
}

#[inline(never)]
fn parse_options(options: &[u8]) -> TcpOptions {
    TcpOptions::parse(options)
}

fn main() {
    let cycle = cycle_ns();
    println!("one cycle: {cycle:.3} ns");
    let small = frame(0);
    let ns = best_ns(|| {
        black_box(parse(black_box(&small)));
    });
    println!("parse Ethernet + IPv4 (checksum verified) + TCP + timestamps: {:.1} cycles", ns / cycle);
    for (name, options) in [
        ("timestamps", &small[54..66]),
        ("SYN", &[2, 4, 5, 180, 4, 2, 8, 10, 1, 1, 1, 1, 0, 0, 0, 0, 1, 3, 3, 7]),
    ] {
        let ns = best_ns(|| {
            black_box(parse_options(black_box(options)));
        });
        println!("parse the options of {name}: {:.1} cycles", ns / cycle);
    }
    let bytes = vec![0xa5; 65_536];
    for len in [20, 40, 64, 512, 1460, 4096, 65_536] {
        let slice = &bytes[..len];
        let ns = best_ns(|| {
            black_box(Sum::of(black_box(slice)).finish());
        });
        println!(
            "checksum of {len} bytes: {:.1} cycles, {:.1} bytes/cycle",
            ns / cycle,
            len as f64 * cycle / ns
        );
    }
}
