//! Rows of programs as they are: an epoll server and client on Linux and under `corelane run`, both ends or one.

use crate::kernel::{self, Hosts, Load};
use crate::peer::Kind;
use crate::place::Under::{Corelane, Linux};
use crate::rows::{Goal, OURS, Row, Unit};

/// Both ends under Corelane beside Linux over loopback and veth; then a server alone with a client on the kernel.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for n in [1, 64, 1_000] {
        let row = both_ends("conn", n, kernel::short_connections(n))
            .plot("socket-conn", n as f64)
            .count(if n == 1 { 10_000 } else { 80_000 });
        rows.push(if n == 64 {
            row.goal(Goal::OfPeer("linux lo", 6.0))
                .obstacle(
                    "about 6 us of processor time at each end: seven packets through both engines (engine-short-connections-64), the rest calls of the library.",
                )
                .in_short()
        } else {
            row
        });
    }
    for n in [1, 64, 1_000, 10_000] {
        let row = both_ends("rr", n, kernel::request_response(n))
            .plot("socket-rr", n as f64)
            .count(if n == 1 { 40_000 } else { 320_000 });
        rows.push(if n == 64 {
            row.goal(Goal::OfPeer("linux lo", 6.0))
                .obstacle(
                    "4 550 instructions a request at the server, by callgrind: the engine 2 000, send and recv with entering and leaving the lane 1 400, the wire 450, descriptors and epoll 550.",
                )
                .in_short()
        } else {
            row
        });
    }
    rows.push(both_ends("bulk", 1, kernel::bulk()).count(1 << 30));
    rows.push(both_ends("pingpong-blocking", 1, kernel::ping_pong(false)).count(10_000));
    rows.push(both_ends("pingpong-spinning", 1, kernel::ping_pong(true)).count(40_000).in_short());
    for (id, load) in
        [("veth-conn-64", kernel::short_connections(64)), ("veth-rr-64", kernel::request_response(64))]
    {
        let load = Load { unit: Unit::ServerCpuUs, ..load };
        rows.push(
            Row::new(id, format!("{}, client on the kernel", words(load)), Unit::ServerCpuUs)
                .stack(OURS, kernel::run(load, Hosts::Two, Corelane, Linux))
                .stack("linux veth", kernel::veth(load))
                .count(20_000),
        );
    }
    rows.extend(with_losses());
    let spinning = kernel::ping_pong(true);
    rows.push(
        Row::new("veth-pingpong-spinning", "one exchange, both ends on Corelane, by their devices as on two machines, neither sleeps", Unit::Us)
            .stack(OURS, kernel::run(spinning, Hosts::Strangers("packet"), Corelane, Corelane))
            .stack("corelane xdp", kernel::run(spinning, Hosts::Strangers("xdp"), Corelane, Corelane))
            .stack("linux veth", kernel::veth(spinning))
            .goal(Goal::Value(4.0))
            .obstacle(
                "each packet is sent by a system call and goes through the kernel's veth driver and packet socket, or AF_XDP in generic mode \
                 (docs/ports.md has the cost of each part). Two programs of one host do not go that way: their keepers introduce them, and they speak by a wire \
                 (socket-pingpong-spinning, corelane veth).",
            )
            .count(40_000)
            .in_short(),
    );
    rows
}

/// A server with a client on the kernel, over a path that loses packets.
fn with_losses() -> Vec<Row> {
    let mut rows = Vec::new();
    for (ppm, end, lost) in kernel::LOSSES {
        for (id, load) in [("conn", kernel::short_connections(64)), ("rr", kernel::request_response(64))] {
            // Not the processor's time: much of a run is waiting, in which whatever else it does would count.
            rows.push(
                Row::new(
                    format!("veth-{id}-64{end}"),
                    format!("{}, client on the kernel{lost}", words(load)),
                    load.unit,
                )
                .stack(OURS, kernel::run(load, Hosts::Losing(ppm), Corelane, Linux))
                .stack("linux veth", kernel::run(load, Hosts::Losing(ppm), Linux, Linux))
                .count(if id == "conn" { 2_000 } else { 20_000 })
                .limit_s(120),
            );
        }
    }
    rows
}

fn words(load: Load) -> String {
    match load.kind {
        Kind::Conn => format!("short connections, {} at a time", load.connections),
        Kind::Rr if load.connections == 1 => {
            format!("one exchange, {}", if load.spin { "neither end sleeps" } else { "both ends sleep" })
        }
        Kind::Rr => format!("request/response, {} connections", load.connections),
        Kind::Bulk => "bulk, one stream".to_owned(),
        Kind::Memcached => "memcached".to_owned(),
    }
}

fn both_ends(kind: &str, n: usize, load: Load) -> Row {
    let id =
        if matches!(kind, "conn" | "rr") { format!("socket-{kind}-{n}") } else { format!("socket-{kind}") };
    // What counts in ours is what comes after the first exchanges, which make the wire.
    let less = if n == 1 { 1 } else { 8 };
    Row::new(id, words(load), load.unit)
        .stack(OURS, kernel::run(load, Hosts::One, Corelane, Corelane))
        .stack("corelane veth", kernel::run(load, Hosts::Two, Corelane, Corelane))
        .stack("linux lo", kernel::lo(load.less(less)))
        .stack("linux veth", kernel::veth(load.less(less)))
}
