//! Devices with several queues on AF_XDP: each lane of one program has sockets on all queues, lanes of others have packet sockets.

use rustix::process::Signal;

use crate::servers::{nginx_by, wrk_is_clean};
use crate::sockets::script;
use crate::world::{DEVICE, OURS, Process, Side, World, send_signal, sha256, wait_until};

/// The process that `server` started.
fn program_of(world: &World, server: &Process) -> String {
    world.check(Side::Ours, 5, &["pgrep", "-o", "-P", &server.id().to_string()]).trim().to_owned()
}

/// What the keeper of the program `server` says of its device.
fn device(world: &World, server: &Process) -> String {
    let program = crate::world::program().display().to_string();
    let explained = world.check(Side::Ours, 10, &[&program, "explain", &program_of(world, server)]);
    let line = explained.lines().find(|line| line.contains(DEVICE));
    line.unwrap_or_else(|| panic!("{explained}")).to_owned()
}

/// nginx with `workers` on AF_XDP: small requests by many connections, connections for one request each, and a long file.
fn serves(world: &World, workers: u32, expected: &str) {
    let (mut server, url) = nginx_by(world, workers, &["--port", "xdp"]);
    wait_until("all workers have lanes", 20, || device(world, &server).contains(expected));
    let says = device(world, &server);
    assert!(says.contains(expected) && !says.contains("packet sockets"), "{says}");
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d2s", &url]));
    let close = ["wrk", "-t1", "-c32", "-d2s", "-H", "Connection: close", &url];
    wrk_is_clean(&world.check(Side::Peer, 60, &close));
    let file = world.random_file("www/big", 64 << 20);
    let fetched = world.dir.join("fetched");
    let big = format!("{url}big");
    world.check(Side::Peer, 120, &["curl", "-sSf", "-o", &fetched.display().to_string(), &big]);
    assert_eq!(sha256(&file), sha256(&fetched));
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn a_device_with_one_queue_serves_by_af_xdp() {
    let Some(world) = World::new(&["nginx", "wrk", "curl", "ip", "pgrep"]) else { return };
    serves(&world, 1, "xdp port in generic mode, 1 queue,");
}

#[test]
fn a_lane_receives_by_every_queue_of_its_device() {
    let Some(world) = World::with_queues(4, &["nginx", "wrk", "curl", "ip", "pgrep"]) else { return };
    serves(&world, 1, "xdp port in generic mode, 4 queues,");
}

#[test]
fn the_workers_of_a_program_share_every_queue() {
    let Some(world) = World::with_queues(4, &["nginx", "wrk", "curl", "ip", "pgrep"]) else { return };
    serves(&world, 4, "xdp port in generic mode, 4 queues for 4 lanes,");
}

#[test]
fn workers_go_on_with_the_sockets_of_those_before_them() {
    let Some(world) = World::with_queues(4, &["nginx", "wrk", "ip", "pgrep"]) else { return };
    let (mut server, url) = nginx_by(&world, 2, &["--port", "xdp"]);
    let master = program_of(&world, &server);
    let workers = || -> Vec<String> {
        world.check(Side::Ours, 5, &["pgrep", "-P", &master]).lines().map(str::to_owned).collect()
    };
    // Each time there are four for a moment, so that the third ones have the lanes of the first.
    for _ in 0..4 {
        let last = workers();
        wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d1s", &url]));
        send_signal(master.parse().expect("a number"), Signal::HUP);
        wait_until("other workers", 30, || {
            let now = workers();
            now.len() == 2 && now.iter().all(|worker| !last.contains(worker))
        });
        wait_until("they have lanes", 30, || device(&world, &server).contains("4 queues for 2 lanes,"));
    }
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d1s", &url]));
    server.assert_running();
    drop(server);
    world.assert_clean();
}

/// Three workers, and a client of all; the one with lane `lane` is killed.
fn workers_go_on_without(lane: u32) {
    let Some(world) = World::with_queues(4, &["python3", "ip", "pgrep"]) else { return };
    let queues = script("queues.py");
    let mut line = World::corelane(&["python3", &queues, "serve", OURS, "9010", "3"]);
    line.splice(2..2, ["--verbose", "--port", "xdp"].map(str::to_owned));
    let mut server = world.spawn(Side::Ours, "server", &line);
    world.wait_for_port(&mut server, 9010);
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &queues, "ask", OURS, "9010", "200", "3"]);
    wait_until("all workers answer", 60, || world.dir.join("workers").exists());
    let says = device(&world, &server);
    assert!(says.contains("4 queues for 3 lanes,"), "{says}");
    let said = server.output();
    let owner = said.lines().find_map(|line| {
        let (process, which) = line.strip_prefix("corelane: process ")?.split_once(": lane ")?;
        which.starts_with(&format!("{lane} of ")).then_some(process)
    });
    let killed = owner.unwrap_or_else(|| panic!("{said}"));
    send_signal(killed.parse().expect("a number"), Signal::KILL);
    wait_until("the keeper knows", 20, || server.output().contains("is gone"));
    std::fs::write(world.dir.join("killed.tmp"), killed).expect("a file");
    std::fs::rename(world.dir.join("killed.tmp"), world.dir.join("killed")).expect("a file");
    assert!(peer.wait(120).success(), "{}", peer.output());
    assert_eq!(peer.output().lines().collect::<Vec<_>>(), ["1000 3", "True False", "1000 False"]);
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn the_death_of_the_lane_that_opened_the_queues_costs_its_own_connections_only() {
    workers_go_on_without(0);
}

