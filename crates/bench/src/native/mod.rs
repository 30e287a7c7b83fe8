//! Native lanes, server and client on a core each, joined by a wire of shared memory: two threads, or two processes. No kernel on the
//! way, and no keeper.

mod parts;
mod place;

use std::ops::ControlFlow;

use lane::native::{Event, MEMIF_MTU, Native};

use crate::kernel;
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Trouble, Unit};
use parts::{Bulk, Exchanges, Server, Short};
pub(crate) use place::serve_other_process;
use place::{Place, Wire};

/// Bytes of a request and of an answer.
const MESSAGE: usize = 64;

/// What one end does with its events.
trait Part {
    /// Begins: connects or listens.
    fn begin(&mut self, lane: &mut Native) -> Result<(), Trouble>;
    /// One event. `Break` when all is done.
    fn event(&mut self, lane: &mut Native, event: &Event) -> Result<ControlFlow<()>, Trouble>;
}

/// Runs `part` on `lane` until it is done.
fn run(lane: &mut Native, part: &mut impl Part) -> Result<(), Trouble> {
    part.begin(lane)?;
    let mut events = [Event::NONE; 64];
    loop {
        let count = lane.wait(&mut events, None);
        for event in events.iter().take(count) {
            if part.event(lane, event)?.is_break() {
                return Ok(());
            }
        }
    }
}

/// Runs the client in this thread against a server at `place`.
fn against(place: Place, wire: Wire, client: &mut impl Part) -> Result<(), Trouble> {
    let (mut lane, server) = place::start(place, wire)?;
    let outcome = run(&mut lane, client);
    drop(server);
    outcome
}

/// Client and server in turns in this thread: a function of its input, whose instructions can be counted.
fn in_one_thread(wire: Wire, client: &mut impl Part) -> Result<(), Trouble> {
    let (near, far) = place::two_ends(wire)?;
    let (mut near, mut far) = (place::lane(near)?, place::lane(far)?);
    let mut server = Server::new();
    server.begin(&mut far)?;
    client.begin(&mut near)?;
    let mut events = [Event::NONE; 64];
    loop {
        let count = near.poll(&mut events);
        for event in events.iter().take(count) {
            if client.event(&mut near, event)?.is_break() {
                return Ok(());
            }
        }
        let count = far.poll(&mut events);
        for event in events.iter().take(count) {
            if server.event(&mut far, event)?.is_break() {
                return Ok(());
            }
        }
    }
}

fn short(place: Place, wire: Wire, concurrent: u64, count: u64) -> Outcome {
    let mut client = Short::new(concurrent, count);
    match place {
        Place::OneThread => in_one_thread(wire, &mut client)?,
        Place::Threads | Place::Processes => against(place, wire, &mut client)?,
    }
    Ok(Sample::of(client.per_second()))
}

fn exchanges(place: Place, wire: Wire, connections: u64, count: u64) -> Result<Exchanges, Trouble> {
    let mut client = Exchanges::new(connections, count);
    match place {
        Place::OneThread => in_one_thread(wire, &mut client)?,
        Place::Threads | Place::Processes => against(place, wire, &mut client)?,
    }
    Ok(client)
}

fn ping_pong(place: Place, wire: Wire, count: u64) -> Outcome {
    let client = exchanges(place, wire, 1, count)?;
    let at = |percent| client.times_ns().value_at_percentile(percent) as f64 / 1000.0;
    Ok(Sample::of(at(50.0)).with("p99_us", at(99.0)).with("p99.99_us", at(99.99)))
}

fn bulk(place: Place, wire: Wire, in_frames: bool, bytes: u64) -> Outcome {
    let mut client = Bulk::new(in_frames, bytes);
    match place {
        Place::OneThread => in_one_thread(wire, &mut client)?,
        Place::Threads | Place::Processes => against(place, wire, &mut client)?,
    }
    Ok(Sample::of(client.gbit()))
}

/// A memif wire with the largest packets.
const MEMIF: Wire = Wire::Memif(MEMIF_MTU);

/// The name of the kernel's loopback as a peer.
const LINUX: &str = "linux lo";

/// The rows of this file.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for wire in [MEMIF, Wire::Lend] {
        rows.extend(two_cores(wire));
        rows.extend(one_thread(wire));
    }
    rows.extend([1, 1_000].map(short_connections));
    rows.extend([1_000, 10_000].map(request_response));
    rows.extend([1_500, 9_000].map(bulk_of_mtu));
    rows
}

/// Other numbers of connections over memif.
fn short_connections(concurrent: u64) -> Row {
    let words = format!("short connections, {concurrent} at a time");
    let linux = kernel::short_connections(concurrent as usize).less(40);
    Row::new(format!("memif-short-{concurrent}"), words, Unit::PerSecond)
        .stack(OURS, move |job| short(Place::Threads, MEMIF, concurrent, job.count))
        .stack("corelane, processes", move |job| short(Place::Processes, MEMIF, concurrent, job.count))
        .stack(LINUX, kernel::lo(linux))
        .count(200_000)
}

