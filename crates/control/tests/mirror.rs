//! The tables follow a real kernel. As root only.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hosts;

use base::{IpAddress, MacAddr};
use control::netlink::{Changes, FarEnd, Mirror, far_end, namespace_number};
use control::tables::{
    LinkKind, NeighbourEntry, Route, RouteAnswer, TABLES_BYTES, Tables, TablesWriter, Unknown,
};
use hosts::{ip, two_hosts};
use sys::memory::{map_shared, map_shared_readonly, memfd};

fn v4(text: &str) -> IpAddress {
    IpAddress::from_v4(text.parse().unwrap())
}

/// A mirror, and the tables as a program sees them: through a read-only mapping of the memfd.
fn mirror() -> (Mirror, Tables) {
    let memory = memfd("corelane-tables", TABLES_BYTES as u64, false).unwrap();
    let writable = map_shared(&memory.fd, TABLES_BYTES as u64).unwrap();
    let readable = map_shared_readonly(&memory.fd, TABLES_BYTES as u64).unwrap();
    let mirror = Mirror::open(TablesWriter::format(writable).unwrap()).unwrap();
    (mirror, Tables::open(readable).unwrap())
}

/// Updates until `done`, at most for as many events as any test makes.
fn follow(mirror: &mut Mirror, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        mirror.update().unwrap();
        if done() {
            return;
        }
        let mut fds = [rustix::event::PollFd::new(&*mirror, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1), "no event came");
    }
    panic!("1000 events and not done");
}

fn ask(tables: &Tables, dst: &str) -> RouteAnswer {
    tables.route_to(v4(dst), IpAddress::ANY, 0)
}

#[test]
fn links_addresses_and_routes_follow_the_kernel() {
    two_hosts(|_| {
        let (mut mirror, tables) = mirror();
        let near = sys::links::index("near").unwrap();
        follow(&mut mirror, || tables.link(near).is_some_and(|link| link.is_usable()));
        let link = tables.link(near).unwrap();
        assert_eq!((link.name(), link.kind, link.mtu), ("near", LinkKind::Veth, 1500));
        assert_eq!((link.mac, link.rx_queues), (MacAddr([2, 0, 0, 0, 0, 1]), link.tx_queues));
        assert!(tables.links().iter().any(|link| link.kind == LinkKind::Loopback && link.name() == "lo"));
        assert_eq!(tables.is_local(v4("10.77.0.1")), Some(near));
        let via = |source: &str, next_hop: &str, mtu| {
            RouteAnswer::Via(Route { ifindex: near, source: v4(source), next_hop: v4(next_hop), mtu })
        };
        follow(&mut mirror, || ask(&tables, "10.77.0.2") == via("10.77.0.1", "10.77.0.2", 1500));
        assert_eq!(ask(&tables, "10.77.0.1"), RouteAnswer::Local(near));
        assert_eq!(ask(&tables, "8.8.8.8"), RouteAnswer::Unreachable);
        assert_eq!(ask(&tables, "127.0.0.1"), RouteAnswer::LoopbackOnly);

        ip("route add default via 10.77.0.2 metric 5");
        ip("route add 192.0.2.0/24 via 10.77.0.3 mtu 1400");
        ip("route add blackhole 198.51.100.0/24");
        ip("route add unreachable 203.0.113.0/24");
        ip("route add 192.0.2.128/25 nexthop via 10.77.0.4 nexthop via 10.77.0.5");
        let before = tables.generation();
        assert!(mirror.update().unwrap().routes);
        assert!(tables.generation() > before);
        assert_eq!(ask(&tables, "8.8.8.8"), via("10.77.0.1", "10.77.0.2", 1500));
        assert_eq!(ask(&tables, "192.0.2.9"), via("10.77.0.1", "10.77.0.3", 1400));
        assert_eq!(ask(&tables, "198.51.100.1"), RouteAnswer::Unknown(Unknown::UnusualRoute));
        assert_eq!(ask(&tables, "192.0.2.200"), RouteAnswer::Unknown(Unknown::UnusualRoute));
        assert_eq!(ask(&tables, "203.0.113.1"), RouteAnswer::Unreachable);

        ip("addr add 10.88.0.1/16 dev near");
        ip("addr add 10.77.0.9/24 dev near");
        assert!(mirror.update().unwrap().addresses);
        assert_eq!(ask(&tables, "10.88.3.4"), via("10.88.0.1", "10.88.3.4", 1500));
        assert_eq!(ask(&tables, "10.77.0.2"), via("10.77.0.1", "10.77.0.2", 1500));
        assert!(tables.addresses().iter().any(|row| row.addr == v4("10.77.0.9") && row.secondary));

        ip("link set near mtu 9000");
        assert!(mirror.update().unwrap().links);
        assert_eq!(ask(&tables, "8.8.8.8"), via("10.77.0.1", "10.77.0.2", 9000));
        ip("link set near down");
        mirror.update().unwrap();
        assert_eq!(ask(&tables, "10.77.0.2"), RouteAnswer::Unreachable);
        assert!(!tables.link(near).unwrap().up);
        assert_eq!(mirror.update(), Ok(Changes::default()));
    });
}

