//! A SYN flood over the wire: a hundred SYNs for each row of the connection table, from addresses of the network that nobody has. Connections
//! that are open lose nothing, and new ones open.

use crate::wires::{explain, kernel_segments, said, script};
use crate::world::{DEVICE, OURS, Side, World, program, wait_until};

/// Connections that the server's process has room for.
const SOCKETS: u32 = 256;

#[test]
fn a_syn_flood_costs_open_connections_nothing_and_new_ones_open() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let (program, sockets) = (program().display().to_string(), SOCKETS.to_string());
    let echo = script("echo.py");
    let words = [&program, "run", "--device", DEVICE, "--sockets", &sockets, "--", "python3", &echo, "9002"];
    let mut server = world.spawn(Side::Ours, "echo", &words);
    wait_until("the lane listens", 30, || {
        server.assert_running();
        said(&server, "serving")
            .is_some_and(|pid| explain(&world, Side::Ours, &pid).contains("listens on port"))
    });
    world.wait_for_port(&mut server, 9002);
    let before = kernel_segments(&world, Side::Ours);
    let syns = (100 * SOCKETS).to_string();
    let said =
        world.check(Side::Peer, 180, &["python3", &script("flood.py"), OURS, "9002", "peer0", &syns, "20"]);
    let sent: u32 = said.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(sent >= 100 * SOCKETS, "{said}");
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    server.assert_running();
}
