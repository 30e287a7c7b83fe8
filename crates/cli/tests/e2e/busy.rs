//! Processes that accept at one listener: a connection does not wait for a busy one while another is free.

use crate::entrust::of_peer;
use crate::sockets::script;
use crate::world::{OURS, Side, World};

/// On the kernel and on lanes, the latter with clients on the kernel and on lanes, whose connections come by wires; with workers that wait for connections in this way.
fn busy_workers(how: &str) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let (busy, dir) = (script("busy.py"), world.dir.display().to_string());
    let awake = world.dir.join("awake");
    let mut said = Vec::new();
    for (port, lane, wired) in [("7000", false, false), ("7001", true, false), ("7002", true, true)] {
        let words = ["python3", &busy, "serve", how, &dir, OURS, port];
        let words = if lane { World::corelane(&words) } else { words.map(str::to_owned).to_vec() };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut server = world.spawn(Side::Ours, port, &words);
        world.wait_for_port_from(Side::Peer, OURS, &mut server, port.parse().expect("a port"));
        let ask = ["python3", &busy, "ask", OURS, port, &dir];
        said.push(world.check(Side::Peer, 120, &of_peer(wired, &ask)));
        std::fs::remove_file(&awake).expect("the client makes it");
    }
    assert_eq!(said[1], said[0], "left: lanes, right: the kernel");
    assert_eq!(said[2], said[0], "left: wires, right: the kernel");
    assert!(said[0].contains("served by the free one 6 1"), "{}", said[0]);
}

#[test]
fn connections_do_not_wait_for_a_busy_worker_that_blocks_in_accept() {
    busy_workers("accept");
}

#[test]
fn connections_do_not_wait_for_a_busy_worker_that_polls() {
    busy_workers("poll");
}

#[test]
fn connections_do_not_wait_for_a_busy_worker_with_an_epoll_set() {
    busy_workers("epoll");
}
