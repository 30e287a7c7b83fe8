//! SYN floods: cookies (RFC 4987 3.6), and what they must not disturb.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use std::net::Ipv4Addr;

use base::{Duration, IpAddress, Port, Rng, SeqNum};
use engine::State;
use net::{Net, Packet, Setup, finish_checksum, forged, forged_with, pattern};
use state::SockRef;
use wire::{IpProtocol, Ipv4Header, TcpFlags, TcpHeader, Timestamps};

const ROWS: u32 = 64;
const S: Setup = Setup { super_segment_max: 0, socks: ROWS, ..Setup::USUAL };

/// A SYN for port 80 of host 1 from somebody who will never answer.
fn stranger(net: &Net, rng: &mut Rng) -> Packet {
    let header = TcpHeader {
        src_port: Port(1 + rng.below(65_535) as u16),
        dst_port: Port(80),
        seq: SeqNum(rng.next_u64() as u32),
        ack: SeqNum(0),
        flags: TcpFlags::SYN,
        window: 65_535,
        urgent: 0,
    };
    let timestamps = (rng.below(2) == 0).then_some(Timestamps { value: 77, echo: 0 });
    let options = wire::TcpOptions { mss: Some(1460), timestamps, ..wire::TcpOptions::NONE };
    let mut packet = forged_with(&net.hosts[0], &net.hosts[1], &header, &options, &[]);
    let len = packet.bytes.len() - 34;
    let from = Ipv4Addr::from_bits(0x0a01_0000 | rng.below(0xffff) as u32);
    let ends = (from, net.hosts[1].addr.as_v4().unwrap());
    Ipv4Header::plain(ends, IpProtocol::TCP, len as u16).emit(&mut packet.bytes[14..]).unwrap();
    finish_checksum(&mut packet.bytes);
    packet
}

/// Hands `count` SYNs of strangers to host 1; what it answers goes nowhere.
fn flood(net: &mut Net, rng: &mut Rng, count: u32) {
    for _ in 0..count {
        let packet = stranger(net, rng);
        net.deliver(1, &packet);
        net.flush(1);
    }
}

/// Lets pass what is between the hosts themselves.
fn hosts_only(net: &mut Net) {
    let ours = [net.hosts[0].addr, net.hosts[1].addr];
    net.filter = Some(Box::new(move |_, p| {
        wire::Ipv4Packet::parse(&p.bytes[14..]).is_ok_and(|ip| !ours.contains(&IpAddress::from_v4(ip.dst())))
    }));
}

fn carry(net: &mut Net, (a, b): (SockRef, SockRef), seed: u64) {
    let data = pattern(seed, 20_000);
    net.send(0, a, &data).unwrap();
    let mut got = Vec::new();
    while got.len() < data.len() {
        match net.recv(1, b, 30_000) {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => assert!(net.step()),
        }
    }
    assert!(got == data);
}

#[test]
fn a_flood_of_a_hundred_times_the_table_harms_nobody() {
    a_flood_harms_nobody(&S);
}

#[test]
fn a_flood_harms_nobody_where_half_open_connections_have_small_rows() {
    a_flood_harms_nobody(&Setup { dormant: 63, ..S });
}

fn a_flood_harms_nobody(setup: &Setup) {
    let mut net = Net::new(1, setup);
    let mut rng = Rng::new(4);
    let listener = net.listen(1, 80, 128);
    let old: Vec<_> = (0..8).map(|n| net.open_to(listener, 30_000 + n)).collect();
    hosts_only(&mut net);
    let mut fresh = Vec::new();
    for round in 0..20_u16 {
        flood(&mut net, &mut rng, 100 * ROWS / 20);
        let s = net.connect(0, 40_000 + round, 80).unwrap();
        flood(&mut net, &mut rng, 5);
        net.run(Duration::from_millis(20));
        assert_eq!(net.state(0, s), Some(State::Established), "round {round}");
        fresh.push((s, net.accept(1, listener).unwrap()));
        for (n, pair) in old.iter().chain(&fresh).enumerate() {
            carry(&mut net, *pair, u64::from(round) << 8 | n as u64);
        }
    }
    let c = net.on(1, |e| e.counters().tcp);
    assert!(c.cookies_out > 5000 && c.cookies_in == 20, "{c:?}");
    assert_eq!((c.resets, c.table_full), (0, 0));
    // The half-open ones end, the others stay.
    net.run(Duration::from_secs(90));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 28);
}

#[test]
fn a_connection_by_cookie_has_the_options_that_were_offered() {
    let mut net = Net::new(2, &S);
    let mut rng = Rng::new(5);
    let listener = net.listen(1, 80, 4);
    flood(&mut net, &mut rng, 20);
    hosts_only(&mut net);
    let (a, b) = net.open_to(listener, 40_000);
    assert_eq!(net.on(1, |e| e.counters().tcp.cookies_in), 1);
    let (there, here) = (net.on(0, |e| e.tcp_info(a)).unwrap(), net.on(1, |e| e.tcp_info(b)).unwrap());
    assert!(here.timestamps && here.sack && there.timestamps && there.sack);
    assert_eq!((here.snd_shift, here.rcv_shift), (there.rcv_shift, there.snd_shift));
    assert_eq!(here.snd_mss, there.snd_mss);
    carry(&mut net, (a, b), 9);
}

