//! Segments signed by MD5 (RFC 2385) between programs on lanes and a kernel peer, either way, over both families.

use crate::sockets::script;
use crate::world::{OURS, OURS_V6, PEER, PEER_V6, Process, Side, World, wait_until};

/// What a counter of the kernel's TCP says on one side.
fn counter(world: &World, side: Side, name: &str) -> u64 {
    let text = world.check(side, 5, &["cat", "/proc/net/netstat"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let pairs = lines.chunks(2).filter_map(|pair| pair.first().zip(pair.get(1)));
    let mut all = pairs.flat_map(|(names, values)| names.iter().zip(values));
    all.find(|(n, _)| **n == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

fn serve(world: &World, side: Side, title: &str, words: &[&str]) -> Process {
    let script = script("md5.py");
    let words = [&["python3", script.as_str(), "serve"][..], words].concat();
    let server = match side {
        Side::Ours => world.spawn(side, title, &World::corelane(&words)),
        Side::Peer => world.spawn(side, title, &words),
    };
    wait_until("the server is ready", 20, || server.output().contains("ready"));
    server
}

/// What a client says that connects with this key.
fn ask(world: &World, side: Side, words: &[&str]) -> String {
    let script = script("md5.py");
    let words = [&["python3", script.as_str(), "ask"][..], words].concat();
    let said = match side {
        Side::Ours => world.check(side, 90, &World::corelane(&words)),
        Side::Peer => world.check(side, 90, &words),
    };
    said.trim().to_owned()
}

#[test]
fn signed_connections_between_a_lane_and_linux_carry_every_byte_and_others_get_no_answer() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    for (ours, peer, net) in [(OURS, PEER, "10.77.0.0/24"), (OURS_V6, PEER_V6, "fd00:77::/64")] {
        // The lane as the client of a kernel's listener, then as the server.
        for (side, other, here, there) in
            [(Side::Ours, Side::Peer, ours, peer), (Side::Peer, Side::Ours, peer, ours)]
        {
            let title = format!("{here}-server");
            let mut server = serve(&world, other, &title, &[there, "9000", here, net]);
            let said = |count: usize| {
                server.output().lines().filter(|l| l.starts_with("good 3000001")).count() >= count
            };
            // The first connection may still be the kernel's: the listener is a lane's from the first wait on it.
            for n in 1..4 {
                assert_eq!(
                    ask(&world, side, &[there, "9000", here, "only for you", "20"]),
                    "good 2000003",
                    "{here}"
                );
                wait_until("the server has read all", 20, || said(n));
            }
            let failures = counter(&world, Side::Peer, "TCPMD5Failure");
            for key in ["of the net", "-"] {
                assert_eq!(ask(&world, side, &[there, "9000", here, key, "2.5"]), "timed out", "{key}");
            }
            if side == Side::Ours {
                assert!(counter(&world, Side::Peer, "TCPMD5Failure") > failures);
            }
            server.assert_running();
        }
    }
    // By the counters of the kernel on our side nothing signed came to it but what it carried itself.
    world.assert_clean();
}

#[test]
fn options_for_keys_give_the_same_on_a_lane_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let script = script("md5.py");
    for (peer, port) in [(PEER, "9001"), (PEER_V6, "9002")] {
        let mut server = world.spawn(Side::Peer, port, &["python3", &script, "echo", peer, port]);
        world.wait_for_port_from(Side::Ours, peer, &mut server, port.parse().expect("a port"));
        let words = ["python3", &script, "errors", peer, port];
        let kernel = world.check(Side::Ours, 60, &words);
        let lane = world.check(Side::Ours, 60, &World::corelane(&words));
        for (lane, kernel) in lane.lines().zip(kernel.lines()) {
            assert_eq!(lane, kernel, "left: the lane, right: the kernel");
        }
        assert_eq!(lane.lines().count(), kernel.lines().count());
        assert!(kernel.contains("ENOENT") && kernel.contains("EINVAL"), "{kernel}");
    }
    world.assert_clean();
}
