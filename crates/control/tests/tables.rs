//! Lookups answer as Linux would, or say that they do not know.
#![allow(clippy::unwrap_used)]

use base::{IpAddress, MacAddr};
use control::tables::{
    Address, Link, LinkKind, Neighbour, NeighbourEntry, NeighbourState, ROUTES, Route, RouteAnswer,
    RouteKind, RouteRow, Scope, TABLES_BYTES, Tables, TablesError, TablesWriter, Unknown,
};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn words() -> &'static [AtomicU64] {
    Box::leak((0..TABLES_BYTES / 8).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>())
}

fn v4(text: &str) -> IpAddress {
    IpAddress::from_v4(text.parse::<Ipv4Addr>().unwrap())
}

fn link(ifindex: u32, kind: LinkKind) -> Link {
    Link {
        ifindex,
        kind,
        mtu: 1500,
        up: true,
        running: true,
        name: *b"eth\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Link::default()
    }
}

fn address(ifindex: u32, addr: &str, prefix: u8) -> Address {
    Address { ifindex, addr: v4(addr), prefix, ..Address::default() }
}

fn route(dst: &str, prefix: u8, gateway: &str, oif: u32) -> RouteRow {
    let scope = if gateway == "0.0.0.0" { Scope::Link } else { Scope::Global };
    RouteRow { dst: v4(dst), prefix, gateway: v4(gateway), oif, scope, ..RouteRow::default() }
}

/// lo, eth 2 with 10.0.0.5/24 (and a secondary) and a default route, eth 3 with 192.168.9.1/16.
fn host() -> (TablesWriter, Tables) {
    let mut writer = TablesWriter::format(words()).unwrap();
    writer.set_links(vec![link(3, LinkKind::Ethernet), link(1, LinkKind::Loopback), link(2, LinkKind::Veth)]);
    let second = Address { secondary: true, ..address(2, "10.0.0.6", 24) };
    let lo = Address { scope: Scope::Host, ..address(1, "127.0.0.1", 8) };
    writer.set_addresses(&[lo, address(2, "10.0.0.5", 24), second, address(3, "192.168.9.1", 16)]);
    writer.set_routes(vec![
        route("0.0.0.0", 0, "10.0.0.1", 2),
        route("10.0.0.0", 24, "0.0.0.0", 2),
        route("192.168.0.0", 16, "0.0.0.0", 3),
        RouteRow { metric: 100, ..route("192.168.0.0", 16, "10.0.0.9", 2) },
        RouteRow { mtu: 1400, prefsrc: v4("10.0.0.6"), ..route("172.16.0.0", 12, "10.0.0.2", 2) },
        RouteRow { kind: RouteKind::Unreachable, ..route("203.0.113.0", 24, "0.0.0.0", 0) },
        RouteRow { kind: RouteKind::Unusual, ..route("198.51.100.0", 24, "0.0.0.0", 0) },
    ]);
    let reader = writer.reader();
    (writer, reader)
}

fn ask(tables: &Tables, dst: &str) -> RouteAnswer {
    tables.route_to(v4(dst), IpAddress::ANY, 0)
}

fn via(ifindex: u32, source: &str, next_hop: &str, mtu: u32) -> RouteAnswer {
    RouteAnswer::Via(Route { ifindex, source: v4(source), next_hop: v4(next_hop), mtu })
}

#[test]
fn the_longest_prefix_and_then_the_smallest_metric_wins() {
    let (_writer, tables) = host();
    assert_eq!(ask(&tables, "10.0.0.77"), via(2, "10.0.0.5", "10.0.0.77", 1500));
    assert_eq!(ask(&tables, "8.8.8.8"), via(2, "10.0.0.5", "10.0.0.1", 1500));
    assert_eq!(ask(&tables, "192.168.1.1"), via(3, "192.168.9.1", "192.168.1.1", 1500));
    assert_eq!(ask(&tables, "172.16.3.4"), via(2, "10.0.0.6", "10.0.0.2", 1400));
}

#[test]
fn bound_device_and_source_are_honoured() {
    let (_writer, tables) = host();
    let answer = tables.route_to(v4("192.168.1.1"), IpAddress::ANY, 2);
    assert_eq!(answer, via(2, "10.0.0.5", "10.0.0.9", 1500));
    let answer = tables.route_to(v4("8.8.8.8"), v4("192.168.9.1"), 0);
    assert_eq!(answer, via(2, "192.168.9.1", "10.0.0.1", 1500));
    assert_eq!(tables.route_to(v4("8.8.8.8"), IpAddress::ANY, 3), RouteAnswer::Unknown(Unknown::NoSource));
}

#[test]
fn own_and_special_destinations_are_told_apart() {
    let (_writer, tables) = host();
    assert_eq!(ask(&tables, "10.0.0.6"), RouteAnswer::Local(2));
    assert_eq!(tables.is_local(v4("192.168.9.1")), Some(3));
    assert_eq!(tables.is_local(v4("192.168.9.2")), None);
    assert_eq!(ask(&tables, "127.9.9.9"), RouteAnswer::LoopbackOnly);
    assert_eq!(ask(&tables, "203.0.113.7"), RouteAnswer::Unreachable);
    assert_eq!(ask(&tables, "198.51.100.7"), RouteAnswer::Unknown(Unknown::UnusualRoute));
    for group in ["224.0.0.1", "255.255.255.255", "10.0.0.255", "192.168.255.255"] {
        assert_eq!(ask(&tables, group), RouteAnswer::Unknown(Unknown::NotMirrored), "{group}");
    }
    // A default route of IPv4 is none of IPv6.
    let v6 = IpAddress::from_v6("2001:db8::1".parse().unwrap());
    assert_eq!(tables.route_to(v6, IpAddress::ANY, 0), RouteAnswer::Unreachable);
}

