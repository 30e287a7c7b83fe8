//! Settings of the program's network namespace that its connections on lanes go by.

use crate::wires::{explain, kernel_segments, said, script};
use crate::world::{DEVICE, OURS, Process, Side, World, wait_until};

/// What both ends of a connection say that it has, as tcpi_options numbers it.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALING: u8 = 4;
const ECN: u8 = 8;
const ALL: u8 = TIMESTAMPS | SACK | SCALING | ECN;

fn set(world: &World, side: Side, setting: &str) {
    world.check(side, 5, &["sysctl", "-q", "-w", setting]);
}

/// Has what is for `address` go to the peer, which takes the frames and has no such address.
fn send_to_the_peer(world: &World, address: &str) {
    let shown = world.check(Side::Peer, 5, &["cat", "/sys/class/net/peer0/address"]);
    let neighbour =
        ["ip", "neigh", "add", address, "lladdr", shown.trim(), "nud", "permanent", "dev", DEVICE];
    world.check(Side::Ours, 5, &neighbour);
}

/// A program whose listener at `port` is a lane's.
fn serve(world: &World, what: &str, port: &str) -> Process {
    let settings = script("settings.py");
    let line = World::corelane(&["python3", settings.as_str(), what, port]);
    let mut server = world.spawn(Side::Ours, port, &line);
    wait_until("the lane listens", 30, || {
        server.assert_running();
        said(&server, "serving")
            .is_some_and(|pid| explain(world, Side::Ours, &pid).contains("listens on port"))
    });
    server
}

/// What a connection of the peer's to a server that is started now has: the peer says it, and the server.
fn ask(world: &World, port: &str) -> (String, String) {
    let settings = script("settings.py");
    let _server = serve(world, "serve", port);
    let before = kernel_segments(world, Side::Ours);
    let told = world.check(Side::Peer, 60, &["python3", &settings, "ask", OURS, port]);
    assert_eq!(kernel_segments(world, Side::Ours), before, "the kernel took part");
    let (here, there) = told.trim().split_once(' ').expect("two ends");
    (here.to_owned(), there.to_owned())
}

#[test]
fn connections_on_lanes_have_what_the_namespaces_settings_allow() {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    set(&world, Side::Peer, "net.ipv4.tcp_ecn=1");
    // With BBR there is no ECN.
    for usual in
        ["tcp_sack=1", "tcp_timestamps=1", "tcp_window_scaling=1", "tcp_ecn=2", "tcp_congestion_control=reno"]
    {
        set(&world, Side::Ours, &format!("net.ipv4.{usual}"));
    }
    let rounds = [
        ("tcp_sack", "1", ALL),
        ("tcp_sack", "0", ALL & !SACK),
        ("tcp_timestamps", "0", ALL & !TIMESTAMPS),
        ("tcp_window_scaling", "0", ALL & !SCALING),
        ("tcp_ecn", "0", ALL & !ECN),
    ];
    for ((name, value, wanted), port) in rounds.into_iter().zip(9100..) {
        let setting = format!("net.ipv4.{name}");
        let was = world.check(Side::Ours, 5, &["sysctl", "-n", &setting]);
        set(&world, Side::Ours, &format!("{setting}={value}"));
        let (peer, server) = ask(&world, &port.to_string());
        assert_eq!(peer, wanted.to_string(), "{name}={value}, by the peer");
        assert_eq!(server.split(' ').next(), Some(peer.as_str()), "{name}={value}, by the server");
        set(&world, Side::Ours, &format!("{setting}={}", was.trim()));
    }
    let numbers = [
        ("tcp_keepalive_time", "711"),
        ("tcp_keepalive_intvl", "12"),
        ("tcp_keepalive_probes", "3"),
        ("tcp_syn_retries", "4"),
        ("ip_default_ttl", "33"),
    ];
    for (name, value) in numbers {
        set(&world, Side::Ours, &format!("net.ipv4.{name}={value}"));
    }
    let (_, server) = ask(&world, "9110");
    assert_eq!(server, format!("{ALL} 711 12 3 4 33 reno"));
    world.assert_clean();
}

