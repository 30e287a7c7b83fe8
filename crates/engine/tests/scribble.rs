//! A region that somebody scribbled over hurts nobody but its own connections: the engine neither panics nor hangs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, FrameIdx, Idx, Rng, SeqNum};
use engine::Engine;
use net::{Net, Setup, forged};
use region::Table;
use state::{SockKind, SockRef, TxBatch};
use wire::TcpFlags;

const SETUP: Setup = Setup { frames: 512, socks: 8, dormant: 8, ..Setup::USUAL };

/// Overwrites `times` random words of the rows of `table`.
fn scribble<T: region::Plain>(rng: &mut Rng, table: &mut Table<'_, T>, times: u64) {
    let rows = table.rows_mut();
    let words = size_of_val(rows) / 4;
    // SAFETY: every bit pattern is a value of a plain type, and the span is that of the rows.
    let words = unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast::<u32>(), words) };
    if words.is_empty() {
        return;
    }
    for _ in 0..times {
        let at = rng.below(words.len() as u64) as usize;
        words[at] = match rng.below(4) {
            0 => rng.below(16) as u32,
            1 => u32::MAX,
            2 => words[at].wrapping_add(rng.below(64) as u32),
            _ => rng.next_u64() as u32,
        };
    }
}

fn scribble_everywhere(rng: &mut Rng, e: &mut Engine<'_>) {
    let times = rng.below(12);
    let which = rng.below(12);
    let mem = e.mem();
    match which {
        0 => scribble(rng, &mut mem.hot, times),
        1 => scribble(rng, &mut mem.cold, times),
        2 => scribble(rng, &mut mem.rings, times),
        3 => scribble(rng, &mut mem.boards, times),
        4 => scribble(rng, &mut mem.listeners, times),
        5 => scribble(rng, &mut mem.events, times),
        6 => scribble(rng, &mut mem.requeued, times),
        7 => scribble(rng, &mut mem.hops, times),
        8 => scribble(rng, &mut mem.dormant, times),
        9 => scribble(rng, &mut mem.handles, times),
        10 => scribble(rng, &mut mem.option_sets, times),
        _ => {
            for _ in 0..times {
                let frame = FrameIdx(rng.below(u64::from(mem.frames.count())) as u32);
                let Some(meta) = mem.frames.meta_mut(frame) else { continue };
                match rng.below(5) {
                    0 => meta.next = FrameIdx(rng.below(600) as u32),
                    1 => meta.offset = rng.next_u64() as u16,
                    2 => meta.len = rng.next_u64() as u16,
                    3 => meta.seq = rng.next_u64() as u32,
                    _ => meta.refs = rng.below(3) as u16,
                }
            }
        }
    }
    if rng.below(8) == 0 {
        let dormant = &mut e.mem().globals.dormant;
        match rng.below(8) {
            5 => dormant.waiting_head = Idx::new(rng.below(20) as u32),
            6 => dormant.waiting_tail = Idx::new(rng.below(20) as u32),
            7 => dormant.waiting = rng.next_u64() as u32,
            0 => dormant.free = Idx::new(rng.below(20) as u32),
            1 => dormant.fresh = rng.below(20) as u32,
            2 => dormant.free_handle = rng.below(40) as u32,
            3 => dormant.fresh_handle = rng.below(40) as u32,
            _ => dormant.hand = rng.below(20) as u32,
        }
    }
    if rng.below(8) == 0 {
        let tcp = &mut e.mem().globals.tcp;
        match rng.below(6) {
            0 => tcp.free = Idx::new(rng.below(20) as u32),
            1 => tcp.time_wait.head = Idx::new(rng.below(20) as u32),
            2 => tcp.requeued_len = rng.next_u64() as u32,
            3 => tcp.lent = rng.next_u64() as u32,
            4 => tcp.rings[rng.below(3) as usize].head = rng.next_u64() as u32,
            _ => tcp.listen_buckets[80] = Idx::new(rng.below(20) as u32),
        }
    }
}

/// Polls everything there is, as a lane does: a bounded number of times.
fn drain(e: &mut Engine<'_>, rng: &mut Rng) {
    let mut out = TxBatch::new();
    for _ in 0..8 {
        out.clear();
        if e.poll_transmit(&mut out) == 0 {
            break;
        }
        let taken = if rng.below(4) == 0 { out.items().len() / 2 } else { out.items().len() };
        for p in &out.items()[..taken] {
            e.mem().frames.release(p.head);
        }
        e.requeue_unsent(&out.items()[taken..]);
    }
    for queue in 0..4 {
        for _ in 0..32 {
            if e.poll_event(queue).is_none() {
                break;
            }
        }
    }
    while e.poll_unresolved().is_some() && rng.below(64) != 0 {}
    let _ = (e.next_deadline(), e.transmit_pending(), e.tcp_info(SockRef::NONE));
}

fn one_world(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut net = Net::new(seed, &SETUP);
    let listener = net.listen(1, 80, 4);
    let pairs: Vec<_> = (0..3).map(|n| net.open_to(listener, 40_000 + n)).collect();
    let mut buf = vec![0; 5000];
    for round in 0..60 {
        let port = 40_000 + rng.below(5) as u16;
        let seq = net.on(1, |e| e.mem().hot.rows()[rng.below(3) as usize].rcv.nxt);
        let ack = net.on(1, |e| e.mem().hot.rows()[rng.below(3) as usize].snd.nxt);
        let flags = TcpFlags([0x10, 0x10, 0x10, 0x11, 0x02, 0x14, 0x18][rng.below(7) as usize]);
        let seq = if rng.below(2) == 0 { seq } else { SeqNum(seq.0.wrapping_add(rng.below(9000) as u32)) };
        let p = forged(&net, 0, (port, 80), (seq, ack), flags, &buf[..rng.below(3000) as usize]);
        net.deliver(1, &p);
        let b = pairs[rng.below(3) as usize].1;
        let now = net.now.plus(Duration::from_millis(rng.below(400)));
        net.now = now;
        net.on(1, |e| {
            match rng.below(8) {
                0 | 1 => drop(e.tcp_send(b, &buf, false)),
                2 | 3 => drop(e.tcp_recv(b, &mut buf, rng.below(2) == 0)),
                4 if round > 30 => e.close(b),
                5 => drop(e.tcp_accept(listener)),
                6 => drop(e.set_event_queue(b, 1 + rng.below(3) as u16, 7)),
                _ => {}
            }
            e.handle_timers();
            e.hibernate_idle(rng.below(4) as u32);
            drain(e, &mut rng);
            scribble_everywhere(&mut rng, e);
        });
    }
    net.on(1, |e| {
        for (_, b) in &pairs {
            e.close(*b);
        }
        for row in 0..8 {
            e.abort(SockRef::new(SockKind::Listener, row, listener.generation));
        }
        drain(e, &mut rng);
    });
}

#[test]
fn a_scribbled_region_makes_neither_a_panic_nor_a_hang() {
    for seed in 0..500 {
        one_world(seed);
    }
}