#[test]
fn the_death_of_a_lane_that_shares_the_queues_costs_its_own_connections_only() {
    workers_go_on_without(1);
}

#[test]
fn another_program_has_packet_sockets_beside_the_one_with_the_queues() {
    let Some(world) = World::with_queues(4, &["python3", "ip", "pgrep"]) else { return };
    let queues = script("queues.py");
    let serve = |port: u16, workers: usize| format!("python3 {queues} serve {OURS} {port} {workers}");
    let both = format!("{} & exec {}", serve(9010, 2), serve(9011, 2));
    let mut line = World::corelane(&["sh", "-c", &both]);
    line.splice(2..2, ["--port", "xdp"].map(str::to_owned));
    let mut server = world.spawn(Side::Ours, "server", &line);
    let killed = world.dir.join("killed");
    std::fs::write(&killed, "nobody").expect("a file");
    for port in ["9010", "9011"] {
        world.wait_for_port(&mut server, port.parse().expect("a number"));
        let mut peer = world.spawn(Side::Peer, "peer", &["python3", &queues, "ask", OURS, port, "100", "2"]);
        assert!(peer.wait(120).success(), "{}", peer.output());
        assert_eq!(peer.output().lines().collect::<Vec<_>>(), ["500 2", "True False", "500 False"]);
    }
    let says = device(&world, &server);
    assert!(says.contains("4 queues for 2 lanes, packet sockets for 2 more,"), "{says}");
    // The first one is a child of the second, which ends with the run.
    let last = program_of(&world, &server);
    let first = world.check(Side::Ours, 5, &["pgrep", "-o", "-P", &last]);
    send_signal(first.trim().parse().expect("a number"), Signal::KILL);
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn a_lane_has_a_packet_socket_while_another_program_has_one_of_the_queues() {
    let Some(world) = World::with_queues(4, &["nginx", "wrk", "python3", "ip", "pgrep"]) else { return };
    let holder = world.spawn(Side::Ours, "holder", &["python3", &script("hold_queue.py"), DEVICE, "2"]);
    wait_until("the queue is held", 20, || holder.output().contains("holds"));
    let (mut server, url) = nginx_by(&world, 1, &["--port", "xdp"]);
    let says = device(&world, &server);
    assert!(says.contains("4 queues that no lane has, packet sockets for 1,"), "{says}");
    let said = server.output();
    assert!(
        said.contains("corelane: warning: ") && said.contains("another AF_XDP socket has queue 2"),
        "{said}"
    );
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d1s", &url]));
    server.assert_running();
    drop(server);
    drop(holder);
    world.assert_clean();
}

#[test]
fn a_second_run_is_told_of_the_first_ones_program_and_can_go_beside_it() {
    let Some(world) = World::new(&["nginx", "wrk", "ip", "sleep"]) else { return };
    let mut line = World::corelane(&["sleep", "600"]);
    line.splice(2..2, ["--port", "xdp"].map(str::to_owned));
    let first = world.spawn(Side::Ours, "first", &line);
    let has_program = || world.check(Side::Ours, 5, &["ip", "link", "show", DEVICE]).contains("xdpgeneric");
    wait_until("the first one has its program on the device", 20, has_program);
    let refused = world.run(Side::Ours, 20, &line);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("an XDP program is on it already") && said.contains("--port packet"), "{said}");
    let (mut server, url) = nginx_by(&world, 1, &["--port", "packet"]);
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d1s", &url]));
    server.assert_running();
    drop(server);
    drop(first);
    world.assert_clean();
}

#[test]
fn a_device_with_more_queues_than_a_lane_has_sockets_for_is_refused_in_words() {
    let Some(world) = World::with_queues(17, &["ip"]) else { return };
    let mut line = World::corelane(&["true"]);
    line.splice(2..2, ["--port", "xdp"].map(str::to_owned));
    let refused = world.run(Side::Ours, 20, &line);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("it has 17 receive queues"), "{said}");
    assert!(said.contains(&format!("ethtool -L {DEVICE} combined 16")), "{said}");
}
