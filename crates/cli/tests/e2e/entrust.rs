//! Connections that a lane hands over to the kernel, in the middle of what they do: no byte is lost, and `explain` says why.

use crate::sockets::script;
use crate::wires::explain;
use crate::world::{OURS, OURS_V6, Side, World, wait_until};

/// Every way of `rights.py`, and its server's lines.
const WAYS: [&str; 7] = ["plain", "child", "kept", "late", "shut", "idle", "slow"];

fn sends_connections_on(address: &str) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let rights = script("rights.py");
    let seen = world.dir.join("seen");
    let seen = seen.to_str().expect("a name");
    let line = World::corelane(&["python3", &rights, "serve", address, "9004", seen]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let client = world.spawn(Side::Peer, "client", &["python3", &rights, "ask", address, "9004"]);
    wait_until("the server goes on with a connection that it sent", 60, || {
        server.output().contains("goes on")
    });
    let said = server.output();
    let goes_on = said.lines().find(|line| line.contains("goes on with"));
    let (pid, fd) = goes_on.and_then(|line| line.split_once(" goes on with ")).expect("a pid and a number");
    let explained = explain(&world, Side::Ours, pid);
    assert!(explained.contains(&format!("fd {fd} kernel: handed over to the kernel")), "{explained}");
    assert!(explained.contains("accelerated"), "{explained}");
    std::fs::write(seen, "").expect("a file");
    assert!(server.wait(120).success(), "{}", server.output());
    wait_until("the client ends", 30, || client.output().lines().count() == WAYS.len());
    assert_eq!(client.output().lines().collect::<Vec<_>>(), WAYS.map(|way| format!("{way} True")));
    for way in WAYS {
        let line = format!("{way} same ends True options 1 1");
        assert!(server.output().contains(&line), "{}", server.output());
    }
    assert!(server.output().contains("shut 3000000"), "{}", server.output());
    world.assert_clean();
}

#[test]
fn a_connection_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS);
}

#[test]
fn a_connection_over_ipv6_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS_V6);
}