/// Connections that the kernel of Corelane's side began.
fn kernel_opens(world: &World) -> String {
    let counters = world.check(Side::Ours, 5, &["cat", "/proc/net/snmp"]);
    let mut rows = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let at = names.split_whitespace().position(|name| name == "ActiveOpens").expect("such a counter");
    values.split_whitespace().nth(at).expect("a number").to_owned()
}

/// With the kernel's own number of retransmissions this takes two minutes, and the call is ended long before.
#[test]
fn a_connect_from_a_lane_gives_up_after_as_many_syns_as_the_namespace_says() {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    set(&world, Side::Ours, "net.ipv4.tcp_syn_retries=1");
    let nobody = "10.77.0.99";
    send_to_the_peer(&world, nobody);
    let before = kernel_opens(&world);
    let reach = ["python3", &script("settings.py"), "reach", nobody, "9120"];
    assert_eq!(world.check(Side::Ours, 60, &World::corelane(&reach)).trim(), "ETIMEDOUT");
    assert_eq!(kernel_opens(&world), before, "the kernel took part");
    world.assert_clean();
}

/// A region of as many frames as there may be is larger than what machines have reserved.
#[test]
fn a_region_that_needs_more_huge_pages_than_there_are_says_so_and_goes_on() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let settings = script("settings.py");
    let serve = |when: &str, port: &str| {
        let mut line = World::corelane(&["python3", settings.as_str(), "serve", port]);
        let at = line.iter().position(|word| word == "--").expect("the end of the flags");
        let flags = ["--huge-pages", when, "--frames", "4194304"].map(str::to_owned);
        line.splice(at..at, flags);
        world.spawn(Side::Ours, when, &line)
    };
    let mut server = serve("try", "9130");
    let mut explained = String::new();
    wait_until("the lane listens", 30, || {
        server.assert_running();
        explained =
            said(&server, "serving").map_or_else(String::new, |pid| explain(&world, Side::Ours, &pid));
        explained.contains("listens on port")
    });
    assert!(explained.contains("on ordinary pages: it needs"), "{explained}");
    assert!(explained.contains("vm.nr_hugepages"), "{explained}");
    let mut server = serve("need", "9131");
    wait_until("the library says why", 30, || {
        server.assert_running();
        said(&server, "serving").is_some() && server.output().contains("the keeper refused: region")
    });
    let output = server.output();
    assert!(output.contains("it needs") && output.contains("sockets stay with the kernel"), "{output}");
    world.check(Side::Peer, 60, &["python3", &settings, "ask", OURS, "9131"]);
}

#[test]
fn a_backlog_of_minus_one_is_the_longest_that_the_namespace_allows() {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    // As in Linux one connection more than the backlog waits.
    for (most, port) in [("5", "9140"), ("8", "9141")] {
        set(&world, Side::Ours, &format!("net.core.somaxconn={most}"));
        let _server = serve(&world, "hold", port);
        let taken = world.check(Side::Peer, 60, &["python3", &script("settings.py"), "fill", OURS, port]);
        assert_eq!(taken.trim().parse::<u32>().map(|n| n - 1), most.parse(), "somaxconn {most}");
    }
    world.assert_clean();
}

/// With tcp_max_syn_backlog 2 the fourth of three half-open connections finds no place; and a backlog of 3 lets four wait, so the fifth is reset.
#[test]
fn handshakes_that_come_all_at_once_are_refused_as_the_namespace_says() {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    for setting in ["tcp_syncookies=0", "tcp_max_syn_backlog=2", "tcp_abort_on_overflow=1"] {
        set(&world, Side::Ours, &format!("net.ipv4.{setting}"));
    }
    set(&world, Side::Ours, "net.core.somaxconn=3");
    send_to_the_peer(&world, "10.77.0.50");
    let settings = script("settings.py");
    let crowd = |port: &str| world.check(Side::Peer, 60, &["python3", &settings, "crowd", OURS, port]);
    let kernel = world.spawn(Side::Ours, "kernel", &["python3", &settings, "hold", "9150"]);
    wait_until("the kernel listens", 30, || said(&kernel, "serving").is_some());
    let wanted = "opened 1 2 3 5 6 reset 6";
    assert_eq!(crowd("9150").trim(), wanted, "the kernel");
    let _server = serve(&world, "hold", "9151");
    let before = kernel_segments(&world, Side::Ours);
    assert_eq!(crowd("9151").trim(), wanted, "a lane");
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
}
