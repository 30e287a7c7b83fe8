//! The x-kernel experiment, and scaling over lanes: one load, distributed by connections and by packets.
//!
//! The load is a number of hosts' worth of connections (a *share* each: its own pair of lanes, under a lock) that exchange 64 bytes each way. By
//! connections, each share stays with one thread, as a flow group stays with its lane. By packets, each turn of a share (its packets there and
//! back) is the next thread's, so that its state follows from processor to processor. The work, the code and the locks are the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use engine::Engine;
use state::{Ready, SockRef};

use crate::lanes::{Lanes, MESSAGE, QUEUE, World, serve};
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Trouble, Unit};
use crate::work::{Setting, Work};

/// Shares of the load.
const SHARES: usize = 16;
/// Connections of a share.
const CONNECTIONS: usize = 4;
/// Moving a cache line from one processor to another, ns, one way, as measured on two processors of a 2.5 GHz Cascade Lake virtual machine.
const LINE_NS: f64 = 138.0;
/// Cache lines that one turn of a connection writes at each end: three of the hot row, one of the cold, its timer, its event, its ring entry, two of
/// the lane's globals, two of its counters, and of each packet the record and two lines of the frame.
const LINES: f64 = 2.0 * (3.0 + 1.0 + 1.0 + 1.0 + 1.0 + 2.0 + 2.0 + 2.0 * 3.0);

/// How turns are distributed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Connections,
    Packets,
}

/// Rows for so many threads.
pub(crate) fn rows() -> Vec<Row> {
    [1, 2, 4, 8].map(measured).into_iter().chain([2, 4, 8, 16].map(modelled)).collect()
}

fn measured(threads: usize) -> Row {
    let words =
        format!("request/response 64 B, {SHARES} flow groups, {threads} threads: by connections, by packets");
    let row = Row::new(format!("cores-rr-{threads}"), words, Unit::PerSecond)
        .stack(OURS, move |job| run(By::Connections, threads, job))
        .stack("packet-level", move |job| run(By::Packets, threads, job))
        .plot("cores-rr", threads as f64)
        .count(400_000);
    match threads {
        1 => row.in_short(),
        2 => row.goal(Goal::OfRow("cores-rr-1", 1.8)).in_short(),
        _ => row,
    }
}

/// The same beyond the processors of this machine: what one thread does here, and what moving the lines of a turn's state costs.
fn modelled(threads: usize) -> Row {
    let words = format!("the same on {threads} processors, by model: {LINE_NS} ns for each line that moves");
    Row::new(format!("coresmodel-rr-{threads}"), words, Unit::PerSecond)
        .stack(OURS, move |job| model(By::Connections, threads, job))
        .stack("packet-level", move |job| model(By::Packets, threads, job))
        .plot("cores-model", threads as f64)
        .count(200_000)
}

fn model(by: By, threads: usize, job: &Job) -> Outcome {
    let one = run(By::Connections, 1, job)?.value;
    let ns = 1e9 / one;
    // All but one in so many turns find the state where another processor left it.
    let moved = (threads - 1) as f64 / threads as f64 * LINES * LINE_NS;
    let each = if by == By::Packets { ns + moved } else { ns };
    Ok(Sample::of(threads as f64 * 1e9 / each).with("one_thread_ns", ns).with("line_moves", moved / LINE_NS))
}

/// A share at work.
struct Share<'a> {
    world: World<'a>,
    clients: Vec<SockRef>,
    /// Requests without an answer yet.
    missing: usize,
    done: u64,
    /// Who had the last turn; and how often it was another.
    last: usize,
    moves: u64,
}

impl<'a> Share<'a> {
    fn new(lanes: &'a mut Lanes) -> Self {
        let mut world = lanes.world();
        world.listen(CONNECTIONS);
        let clients = (0..CONNECTIONS).map(|n| world.connect(n)).collect();
        for _ in 0..4 {
            world.turn(serve);
        }
        while world.client.engine.poll_event(QUEUE).is_some() {}
        Self { world, clients, missing: 0, done: 0, last: usize::MAX, moves: 0 }
    }