#[test]
fn the_source_is_the_one_the_kernel_chooses() {
    two_hosts(|_| {
        let (mut mirror, tables) = mirror();
        ip("addr add 10.88.0.1/16 dev near");
        ip("addr add 10.99.0.1/32 dev lo");
        ip("route add 192.0.2.0/24 via 10.88.0.7");
        ip("route add 198.51.100.0/24 via 10.77.0.7 src 10.88.0.1");
        ip("route add 203.0.113.0/24 dev near");
        ip("link set lo up");
        mirror.update().unwrap();
        for dst in ["10.77.0.50", "10.88.1.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"] {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((dst, 9)).unwrap();
            let RouteAnswer::Via(route) = ask(&tables, dst) else {
                panic!("{dst}: {:?}", ask(&tables, dst));
            };
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), route.source.to_string(), "{dst}");
        }
    });
}

fn v6(text: &str) -> IpAddress {
    IpAddress::from_v6(text.parse().unwrap())
}

#[test]
fn ipv6_addresses_routes_and_neighbours_follow_the_kernel() {
    two_hosts(|hosts| {
        let (mut mirror, tables) = mirror();
        let near = sys::links::index("near").unwrap();
        let ask = |dst: &str| tables.route_to(v6(dst), IpAddress::ANY, 0);
        ip("-6 addr add fd00:77::1/64 dev near nodad");
        ip("-6 addr add 2001:db8::1/64 dev near nodad");
        hosts.on_the_other(|| ip("-6 addr add fd00:77::2/64 dev far nodad"));
        follow(&mut mirror, || matches!(ask("fd00:77::2"), RouteAnswer::Via(_)));
        let via = |source: &str, next_hop: &str, mtu| {
            RouteAnswer::Via(Route { ifindex: near, source: v6(source), next_hop: v6(next_hop), mtu })
        };
        assert_eq!(ask("fd00:77::2"), via("fd00:77::1", "fd00:77::2", 1500));
        assert_eq!(ask("fd00:77::1"), RouteAnswer::Local(near));
        assert_eq!(ask("2600::1"), RouteAnswer::Unreachable);
        assert_eq!(ask("::1"), RouteAnswer::LoopbackOnly);
        assert_eq!(ask("ff02::1"), RouteAnswer::Unknown(Unknown::NotMirrored));
        assert_eq!(ask("fe80::9"), RouteAnswer::Unknown(Unknown::NoSource), "no device is named");
        // A link-local address, once nobody else is known to have it (the device came up before).
        let own = || tables.addresses().into_iter().find(|a| a.addr.as_v6().is_unicast_link_local());
        follow(&mut mirror, || own().is_some());
        let answer = tables.route_to(v6("fe80::9"), IpAddress::ANY, near);
        let (source, next_hop) = (own().unwrap().addr, v6("fe80::9"));
        assert_eq!(answer, RouteAnswer::Via(Route { ifindex: near, source, next_hop, mtu: 1500 }));

        ip("-6 route add default via fd00:77::2 dev near metric 5");
        ip("-6 route add 2001:db8:9::/48 via fe80::7 dev near mtu 1400");
        ip("-6 route add 2001:db8:a::/48 nexthop via fd00:77::4 nexthop via fd00:77::5");
        follow(&mut mirror, || ask("2001:db8:a::1") == RouteAnswer::Unknown(Unknown::UnusualRoute));
        assert_eq!(ask("2001:db8:9::1"), via("2001:db8::1", "fe80::7", 1400));
        for dst in ["fd00:77::50", "fd00:99::1", "2001:db8:9::1", "2600::1"] {
            let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
            socket.connect((dst, 9)).unwrap();
            let RouteAnswer::Via(route) = ask(dst) else { panic!("{dst}: {:?}", ask(dst)) };
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), route.source.to_string(), "{dst}");
        }
        // Rules are of one family.
        ip("-6 rule add from fd00:77::1 table 100");
        follow(&mut mirror, || ask("fd00:77::2") == RouteAnswer::Unknown(Unknown::PolicyRules));
        assert!(matches!(tables.route_to(v4("10.77.0.2"), IpAddress::ANY, 0), RouteAnswer::Via(_)));

        mirror.resolve(near, v6("fd00:77::2")).unwrap();
        follow(&mut mirror, || tables.neighbour(near, v6("fd00:77::2")).is_some());
        assert_eq!(tables.neighbour(near, v6("fd00:77::2")), Some(MacAddr([2, 0, 0, 0, 0, 2])));
        assert!(!tables.neighbours().iter().any(|row| !row.addr.is_unicast()), "groups are no neighbours");
    });
}

