//! Several lanes of one region: what comes to the wrong lane is handed over, and groups of flows move between lanes under traffic.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod many;
mod net;

use base::{Duration, IpAddress, LaneId, Port};
use engine::{AcceptError, Algorithm, MoveError, SockError};
use many::{Sock, Talk, World};
use net::Packet;
use region::Group;
use state::{DropReason, Endpoint, SockRef, TcpOptions};
use wire::{EthHeader, EtherType, Icmp4Header, IpProtocol, Ipv4Header, icmp4};

const CLIENTS: u16 = 12;
const FIRST_PORT: u16 = 40_000;

/// Opens connections from ports of machine 0 on, and accepts each wherever it came to.
fn open(world: &mut World, listeners: &[SockRef], count: u16, len: usize) -> Vec<Talk> {
    let ports = FIRST_PORT..FIRST_PORT + count;
    let clients: Vec<Sock> = ports.map(|port| world.connect((0, 0), port, 80)).collect();
    let mut talks = Vec::new();
    while talks.len() < clients.len() {
        world.step();
        accept(world, listeners, |world, port, server| {
            let client = clients[usize::from(port - FIRST_PORT)];
            let seed = world.rng.next_u64() >> 1;
            talks.push(Talk::new(client, server, seed, len));
        });
    }
    talks
}

/// One connection to machine 1, whose frames come to whichever of its two lanes has it.
fn one(seed: u64) -> (World, Vec<SockRef>, Vec<Talk>) {
    let mut world = World::new(seed, 2, 64);
    world.misdirect = false;
    let listeners = world.listen(80);
    let talks = open(&mut world, &listeners, 1, 1000);
    (world, listeners, talks)
}

/// Moves the group of [`FIRST_PORT`] from one lane of machine 1 to another.
fn move_first(world: &mut World, lanes: (u16, u16)) -> Result<u32, MoveError> {
    let (now, group) = (world.now, world.group_of(FIRST_PORT));
    world.machines[1].pair(lanes, now, |a, b| a.move_group(b, group))
}