#[test]
fn data_may_complete_a_handshake_by_cookie() {
    let mut net = Net::new(3, &S);
    let mut rng = Rng::new(6);
    let listener = net.listen(1, 80, 4);
    flood(&mut net, &mut rng, 20);
    hosts_only(&mut net);
    // The ACK of the handshake is lost; what the client sends then brings the same numbers.
    let mut acks = 0;
    net.filter = Some(Box::new(move |from, p| {
        let bare = from == 0 && p.tcp().is_some_and(|t| t.flags() == TcpFlags::ACK && t.payload().is_empty());
        acks += u32::from(bare);
        bare && acks == 1
    }));
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(5));
    assert!(net.accept(1, listener).is_err());
    net.send(0, a, b"hello").unwrap();
    net.run(Duration::from_millis(5));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 10), Ok(b"hello".to_vec()));
}

#[test]
fn a_cookies_client_that_finds_the_accept_queue_full_waits_and_is_not_reset() {
    let mut net = Net::new(4, &S);
    let mut rng = Rng::new(8);
    let listener = net.listen(1, 80, 1);
    flood(&mut net, &mut rng, 20);
    let syn = |net: &mut Net, port| {
        hosts_only(net);
        net.connect(0, port, 80).unwrap()
    };
    let a = syn(&mut net, 40_000);
    // Its handshake ends when the queue is full.
    let bare_ack = |from, p: &Packet| {
        from == 0 && p.tcp().is_some_and(|t| t.src_port() == Port(40_000) && !t.flags().is_syn())
    };
    net.filter = Some(Box::new(move |from, p| bare_ack(from, p)));
    net.run(Duration::from_millis(5));
    assert_eq!(net.state(0, a), Some(State::Established));
    let others = [40_001, 40_002].map(|port| syn(&mut net, port));
    net.run(Duration::from_millis(5));
    net.send(0, a, &pattern(1, 7000)).unwrap();
    net.run(Duration::from_millis(50));
    assert_eq!(net.state(0, a), Some(State::Established), "its segments wait");
    // What comes after the first segment waits, too, when there is room again.
    let first = [net.accept(1, listener).unwrap(), net.accept(1, listener).unwrap()];
    net.run(Duration::from_secs(5));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 8000), Ok(pattern(1, 7000)));
    assert_eq!((others.len(), first.len()), (2, 2));
}

#[test]
fn a_cookie_is_good_for_its_connection_and_for_two_minutes_only() {
    for (late, other, good) in [(10, 0, true), (0, 1, false), (130, 0, false)] {
        let mut net = Net::new(4, &S);
        let mut rng = Rng::new(7);
        let listener = net.listen(1, 80, 4);
        flood(&mut net, &mut rng, 20);
        net.keep_trace = true;
        net.filter = Some(Box::new(|_, _| true));
        let syn = forged(&net, 0, (40_000, 80), (SeqNum(500), SeqNum(0)), TcpFlags::SYN, &[]);
        net.deliver(1, &syn);
        net.flush(1);
        let answer = *net.segments().last().unwrap();
        assert_eq!((answer.flags, answer.ack), (TcpFlags::SYN | TcpFlags::ACK, SeqNum(501)));
        assert_eq!(answer.options.window_scale, None);
        net.run(Duration::from_secs(late));
        let numbers = (SeqNum(501), answer.seq.plus(1));
        let ack = forged(&net, 0, (40_000 + other, 80), numbers, TcpFlags::ACK, &[]);
        net.deliver(1, &ack);
        net.flush(1);
        assert_eq!(net.accept(1, listener).is_ok(), good, "{late} {other}");
        if !good {
            assert!(net.segments().last().unwrap().flags.is_rst());
        }
    }
}

#[test]
fn without_a_flood_nothing_is_opened_by_guessing() {
    let mut net = Net::new(5, &S);
    let listener = net.listen(1, 80, 4);
    let mut rng = Rng::new(8);
    for _ in 0..10_000 {
        let numbers = (SeqNum(rng.next_u64() as u32), SeqNum(rng.next_u64() as u32));
        let ack = forged(&net, 0, (40_000, 80), numbers, TcpFlags::ACK, &[]);
        net.deliver(1, &ack);
        net.flush(1);
    }
    let c = net.on(1, |e| e.counters().tcp);
    assert_eq!((c.cookies_in, c.cookies_bad, c.passive_opens), (0, 0, 0));
    assert!(net.accept(1, listener).is_err());
}

#[test]
fn a_lane_gives_no_cookie_or_one_for_every_syn_if_it_is_told_to() {
    for cookies in [1, 2] {
        let mut net = Net::new(77, &S);
        net.on(1, |e| e.set_usual(&state::Usual { cookies, ..state::Usual::NONE }));
        let listener = net.listen(1, 80, 16);
        hosts_only(&mut net);
        let mut rng = Rng::new(5);
        flood(&mut net, &mut rng, 100);
        let c = net.on(1, |e| e.counters().tcp);
        let refused = net.dropped(1, state::DropReason::TcpBacklogFull);
        // Without cookies one more than the backlog waits half-open, as many as in Linux.
        let wanted = if cookies == 1 { (0, 100 - 17) } else { (100, 0) };
        assert_eq!((c.cookies_out, refused), wanted, "{cookies}");
        if cookies == 2 {
            let a = net.connect(0, 40_000, 80).unwrap();
            net.run(Duration::from_millis(50));
            let b = net.accept(1, listener).unwrap();
            carry(&mut net, (a, b), 3);
            assert_eq!(net.on(1, |e| e.counters().tcp.cookies_in), 1);
        }
    }
}