#[test]
fn no_route_is_unreachable() {
    let (mut writer, tables) = host();
    writer.set_routes(vec![route("10.0.0.0", 24, "0.0.0.0", 2)]);
    assert_eq!(ask(&tables, "8.8.8.8"), RouteAnswer::Unreachable);
}

#[test]
fn too_many_rows_or_policy_rules_make_every_route_unknown() {
    let (mut writer, tables) = host();
    let before = tables.generation();
    writer.set_policy_rules([true, false]);
    assert_eq!(ask(&tables, "8.8.8.8"), RouteAnswer::Unknown(Unknown::PolicyRules));
    writer.set_policy_rules([false, false]);
    assert_eq!(ask(&tables, "8.8.8.8"), via(2, "10.0.0.5", "10.0.0.1", 1500));
    writer.set_routes(vec![route("10.0.0.0", 24, "0.0.0.0", 2); ROUTES + 1]);
    assert_eq!(ask(&tables, "10.0.0.77"), RouteAnswer::Unknown(Unknown::Overflow));
    assert_eq!(tables.routes().len(), ROUTES);
    writer.set_routes(vec![route("10.0.0.0", 24, "0.0.0.0", 2)]);
    assert_eq!(ask(&tables, "10.0.0.77"), via(2, "10.0.0.5", "10.0.0.77", 1500));
    assert_eq!(tables.generation(), before + 4);
}

#[test]
fn neighbours_are_found_by_device_and_address() {
    let (mut writer, tables) = host();
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let all = (1..200u32).map(|n| Neighbour {
        ifindex: 2 + n % 2,
        addr: IpAddress::from_v4(Ipv4Addr::from(0x0a00_0000 + n)),
        mac,
        state: [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Failed,
            NeighbourState::Incomplete,
        ][n as usize % 4],
    });
    writer.set_neighbours(all.clone().rev().collect());
    for row in all {
        let entry = tables.neighbour_entry(row.ifindex, row.addr);
        let wanted = match row.state {
            NeighbourState::Reachable => NeighbourEntry::Known { mac, fresh: true },
            NeighbourState::Stale => NeighbourEntry::Known { mac, fresh: false },
            NeighbourState::Failed => NeighbourEntry::Failed,
            NeighbourState::Incomplete => NeighbourEntry::Pending,
            NeighbourState::None => NeighbourEntry::Absent,
        };
        assert_eq!(entry, wanted);
        assert_eq!(tables.neighbour_entry(5 - row.ifindex, row.addr), NeighbourEntry::Absent);
    }
    assert_eq!(tables.neighbour(2, v4("10.0.0.4")), Some(mac));
    assert_eq!(tables.neighbour(9, v4("10.0.0.4")), None);
}

#[test]
fn rows_come_back_as_written() {
    let (mut writer, tables) = host();
    let odd = Link {
        ifindex: 77,
        name: *b"abcdefghijklmno\0",
        mac: MacAddr([1, 2, 3, 4, 5, 6]),
        mtu: 65_536,
        up: true,
        running: false,
        kind: LinkKind::Dummy,
        master: 12,
        rx_queues: 3,
        tx_queues: 64,
    };
    writer.set_links(vec![odd]);
    assert_eq!(tables.links(), vec![odd]);
    assert_eq!(tables.link(77), Some(odd));
    assert_eq!(odd.name(), "abcdefghijklmno");
    assert!(!odd.is_usable());
    assert_eq!(tables.addresses().len(), 4);
    assert!(tables.addresses()[2].secondary);
}

#[test]
fn foreign_words_are_refused() {
    assert_eq!(Tables::open(words()).err(), Some(TablesError::WrongVersion));
    assert_eq!(Tables::open(&[]).err(), Some(TablesError::TooSmall));
    assert_eq!(TablesWriter::format(&[]).err(), Some(TablesError::TooSmall));
    let formatted = words();
    TablesWriter::format(formatted).unwrap();
    assert!(Tables::open(formatted).is_ok());
}

#[test]
fn a_keeper_that_died_in_a_write_is_an_unknown_route() {
    let memory = words();
    let mut writer = TablesWriter::format(memory).unwrap();
    writer.set_links(vec![link(2, LinkKind::Veth)]);
    memory[2].fetch_add(1, Ordering::Relaxed);
    let tables = Tables::open(memory).unwrap();
    assert_eq!(ask(&tables, "8.8.8.8"), RouteAnswer::Unknown(Unknown::KeeperGone));
    assert!(tables.links().is_empty());
    assert_eq!(tables.neighbour(2, v4("10.0.0.1")), None);
}

#[test]
fn readers_never_see_half_a_write() {
    let (mut writer, tables) = host();
    writer.set_routes(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let RouteAnswer::Via(found) = ask(&tables, "8.8.8.8") {
                    let octets = (found.source.0[15], found.next_hop.0[15]);
                    assert_eq!(octets.0, octets.1, "source and gateway of one write");
                }
            }
        });
        for round in 0..3000u32 {
            let end = format!("10.0.0.{}", 1 + round % 200);
            writer.set_routes(vec![RouteRow { prefsrc: v4(&end), ..route("0.0.0.0", 0, &end, 2) }]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