fn accept(world: &mut World, listeners: &[SockRef], mut f: impl FnMut(&mut World, u16, Sock)) {
    for (lane, listener) in (0..).zip(listeners) {
        loop {
            match world.on((1, lane), |e| e.tcp_accept(*listener)) {
                Ok(a) => f(world, a.remote.port.0, Sock { machine: 1, lane, name: a.sock }),
                Err(AcceptError::WouldBlock) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn handed(world: &mut World) -> u64 {
    let lanes = world.lanes();
    lanes.into_iter().map(|at| world.on(at, |e| e.counters().handed_in)).sum()
}

/// Lets every connection write and read. True: all has come, everywhere.
fn go_on(talks: &mut [Talk], world: &mut World) -> bool {
    let done = talks.iter_mut().filter_map(|talk| talk.go_on(world).then_some(())).count();
    done == talks.len()
}

/// Closes all and waits until nothing is left.
fn finish(world: &mut World, talks: &mut [Talk], listeners: &[SockRef]) {
    for talk in talks {
        talk.check();
        talk.ends.iter().for_each(|end| world.close(*end));
    }
    for (lane, listener) in (0..).zip(listeners) {
        world.on((1, lane), |e| e.close(*listener));
    }
    world.run(Duration::from_secs(200));
    world.assert_clean();
}

#[test]
fn frames_that_come_to_any_lane_reach_the_one_that_has_their_flow() {
    for seed in 0..4 {
        let mut world = World::new(seed, 4, 64);
        world.loss_ppm = if seed % 2 == 0 { 0 } else { 20_000 };
        let listeners = world.listen(80);
        let mut talks = open(&mut world, &listeners, CLIENTS, 60_000);
        for talk in &talks {
            let port = world.on((0, 0), |e| e.names(talk.ends[0].name)).unwrap().0.port.0;
            let directory = world.machines[1].directory();
            assert_eq!(directory.lane_of(world.group_of(port)), Some(LaneId(talk.ends[1].lane)));
        }
        while !go_on(&mut talks, &mut world) {
            world.step();
        }
        assert!(handed(&mut world) > 100, "three quarters come to a wrong lane");
        finish(&mut world, &mut talks, &listeners);
        assert_eq!((world.resets, world.dropped(DropReason::LaneMailFull)), (0, 0));
    }
}

/// An ICMP error to machine 1 about `packet`, which it sent.
fn unreachable(world: &World, packet: &Packet) -> Packet {
    let [peer, host] = &world.machines;
    let mut icmp = vec![0; 8];
    Icmp4Header::Unreachable { code: icmp4::unreachable::HOST, next_hop_mtu: 0 }.emit(&mut icmp).unwrap();
    icmp.extend_from_slice(&packet.bytes[14..14 + 28]);
    icmp4::fill_checksum(&mut icmp).unwrap();
    let mut bytes = vec![0; 34];
    EthHeader { dst: host.mac, src: peer.mac, ethertype: EtherType::IPV4 }.emit(&mut bytes).unwrap();
    let ends = (peer.addr, host.addr);
    Ipv4Header::plain(ends, IpProtocol::ICMP4, icmp.len() as u16).emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(&icmp);
    Packet { bytes, gso_size: 0, port: 0 }
}

#[test]
fn an_icmp_error_that_comes_to_any_lane_reaches_the_connection_it_is_about() {
    let mut world = World::new(11, 3, 64);
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 6, 1000);
    for talk in &talks {
        let Sock { lane, name, .. } = talk.ends[1];
        for to in 0..3 {
            world.run(Duration::from_millis(100));
            assert_eq!(world.on((1, lane), |e| e.tcp_send(name, b"lost", false)), Ok(4));
            let sent = world.lose((1, lane)).pop().unwrap();
            let (error, before) = (unreachable(&world, &sent), handed(&mut world));
            world.receive((1, to), &error);
            world.take_mail();
            assert_eq!(handed(&mut world) - before, u64::from(to != lane));
            assert_eq!(world.on((1, lane), |e| e.take_error(name)), Some(SockError::HostUnreachable));
            // It is sent again, and read.
            world.run(Duration::from_secs(1));
            let Sock { lane: at, name: client, .. } = talk.ends[0];
            assert_eq!(world.on((0, at), |e| e.tcp_recv(client, &mut [0; 10], false)), Ok(4));
        }
    }
    // About a flow that nobody has: nobody is asked twice.
    let Sock { lane, name, .. } = talks[0].ends[1];
    world.on((1, lane), |e| e.tcp_send(name, b"x", false)).unwrap();
    let mut nobodys = world.lose((1, lane)).pop().unwrap();
    nobodys.bytes[35] ^= 1;
    let (error, before) = (unreachable(&world, &nobodys), handed(&mut world));
    for to in 0..3 {
        world.receive((1, to), &error);
        world.take_mail();
    }
    assert_eq!(handed(&mut world) - before, 2);
    world.run(Duration::from_secs(1));
    let Sock { lane, name, .. } = talks[0].ends[0];
    assert_eq!(world.on((0, lane), |e| e.tcp_recv(name, &mut [0; 10], false)), Ok(1));
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn a_full_mailbox_drops_and_counts_and_the_peer_sends_again() {
    let mut world = World::new(3, 2, 256);
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 60, 20_000);
    world.hold_mail = true;
    let mut rounds = 0;
    while !go_on(&mut talks, &mut world) {
        world.step();
        rounds += 1;
        // The lanes do not come to their mailboxes for long times.
        world.hold_mail = rounds % 3000 != 0;
        assert!(rounds < 2_000_000, "it goes on");
    }
    world.hold_mail = false;
    assert!(world.dropped(DropReason::LaneMailFull) > 0, "the mailboxes were full at times");
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn groups_move_under_traffic_and_no_byte_is_lost() {
    for seed in 0..12 {
        let mut world = World::new(1000 + seed, 4, 64);
        world.misdirect = seed % 3 == 0;
        world.loss_ppm = [0, 10_000, 50_000][seed as usize % 3];
        let listeners = world.listen(80);
        let ports = FIRST_PORT..FIRST_PORT + CLIENTS;
        let clients: Vec<Sock> = ports.map(|port| world.connect((0, 0), port, 80)).collect();
        let mut talks: Vec<Talk> = Vec::new();
        let (mut moves, mut moved) = (0, 0);
        loop {
            let done = go_on(&mut talks, &mut world);
            if done && talks.len() == clients.len() {
                break;
            }
            world.step();
            // Some time passes before the program accepts, so connections move in listeners' queues as well.
            if world.rng.chance_ppm(200_000) {
                accept(&mut world, &listeners, |world, port, server| {
                    let client = clients[usize::from(port - FIRST_PORT)];
                    let pattern = world.rng.next_u64() >> 1;
                    talks.push(Talk::new(client, server, pattern, 50_000));
                });
            }
            if world.rng.chance_ppm(100_000) {
                let port = FIRST_PORT + world.rng.below(u64::from(CLIENTS)) as u16;
                let group = world.group_of(port);
                let from = world.machines[1].directory().lane_of(group).unwrap().0;
                let to = (from + 1 + world.rng.below(3) as u16) % 4;
                let now = world.now;
                moved += world.machines[1].pair((from, to), now, |a, b| a.move_group(b, group)).unwrap();
                moves += 1;
                assert_eq!(world.machines[1].directory().lane_of(group), Some(LaneId(to)));
            }
        }
        assert!(moves > 20 && moved > 20, "seed {seed}: {moved} connections in {moves} moves");
        finish(&mut world, &mut talks, &listeners);
        assert_eq!(world.resets, 0, "no peer was reset");
    }
}

#[test]
fn events_and_closed_connections_move_too() {
    let (mut world, listeners, mut talks) = one(7);
    let mut server = talks[0].ends[1];
    let (from, to) = (server.lane, 1 - server.lane);
    world.on((1, from), |e| assert!(e.set_event_queue(server.name, 3, 77)));
    // Data comes before the move, unread, with its event; the event is then the new lane's.
    world.on((0, 0), |e| e.tcp_send(talks[0].ends[0].name, b"before", false)).unwrap();
    world.run(Duration::from_millis(1));
    assert_eq!(move_first(&mut world, (from, to)), Ok(1));
    assert_eq!(world.on((1, from), |e| e.poll_event(3)), None);
    assert!(!world.on((1, from), |e| e.exists(server.name)));
    world.follow(&mut server);
    assert_eq!(server.lane, to);
    let event = world.on((1, to), |e| e.poll_event(3)).unwrap();
    assert_eq!((event.token, event.sock), (77, server.name));
    let mut buf = [0; 10];
    assert_eq!(world.on((1, to), |e| e.tcp_recv(server.name, &mut buf, false)), Ok(6));
    assert_eq!(&buf[..6], b"before");
    // We close first: the connection has no program any more, moves in FIN-WAIT and in TIME-WAIT, and ends there.
    world.on((1, to), |e| e.close(server.name));
    assert_eq!(move_first(&mut world, (to, from)), Ok(1));
    world.run(Duration::from_millis(1));
    world.close(talks[0].ends[0]);
    world.run(Duration::from_millis(10));
    assert_eq!(move_first(&mut world, (from, to)), Ok(1), "in TIME-WAIT");
    talks.clear();
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn segments_that_come_late_to_the_lane_that_had_their_connection_go_after_it() {
    let (mut world, listeners, mut talks) = one(7);
    let mut server = talks[0].ends[1];
    let (from, to) = (server.lane, 1 - server.lane);
    let client = talks[0].ends[0].name;
    let mut buf = [0; 200];
    // Enough of them that the lane knows their flow when it sees them.
    for _ in 0..8 {
        world.on((0, 0), |e| e.tcp_send(client, b"usual", false)).unwrap();
        world.run(Duration::from_millis(1));
        assert_eq!(world.on((1, from), |e| e.tcp_recv(server.name, &mut buf, false)), Ok(5));
    }
    assert_eq!(move_first(&mut world, (from, to)), Ok(1));
    // The program has not asked yet where its connection is.
    world.misdirect = true;
    for _ in 0..20 {
        world.on((0, 0), |e| e.tcp_send(client, b"later", false)).unwrap();
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.resets, 0, "the peer is not reset by the old lane");
    world.follow(&mut server);
    let mut came = 0;
    while let Ok(n @ 1..) = world.on((1, to), |e| e.tcp_recv(server.name, &mut buf, false)) {
        came += n;
    }
    assert_eq!(came, 100);
    talks.clear();
    world.close(server);
    world.on((0, 0), |e| e.close(client));
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn urgent_data_move_with_their_connection() {
    let (mut world, listeners, mut talks) = one(7);
    let mut server = talks[0].ends[1];
    let (from, to) = (server.lane, 1 - server.lane);
    let client = talks[0].ends[0].name;
    world.on((0, 0), |e| e.tcp_send_urgent(client, b"abcU", false)).unwrap();
    world.run(Duration::from_millis(1));
    // One that is under way each way while the connection moves.
    world.on((1, from), |e| e.tcp_send_urgent(server.name, b"xyzV", false)).unwrap();
    assert_eq!(move_first(&mut world, (from, to)), Ok(1));
    world.follow(&mut server);
    assert_eq!(world.on((1, to), |e| e.audit(true)), Ok(()));
    let mut buf = [0; 10];
    assert_eq!(world.on((1, to), |e| e.tcp_recv(server.name, &mut buf, false)), Ok(3));
    assert!(world.on((1, to), |e| e.tcp_at_mark(server.name)));
    assert_eq!(world.on((1, to), |e| e.tcp_recv_urgent(server.name, false)), Ok(Some(b'U')));
    world.run(Duration::from_millis(10));
    assert_eq!(world.on((0, 0), |e| e.tcp_recv_urgent(client, false)), Ok(Some(b'V')));
    assert_eq!(world.on((0, 0), |e| e.tcp_recv(client, &mut buf, false)), Ok(3));
    world.on((1, to), |e| e.close(server.name));
    world.close(talks[0].ends[0]);
    talks.clear();
    finish(&mut world, &mut talks, &listeners);
}

/// The program's limit, what BBR knows of the path, and when the next segment may go.
#[test]
fn a_connection_that_moves_keeps_its_pace() {
    for (algorithm, limit) in
        [(Algorithm::Reno, 2_000_000), (Algorithm::Bbr, u64::MAX), (Algorithm::Bbr, 2_000_000)]
    {
        let mut world = World::new(9, 2, 64);
        world.misdirect = false;
        let listeners = world.listen(80);
        let mut talks = open(&mut world, &listeners, 1, 200_000);
        let mut server = talks[0].ends[1];
        let (from, to) = (server.lane, 1 - server.lane);
        let mut options = TcpOptions { congestion: algorithm as u8, ..TcpOptions::default() };
        options.set_max_pacing_rate(limit);
        world.on((1, from), |e| e.set_tcp_options(server.name, &options));
        for _ in 0..60 {
            go_on(&mut talks, &mut world);
            world.step();
        }
        let before = world.on((1, from), |e| e.tcp_info(server.name)).unwrap().congestion;
        assert!(before.pacing_rate < u64::MAX && before.max_pacing_rate == limit, "{before:?}");
        assert_eq!(move_first(&mut world, (from, to)), Ok(1));
        world.follow(&mut server);
        talks[0].ends[1] = server;
        let after = world.on((1, to), |e| e.tcp_info(server.name)).unwrap().congestion;
        assert_eq!(after, before, "{algorithm:?}");
        assert_eq!(world.on((1, to), |e| e.audit(true)), Ok(()));
        while !go_on(&mut talks, &mut world) {
            world.step();
        }
        finish(&mut world, &mut talks, &listeners);
    }
}

#[test]
fn a_connection_that_moved_is_closed_by_its_new_name_only_and_its_old_row_is_free_once_asked_for() {
    let (mut world, listeners, mut talks) = one(8);
    let mut server = talks[0].ends[1];
    let old = server;
    let (from, to) = (server.lane, 1 - server.lane);
    let open_at = |world: &mut World, lane| world.on((1, lane), |e| e.counters().tcp.open);
    assert_eq!(move_first(&mut world, (from, to)), Ok(1));
    // The old lane does not reach the connection: it ends neither, and the note of where it went is not lost.
    world.on((1, from), |e| e.close(old.name));
    world.on((1, from), |e| e.abort(old.name));
    world.run(Duration::from_millis(1));
    assert_eq!((open_at(&mut world, from), open_at(&mut world, to)), (1, 1));
    world.follow(&mut server);
    assert_eq!((server.lane, open_at(&mut world, from)), (to, 0), "the row is given up");
    assert_eq!(world.on((1, from), |e| e.take_moved(old.name)), None);
    world.on((0, 0), |e| e.tcp_send(talks[0].ends[0].name, b"still open", false)).unwrap();
    world.run(Duration::from_millis(1));
    let mut buf = [0; 16];
    assert_eq!(world.on((1, to), |e| e.tcp_recv(server.name, &mut buf, false)), Ok(10));
    world.on((1, to), |e| e.close(server.name));
    world.close(talks[0].ends[0]);
    talks.clear();
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn one_connection_moves_and_the_others_of_its_lane_stay() {
    let mut world = World::new(8, 2, 64);
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 8, 1000);
    let moves = talks[0].ends[1];
    let (from, to) = (moves.lane, 1 - moves.lane);
    let open_at = |world: &mut World, lane| world.on((1, lane), |e| e.counters().tcp.open);
    let before = (open_at(&mut world, from), open_at(&mut world, to));
    let now = world.now;
    let name = world.machines[1].pair((from, to), now, |a, b| a.move_connection(b, moves.name)).unwrap();
    assert_eq!(world.on((1, from), |e| e.take_moved(moves.name)), Some((LaneId(to), name)));
    assert_eq!((open_at(&mut world, from), open_at(&mut world, to)), (before.0 - 1, before.1 + 1));
    // A name that is nothing, because it went already, moves nothing.
    assert_eq!(world.machines[1].pair((from, to), now, |a, b| a.move_connection(b, moves.name)), None);
    // Frames come by group here, so it goes on where its group is.
    let back = world.machines[1].pair((to, from), now, |a, b| a.move_connection(b, name)).unwrap();
    assert_eq!(world.on((1, to), |e| e.take_moved(name)), Some((LaneId(from), back)));
    talks[0].ends[1] = Sock { name: back, ..moves };
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn a_group_that_cannot_move_whole_stays() {
    let mut world = World::new(9, 2, 16);
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 8, 1000);
    let lane = talks[0].ends[1].lane;
    let port = world.on((0, 0), |e| e.names(talks[0].ends[0].name)).unwrap().0.port.0;
    let group = world.group_of(port);
    let now = world.now;
    let same = world.machines[1].directory();
    // The other lane is full: its rows are taken by connections that nobody answers.
    let mut taken = Vec::new();
    for n in 0..16 {
        let (l, r) = (world.end(1, 50_000 + n), world.end(0, 9));
        let (mac, route) = (None, r.addr);
        let route = engine::RouteTo {
            port: 0,
            next_hop: route,
            local_mac: base::MacAddr([2, 0, 0, 0, 0, 2]),
            mac,
            mtu: 0,
        };
        taken.extend(world.on((1, 1 - lane), |e| e.tcp_connect(l, r, &route, &Default::default())).ok());
    }
    let outcome = world.machines[1].pair((lane, 1 - lane), now, |a, b| a.move_group(b, group));
    assert_eq!(outcome, Err(MoveError::NoRoom));
    assert_eq!(same.lane_of(group), Some(LaneId(lane)), "the directory says so still");
    let outcome = world.machines[1].pair((1 - lane, lane), now, |a, b| a.move_group(b, Group::Slot(63)));
    assert!(matches!(outcome, Ok(_) | Err(MoveError::NoRoom)));
    taken.into_iter().for_each(|s| world.on((1, 1 - lane), |e| e.abort(s)));
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn connections_that_hibernate_move_under_their_group() {
    let mut world = World::with(5, 3, many::shape(64, 64));
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 6, 3000);
    world.run(Duration::from_secs(1));
    for lane in 0..3 {
        world.on((1, lane), |e| e.hibernate_idle(u32::MAX));
    }
    let asleep: u64 = (0..3).map(|lane| world.on((1, lane), |e| e.counters().tcp.dormant)).sum();
    assert_eq!(asleep, 6);
    for round in 0..4 {
        for n in 0..6 {
            let group = world.group_of(FIRST_PORT + n);
            let from = world.machines[1].directory().lane_of(group).unwrap().0;
            let now = world.now;
            let moved = world.machines[1].pair((from, (from + 1) % 3), now, |a, b| a.move_group(b, group));
            assert!(moved.is_ok_and(|moved| moved > 0), "round {round}: {moved:?}");
        }
        for talk in &mut talks {
            world.follow(&mut talk.ends[1]);
        }
        for lane in 0..3 {
            world.on((1, lane), |e| e.hibernate_idle(round));
        }
    }
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    finish(&mut world, &mut talks, &listeners);
    assert_eq!(world.resets, 0);
}

#[test]
fn those_that_wait_in_time_wait_move_with_their_group_and_end_in_time() {
    let mut world = World::with(6, 2, many::shape(64, 64));
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 6, 500);
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    // The server's ends close first.
    for side in [1, 0] {
        talks.iter().for_each(|talk| world.close(talk.ends[side]));
        world.run(Duration::from_millis(300));
    }
    let mut waiting = || [0, 1].map(|lane| world.on((1, lane), |e| e.mem().globals.dormant.waiting));
    assert_eq!(waiting().iter().sum::<u32>(), 6);
    let group = world.group_of(FIRST_PORT);
    let from = world.machines[1].directory().lane_of(group).unwrap().0;
    let now = world.now;
    let moved = world.machines[1].pair((from, 1 - from), now, |a, b| a.move_group(b, group));
    assert!(moved.is_ok_and(|moved| moved > 0), "{moved:?}");
    let mut open = || [0, 1].map(|lane| world.on((1, lane), |e| e.counters().tcp.open)).iter().sum::<u64>();
    assert_eq!(open(), 6);
    world.run(Duration::from_secs(61));
    let mut open = || [0, 1].map(|lane| world.on((1, lane), |e| e.counters().tcp.open)).iter().sum::<u64>();
    assert_eq!(open(), 0);
    finish(&mut world, &mut [], &listeners);
}

#[test]
fn a_flow_that_is_most_of_a_lane_is_seen_as_an_elephant() {
    let mut world = World::new(11, 2, 64);
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 6, 4000);
    let heavy = talks[0].ends[1];
    for lane in 0..2 {
        world.on((1, lane), |e| e.take_load());
    }
    let slots = world.on((1, heavy.lane), |e| e.take_load()).slots;
    assert_eq!(slots.iter().sum::<u64>(), 0, "what was told is forgotten");
    talks[0].flows[0] = net::Flow::new(net::pattern(1, 3_000_000));
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    let port = world.on((0, 0), |e| e.names(talks[0].ends[0].name)).unwrap().0.port;
    let load = world.on((1, heavy.lane), |e| e.take_load());
    let (flow, packets) = load.elephant.unwrap();
    assert_eq!((flow.remote_port, flow.local_port.0), (port, 80));
    assert!(packets * 10 > load.slots.iter().sum::<u64>() * 9);
    let Group::Slot(slot) = world.group_of(port.0) else { panic!("a slot") };
    assert!(load.slots[usize::from(slot)] >= packets);
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn packets_that_come_to_their_lanes_write_no_line_of_another_lane() {
    let mut world = World::new(13, 8, 64);
    world.misdirect = false;
    let listeners = world.listen(80);
    let mut talks = open(&mut world, &listeners, 24, 400_000);
    let packets = |world: &mut World| -> u64 {
        let count = |e: &mut engine::Engine<'_>| e.counters().rx_packets + e.counters().tx_packets;
        (0..8).map(|lane| world.on((1, lane), count)).sum()
    };
    let (before, changes) = (packets(&mut world), world.pool_changes(1));
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    let count = packets(&mut world) - before;
    // The shared pool moves 64 frames at a time, and only where a lane runs dry or over.
    let changes = u64::from(world.pool_changes(1).wrapping_sub(changes));
    assert!(count > 10_000 && changes * 200 < count, "{changes} changes of the pool for {count} packets");
    assert_eq!(handed(&mut world), 0, "nothing went through a mailbox");
    finish(&mut world, &mut talks, &listeners);
}

#[test]
fn what_waits_at_a_listener_goes_to_its_twin_and_no_byte_is_lost() {
    assert_eq!(what_waits_goes_to_the_twin(many::shape(64, 0)), (0, 0));
}

#[test]
fn what_is_half_open_goes_to_the_twin_in_its_small_row() {
    let (before, after) = what_waits_goes_to_the_twin(many::shape(64, 128));
    assert!(before > 0 && after >= before, "{before} and then {after}");
}

/// Connections on their way to two listeners, of which one closes. Gives how many were half open in small rows there, and how many at the other
/// one once it had all.
fn what_waits_goes_to_the_twin(shape: state::LaneShape) -> (u32, u32) {
    let mut world = World::with(77, 2, shape);
    let listeners = world.listen(80);
    let ports = FIRST_PORT..FIRST_PORT + CLIENTS;
    let clients: Vec<Sock> = ports.map(|port| world.connect((0, 0), port, 80)).collect();
    let waiting = |world: &mut World, lane: u16| {
        let mut flows = Vec::new();
        world.on((1, lane), |e| e.waiting_flows(listeners[usize::from(lane)], |flow| flows.push(*flow)));
        flows
    };
    while waiting(&mut world, 0).len() + waiting(&mut world, 1).len() < clients.len() {
        world.step();
    }
    let flows = waiting(&mut world, 1);
    assert!(!flows.is_empty(), "some came to lane 1");
    let now = world.now;
    let before = world.on((1, 1), |e| e.mem().globals.dormant.half_open);
    let moved = world.machines[1].pair((1, 0), now, |a, b| a.hand_on(b, listeners[1], |_| true));
    assert_eq!(moved as usize, flows.len());
    let after = world.on((1, 0), |e| e.mem().globals.dormant.half_open);
    (0..2).for_each(|lane| assert_eq!(world.on((1, lane), |e| e.audit(true)), Ok(())));
    for flow in &flows {
        world.machines[1].directory().give(world.group_of(flow.remote_port.0), Some(LaneId(0)));
    }
    world.on((1, 1), |e| e.close(listeners[1]));
    let mut talks = Vec::new();
    // Some of them were half open.
    while talks.len() < clients.len() {
        world.step();
        accept(&mut world, &listeners[..1], |world, port, server| {
            let seed = world.rng.next_u64() >> 1;
            talks.push(Talk::new(clients[usize::from(port - FIRST_PORT)], server, seed, 20_000));
        });
    }
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    finish(&mut world, &mut talks, &listeners[..1]);
    assert_eq!(world.resets, 0);
    (before, after)
}

/// Two that close at once: what the first hands to the second after that has looked for the last time would be reset.
#[test]
fn a_listener_that_is_about_to_close_is_handed_nothing_and_closes_only_when_nothing_waits() {
    for shape in [many::shape(64, 0), many::shape(64, 128)] {
        let mut world = World::with(79, 2, shape);
        let listeners = world.listen(80);
        let local = Endpoint { addr: IpAddress::ANY, port: Port(80) };
        assert!(world.on((1, 1), |e| e.listens_at(local)));
        world.on((1, 1), |e| e.tcp_begin_close(listeners[1]));
        assert!(!world.on((1, 1), |e| e.listens_at(local)), "nothing is to be handed to it");
        // What the steering has sent there already is taken, half open, then whole.
        for n in 0..16 {
            world.connect((0, 0), FIRST_PORT + n, 80);
        }
        let waits = |world: &mut World| {
            let mut count = 0;
            world.on((1, 1), |e| e.waiting_flows(listeners[1], |_| count += 1));
            count
        };
        while waits(&mut world) == 0 {
            world.step();
        }
        assert!(!world.on((1, 1), |e| e.tcp_close_if_idle(listeners[1])), "half open ones wait");
        let unaccepted = |world: &mut World| {
            let mut count = 0;
            world.on((1, 1), |e| e.unaccepted_flows(listeners[1], |_| count += 1));
            count
        };
        while unaccepted(&mut world) < waits(&mut world) {
            world.step();
        }
        assert!(!world.on((1, 1), |e| e.tcp_close_if_idle(listeners[1])), "whole ones wait");
        while world.on((1, 1), |e| e.tcp_accept(listeners[1])).is_ok() {}
        assert!(world.on((1, 1), |e| e.tcp_close_if_idle(listeners[1])));
        assert!(world.on((1, 1), |e| e.tcp_close_if_idle(listeners[1])), "it is closed");
        assert_eq!(world.on((1, 1), |e| e.tcp_accept(listeners[1])), Err(AcceptError::Gone));
        assert_eq!(world.resets, 0);
    }
}

#[test]
fn a_half_open_connection_moves_with_its_group() {
    let mut world = World::with(78, 2, many::shape(64, 64));
    world.misdirect = false;
    let listeners = world.listen(80);
    let client = world.connect((0, 0), FIRST_PORT, 80);
    let half_open = |world: &mut World, lane: u16| world.on((1, lane), |e| e.mem().globals.dormant.half_open);
    while half_open(&mut world, 0) + half_open(&mut world, 1) == 0 {
        world.step();
    }
    let group = world.group_of(FIRST_PORT);
    let from = world.machines[1].directory().lane_of(group).unwrap().0;
    let now = world.now;
    world.on((1, 1 - from), |e| e.close(listeners[usize::from(1 - from)]));
    let moved = world.machines[1].pair((from, 1 - from), now, |a, b| a.move_group(b, group));
    assert_eq!(moved, Err(MoveError::NoListener));
    let there = world.on((1, 1 - from), |e| {
        let local = Endpoint { addr: IpAddress::ANY, port: Port(80) };
        e.tcp_listen(local, 512, &TcpOptions::default()).unwrap()
    });
    let moved = world.machines[1].pair((from, 1 - from), now, |a, b| a.move_group(b, group));
    assert_eq!((moved, half_open(&mut world, from)), (Ok(1), 0));
    let mut talks = Vec::new();
    while talks.is_empty() {
        world.step();
        let found = world.on((1, 1 - from), |e| e.tcp_accept(there));
        talks.extend(found.map(|found| {
            let server = Sock { machine: 1, lane: 1 - from, name: found.sock };
            Talk::new(client, server, 5, 20_000)
        }));
    }
    while !go_on(&mut talks, &mut world) {
        world.step();
    }
    let mut listeners = listeners;
    listeners[usize::from(1 - from)] = there;
    finish(&mut world, &mut talks, &listeners);
    assert_eq!(world.resets, 0);
}

/// A peer that opens another connection over a wire to another lane is done with the one that is in TIME-WAIT here.
#[test]
fn a_connection_in_time_wait_gives_its_name_to_one_that_comes_from_another_lane() {
    // In a small row, and in its own.
    for shape in [many::shape(64, 64), many::shape(64, 0)] {
        let mut world = World::with(12, 2, shape);
        world.misdirect = false;
        let listeners = world.listen(80);
        let mut talks = open(&mut world, &listeners, 2, 500);
        let ends: Vec<Sock> = talks.iter().map(|talk| talk.ends[1]).collect();
        let flows = ends.iter().map(|end| {
            let (local, remote) = world.on((1, end.lane), |e| e.names(end.name)).unwrap();
            let (local_port, remote_port) = (local.port, remote.port);
            state::FlowKey { local: local.addr, remote: remote.addr, local_port, remote_port }
        });
        let flows: Vec<state::FlowKey> = flows.collect();
        assert!(!world.on((1, ends[1].lane), |e| e.make_way(&flows[1])), "it is open");
        while !go_on(&mut talks, &mut world) {
            world.step();
        }
        // The server's end of the first closes first.
        world.close(talks[0].ends[1]);
        world.run(Duration::from_millis(300));
        world.close(talks[0].ends[0]);
        world.run(Duration::from_millis(300));
        let open_at = |world: &mut World, lane| world.on((1, lane), |e| e.counters().tcp.open);
        let lane = ends[0].lane;
        let before = open_at(&mut world, lane);
        assert!(world.on((1, 1 - lane), |e| e.make_way(&flows[0])), "nobody has it there");
        assert!(world.on((1, lane), |e| e.make_way(&flows[0])));
        assert_eq!(open_at(&mut world, lane), before - 1);
        assert!(world.on((1, lane), |e| e.make_way(&flows[0])), "it is gone");
        finish(&mut world, &mut talks[1..], &listeners);
    }
}