#[test]
fn policy_rules_make_every_route_unknown() {
    two_hosts(|_| {
        let (mut mirror, tables) = mirror();
        assert_ne!(ask(&tables, "10.77.0.2"), RouteAnswer::Unknown(Unknown::PolicyRules));
        ip("rule add from 10.77.0.1 table 100");
        mirror.update().unwrap();
        assert_eq!(ask(&tables, "10.77.0.2"), RouteAnswer::Unknown(Unknown::PolicyRules));
        ip("rule del from 10.77.0.1 table 100");
        mirror.update().unwrap();
        assert_ne!(ask(&tables, "10.77.0.2"), RouteAnswer::Unknown(Unknown::PolicyRules));
    });
}

#[test]
fn a_neighbour_is_resolved_on_request_and_forgotten_with_its_entry() {
    two_hosts(|_| {
        let (mut mirror, tables) = mirror();
        let near = sys::links::index("near").unwrap();
        let there = v4("10.77.0.2");
        assert_eq!(tables.neighbour_entry(near, there), NeighbourEntry::Absent);
        mirror.resolve(near, there).unwrap();
        follow(&mut mirror, || tables.neighbour(near, there).is_some());
        assert_eq!(tables.neighbour(near, there), Some(MacAddr([2, 0, 0, 0, 0, 2])));
        mirror.resolve(near, there).unwrap();
        ip("neigh del 10.77.0.2 dev near");
        follow(&mut mirror, || tables.neighbour(near, there).is_none());
        ip("neigh add 10.77.0.50 lladdr 02:00:00:00:00:50 dev near nud permanent");
        mirror.update().unwrap();
        let known = NeighbourEntry::Known { mac: MacAddr([2, 0, 0, 0, 0, 0x50]), fresh: true };
        assert_eq!(tables.neighbour_entry(near, v4("10.77.0.50")), known);
        assert!(mirror.resolve(99_999, there).is_err());
        assert!(mirror.resolve(near, IpAddress::ANY).is_err());
    });
}

#[test]
fn lost_events_are_made_up_for() {
    two_hosts(|_| {
        let (mut mirror, tables) = mirror();
        let near = sys::links::index("near").unwrap();
        // More events than fit the socket's room, from one batch.
        let batch: String = (0..8000)
            .map(|n| {
                let (c, d) = (n / 200, n % 200 + 1);
                format!("neigh replace 10.66.{c}.{d} lladdr 02:00:00:00:00:50 dev near nud permanent\n")
            })
            .collect();
        let file = std::env::temp_dir().join(format!("corelane-control-{}", std::process::id()));
        std::fs::write(&file, batch).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        ip("route add 192.0.2.0/24 via 10.77.0.3");
        follow(&mut mirror, || matches!(ask(&tables, "192.0.2.9"), RouteAnswer::Via(_)));
        assert_eq!(tables.neighbours().len(), control::tables::NEIGHBOURS, "the tables are full, not wrong");
        assert!(tables.neighbour(near, v4("10.66.0.1")).is_some());
    });
}

#[test]
fn the_other_end_of_a_veth_pair_is_known_with_its_namespace() {
    two_hosts(|hosts| {
        let near = sys::links::index("near").unwrap();
        let far = hosts.on_the_other(|| sys::links::index("far")).unwrap();
        let namespace = namespace_number(hosts.there()).unwrap().unwrap();
        assert_eq!(far_end(near), Ok(Some(FarEnd { ifindex: far, namespace })));
        assert_eq!(far_end(sys::links::index("lo").unwrap()), Ok(None));
        assert!(far_end(9999).is_err());
        let stranger = std::thread::spawn(sys::namespace::enter_new_net).join().unwrap().unwrap();
        assert_ne!(namespace_number(&stranger).unwrap(), Some(namespace));
        assert!(namespace_number(&std::fs::File::open("/dev/null").unwrap()).is_err());
    });
}