    /// One turn: what is to be sent goes there, answers come back.
    fn turn(&mut self, me: usize) {
        self.moves += u64::from(core::mem::replace(&mut self.last, me) != me);
        let engine: &mut Engine<'_> = &mut self.world.client.engine;
        if self.missing == 0 {
            for sock in &self.clients {
                assert_eq!(engine.tcp_send(*sock, &[7; MESSAGE], false), Ok(MESSAGE));
            }
            self.missing = self.clients.len();
        }
        self.world.turn(serve);
        let mut buffer = [0; MESSAGE];
        let engine = &mut self.world.client.engine;
        while let Some(event) = engine.poll_event(QUEUE) {
            if event.ready.any(Ready::IN) {
                assert_eq!(engine.tcp_recv(event.sock, &mut buffer, false), Ok(MESSAGE));
                assert_eq!(buffer, [7; MESSAGE], "the bytes that were sent");
                self.missing -= 1;
                self.done += 1;
            }
        }
    }
}

/// The share that thread `me` of `threads` turns to at its step `step`.
fn share_of(by: By, threads: usize, me: usize, step: usize) -> usize {
    match by {
        By::Connections => {
            let own = (SHARES - me).div_ceil(threads);
            me + step % own * threads
        }
        // Each thread goes round all shares, at even distances: a share's next turn is the next thread's.
        By::Packets => (step + (threads - me) * SHARES / threads) % SHARES,
    }
}

fn run(by: By, threads: usize, job: &Job) -> Outcome {
    let setting = Setting::of(Work::RequestResponse(CONNECTIONS));
    let mut lanes: Vec<Lanes> = (0..SHARES).map(|_| Lanes::new(&setting)).collect();
    let shares: Vec<Mutex<Share<'_>>> = lanes.iter_mut().map(|lanes| Mutex::new(Share::new(lanes))).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (done, stop, start) = (AtomicU64::new(0), AtomicBool::new(false), Barrier::new(threads));
    // By the threads' own clocks: another thread gets no processor while they work.
    let (since, until) = (OnceLock::new(), OnceLock::new());
    let work = |me: usize| {
        // Where a thread may not be pinned it runs all the same.
        let _ = sys::affinity::pin_to(me % processors);
        start.wait();
        since.get_or_init(Instant::now);
        let mut step = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..SHARES {
                let Some(share) = shares.get(share_of(by, threads, me, step)) else { return };
                share.lock().unwrap_or_else(PoisonError::into_inner).turn(me);
                step += 1;
            }
            if done.fetch_add((SHARES * CONNECTIONS) as u64, Ordering::Relaxed) >= job.count {
                until.get_or_init(Instant::now);
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for me in 0..threads {
            let work = &work;
            scope.spawn(move || work(me));
        }
    });
    let (Some(since), Some(until)) = (since.get(), until.get()) else {
        return Err(Trouble::failed("exchanges", "no thread worked"));
    };
    let elapsed = until.duration_since(*since);
    let shares: Vec<Share<'_>> =
        shares.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let exchanges: u64 = shares.iter().map(|s| s.done).sum();
    let moves: u64 = shares.iter().map(|s| s.moves).sum::<u64>().saturating_sub(SHARES as u64);
    if exchanges == 0 {
        return Err(Trouble::failed("exchanges", "none was done"));
    }
    let rate = exchanges as f64 / elapsed.as_secs_f64();
    Ok(Sample::of(rate).with("state_moves_per_1000", 1000.0 * moves as f64 / exchanges as f64))
}

#[cfg(test)]
mod tests {
    use super::{By, SHARES, share_of};

    #[test]
    fn by_connections_a_share_has_one_thread_and_by_packets_the_next_one_each_time() {
        for threads in [1, 2, 4, 8] {
            for me in 0..threads {
                for step in 0..100 {
                    assert_eq!(share_of(By::Connections, threads, me, step) % threads, me);
                }
            }
            // At the same pace, no two threads meet at a share, and each share's turns go round the threads.
            let mut turns = vec![Vec::new(); SHARES];
            for step in 0..4 * SHARES {
                let at: Vec<usize> =
                    (0..threads).map(|me| share_of(By::Packets, threads, me, step)).collect();
                for (me, share) in at.iter().enumerate() {
                    assert!(!at[..me].contains(share));
                    turns[*share].push(me);
                }
            }
            for turns in turns {
                assert!(threads == 1 || turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
            }
        }
    }
}
