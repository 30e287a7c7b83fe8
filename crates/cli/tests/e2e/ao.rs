//! Segments signed by TCP-AO (RFC 5925) between programs on lanes, by the options of linux/tcp.h. The kernel of the machine that runs this need not have
//! TCP-AO: what Linux's own source answers to each call stands in the script.

use crate::sockets::script;
use crate::wires::corelane;
use crate::world::{OURS, OURS_V6, PEER, PEER_V6, Side, World, wait_until};

/// What a client of the peer's says that connects with this key.
fn ask(world: &World, on_lane: bool, words: &[&str]) -> String {
    let script = script("ao.py");
    let words = [&["python3", script.as_str(), "ask"][..], words].concat();
    let line = match on_lane {
        true => corelane("peer0", &words),
        false => words.iter().map(|word| (*word).to_owned()).collect(),
    };
    world.check(Side::Peer, 90, &line).trim().to_owned()
}

#[test]
fn programs_on_lanes_sign_by_tcp_ao_and_who_does_not_gets_no_answer() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let script = script("ao.py");
    for (here, there, net) in [(OURS, PEER, "10.77.0.0/24"), (OURS_V6, PEER_V6, "fd00:77::/64")] {
        let words = ["python3", script.as_str(), "serve", here, "9000", there, net];
        let mut server = world.spawn(Side::Ours, &format!("{here}-server"), &World::corelane(&words));
        wait_until("the server is ready", 20, || server.output().contains("ready"));
        // The number of a key, as this side has it, and what a SYN with it opens.
        let keys = [
            ("only for you", ["2,1", "2 1", "1 2"], "hmac(sha1)"),
            ("with aes", ["4,3", "4 3", "3 4"], "cmac(aes128)"),
            ("of the net", ["101,100", "101 100", "100 101"], "hmac(sha1)"),
        ];
        for ((secret, ids, algorithm), count) in keys.into_iter().zip(1..) {
            // Flags: a key that signs and one that is asked for.
            let said = ask(&world, true, &[here, "9000", there, secret, ids[0], algorithm, "30"]);
            let (current, next) = ids[1].split_once(' ').expect("two");
            assert_eq!(said, format!("good 200003 3 {current} {next} True [0, 0, 0, 0]"), "{secret}");
            wait_until("the server has read all", 20, || {
                server.output().lines().filter(|line| line.starts_with("good 300001")).count() == count
            });
            let last = server.output().lines().last().unwrap_or_default().to_owned();
            assert_eq!(last, format!("good 300001 {} 3", ids[2]), "{secret}");
        }
        for (secret, ids) in [("another", "2,1"), ("only for you", "8,9"), ("-", "0,0")] {
            let said = ask(&world, true, &[here, "9000", there, secret, ids, "hmac(sha1)", "2.5"]);
            assert_eq!(said, "timed out", "{secret} {ids}");
        }
        assert_eq!(
            ask(&world, false, &[here, "9000", there, "-", "0,0", "", "2.5"]),
            "timed out",
            "the kernel"
        );
        // Nor does the kernel's own socket beside the lane's take what it cannot check.
        let words = ["python3", script.as_str(), "ask", here, "9000", here, "-", "0,0", "", "2.5"];
        assert_eq!(world.check(Side::Ours, 30, &words).trim(), "timed out", "the kernel of this side");
        server.assert_running();
    }
    world.assert_clean();
}

#[test]
fn options_of_tcp_ao_give_what_linux_gives() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let script = script("ao.py");
    for (peer, port) in [(PEER, "9001"), (PEER_V6, "9002")] {
        let mut server = world.spawn(Side::Peer, port, &["python3", &script, "echo", peer, port]);
        world.wait_for_port_from(Side::Ours, peer, &mut server, port.parse().expect("a port"));
        let words = ["python3", &script, "errors", peer, port];
        let said = world.check(Side::Ours, 60, &World::corelane(&words));
        let others: Vec<&str> = said.lines().filter(|line| !line.starts_with("same ")).collect();
        // Where the kernel has no TCP-AO, what it would have to carry unsigned is refused; else nobody listens there.
        let wanted = ["to the kernel ENOPROTOOPT", "to the kernel ECONNREFUSED"];
        assert!(others.len() == usize::from(peer == PEER), "{said}");
        assert!(others.iter().all(|line| wanted.contains(line)), "{said}");
        assert!(said.lines().count() > 50, "{said}");
    }
    world.assert_clean();
}