fn request_response(connections: u64) -> Row {
    let words = format!("request/response, {connections} connections");
    let rate = move |place, job: &Job| {
        exchanges(place, MEMIF, connections, job.count).map(|c| Sample::of(c.per_second()))
    };
    let linux = kernel::request_response(connections as usize).less(40);
    Row::new(format!("memif-rr-{connections}"), words, Unit::PerSecond)
        .stack(OURS, move |job| rate(Place::Threads, job))
        .stack("corelane, processes", move |job| rate(Place::Processes, job))
        .stack(LINUX, kernel::lo(linux))
        .count(1_000_000)
}

/// Bulk in smaller packets over memif; the kernel's loopback with the same MTU makes super-segments all the same.
fn bulk_of_mtu(mtu: u16) -> Row {
    let wire = Wire::Memif(mtu);
    Row::new(format!("memif-bulk-copy-{mtu}"), format!("bulk by copy, MTU {mtu}"), Unit::Gbit)
        .stack(OURS, move |job| bulk(Place::Threads, wire, false, job.count))
        .stack("corelane, processes", move |job| bulk(Place::Processes, wire, false, job.count))
        .stack(LINUX, kernel::lo_of_mtu(kernel::bulk().less(2), usize::from(mtu)))
        .count(2 << 30)
}

/// Client and server on a core each.
fn two_cores(wire: Wire) -> [Row; 4] {
    use Place::{Processes, Threads};
    let name = wire.name();
    let rate =
        move |place, job: &Job| exchanges(place, wire, 64, job.count).map(|c| Sample::of(c.per_second()));
    let bulk_row = match wire {
        Wire::Memif(_) => Row::new("memif-bulk-copy", "bulk by copy", Unit::Gbit)
            .stack(OURS, move |job| bulk(Threads, wire, false, job.count))
            .stack("corelane, processes", move |job| bulk(Processes, wire, false, job.count))
            .goal(Goal::OfPeer(LINUX, 1.5)),
        Wire::Lend => {
            Row::new("lend-bulk-frames", "bulk without a copy, written and read in frames", Unit::Gbit)
                .stack(OURS, move |job| bulk(Threads, wire, true, job.count))
                .stack("corelane, processes", move |job| bulk(Processes, wire, true, job.count))
                .goal(Goal::OfPeer(LINUX, 3.0))
        }
    };
    [
        Row::new(format!("{name}-short-64"), "short connections, 64 at a time", Unit::PerSecond)
            .stack(OURS, move |job| short(Threads, wire, 64, job.count))
            .stack("corelane, processes", move |job| short(Processes, wire, 64, job.count))
            .stack(LINUX, kernel::lo(kernel::short_connections(64).less(40)))
            .goal(Goal::OfPeer(LINUX, 25.0))
            .count(400_000)
            .in_short(),
        Row::new(format!("{name}-rr-64"), "request/response, 64 connections", Unit::PerSecond)
            .stack(OURS, move |job| rate(Threads, job))
            .stack("corelane, processes", move |job| rate(Processes, job))
            .stack(LINUX, kernel::lo(kernel::request_response(64).less(40)))
            .goal(Goal::OfPeer(LINUX, 25.0))
            .obstacle(
                "about 4 700 instructions an exchange, both ends: the engine and the tables it works on; the native API is 1.5 % of them \
                 and the wire 6 %. The ring alone moves a packet in about 25 ns.",
            )
            .count(2_000_000)
            .in_short(),
        Row::new(
            format!("{name}-pingpong"),
            "one message there and back, both ends spinning, median",
            Unit::Us,
        )
        .stack(OURS, move |job| ping_pong(Threads, wire, job.count))
        .stack("corelane, processes", move |job| ping_pong(Processes, wire, job.count))
        .stack(LINUX, kernel::lo(kernel::ping_pong(true).less(10)))
        .goal(Goal::Value(0.8))
        .count(400_000)
        .in_short(),
        bulk_row.stack(LINUX, kernel::lo(kernel::bulk().less(2))).count(4 << 30).in_short(),
    ]
}

/// Both ends in turns in one thread, whose instructions can be counted.
fn one_thread(wire: Wire) -> [Row; 3] {
    use Place::OneThread;
    let name = wire.name();
    [
        Row::new(
            format!("onethread-{name}-short-64"),
            format!("short connections, 64 at a time, {name} wire"),
            Unit::PerSecond,
        )
        .stack(OURS, move |job| short(OneThread, wire, 64, job.count))
        .count(100_000)
        .counted(2_000),
        Row::new(
            format!("onethread-{name}-rr-64"),
            format!("request/response, 64 connections, {name} wire"),
            Unit::PerSecond,
        )
        .stack(OURS, move |job| exchanges(OneThread, wire, 64, job.count).map(|c| Sample::of(c.per_second())))
        .count(400_000)
        .counted(20_000),
        Row::new(format!("onethread-{name}-bulk"), format!("bulk, {name} wire"), Unit::Gbit)
            .stack(OURS, move |job| bulk(OneThread, wire, wire == Wire::Lend, job.count))
            .count(1 << 30)
            .counted(64 << 20),
    ]
}
