//! TCP Fast Open (RFC 7413) between two engines: what packet scripts do not show.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Port, SeqNum};
use engine::{RecvError, SendError, SockError, State};
use net::{Faults, Net, Setup, forged_with, pattern};
use state::{SockRef, TcpOptions};
use wire::{FastOpen, TcpFlags, TcpHeader};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };

/// A net whose host 1 listens with fast open for `max` connections.
fn fast_net(seed: u64, max: u32) -> (Net, SockRef) {
    let mut net = Net::new(seed, &S);
    let listener = net.listen(1, 80, 16);
    net.on(1, |e| {
        e.set_fast_open(3);
        assert!(e.tcp_set_fast_open(listener, max, &[]));
    });
    (net, listener)
}

/// Begins to connect from port `local` of host 0 with fast open, and writes `data`.
fn begin(net: &mut Net, local: u16, data: &[u8]) -> (SockRef, Result<usize, SendError>) {
    let (route, l, r) = (net.route(0), net.hosts[0].end(local), net.hosts[1].end(80));
    let (sock, _) = net.on(0, |e| e.tcp_connect_fast(l, r, &route, &TcpOptions::default())).unwrap();
    let sent = net.send(0, sock, data);
    (sock, sent)
}

/// Gets host 0 a cookie by a connection from port `local`.
fn get_cookie(net: &mut Net, listener: SockRef, local: u16) {
    let (a, sent) = begin(net, local, b"x");
    assert_eq!(sent, Err(SendError::WouldBlock), "there is no cookie yet");
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    net.on(0, |e| e.abort(a));
    net.run(Duration::from_millis(10));
    net.close(1, b);
}

#[test]
fn a_request_is_answered_in_one_round_trip() {
    let (mut net, listener) = fast_net(1, 4);
    get_cookie(&mut net, listener, 1000);
    let begun = net.now;
    let (a, sent) = begin(&mut net, 1001, b"request");
    assert_eq!(sent, Ok(7));
    net.step();
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 100).unwrap(), b"request");
    net.send(1, b, b"answer").unwrap();
    net.run(Duration::from_micros(60));
    assert_eq!(net.recv(0, a, 100).unwrap(), b"answer");
    assert!(net.now.since(begun) < Duration::from_micros(200), "two ways of 50 us");
    for (host, sock) in [(0, a), (1, b)] {
        assert!(net.on(host, |e| e.tcp_info(sock)).unwrap().syn_data);
        net.close(host, sock);
    }
    net.close(1, listener);
    net.run(Duration::from_secs(120));
    net.assert_clean(&S);
}

#[test]
fn streams_are_whole_whatever_the_wire_does() {
    for seed in 0..30 {
        let (mut net, listener) = fast_net(seed, 4);
        get_cookie(&mut net, listener, 1000);
        net.faults = Faults {
            loss_ppm: 100_000,
            dup_ppm: 50_000,
            reorder_ppm: 100_000,
            delay: Duration::from_millis(5),
            ..Faults::NONE
        };
        let (there, back) = (pattern(seed, 40_000), pattern(seed + 1000, 30_000));
        let (a, sent) = begin(&mut net, 1001, &there);
        let (mut sent, mut answered) = (sent.unwrap_or(0), 0);
        let (mut b, mut got, mut heard) = (None, Vec::new(), Vec::new());
        for _ in 0..200_000 {
            if got.len() == there.len() && heard.len() == back.len() {
                break;
            }
            assert!(net.step(), "seed {seed}: stuck with {} and {}", got.len(), heard.len());
            if b.is_none() {
                b = net.accept(1, listener).ok();
            }
            sent += net.send(0, a, &there[sent..]).unwrap_or(0);
            heard.extend(net.recv(0, a, 4000).unwrap_or_default());
            if let Some(b) = b {
                answered += net.send(1, b, &back[answered..]).unwrap_or(0);
                got.extend(net.recv(1, b, 4000).unwrap_or_default());
            }
        }
        assert!(got == there && heard == back, "seed {seed}");
        net.close(0, a);
        net.close(1, b.unwrap());
        net.close(1, listener);
        net.run(Duration::from_secs(1000));
        net.assert_clean(&S);
    }
}

#[test]
fn after_two_syns_with_data_were_lost_none_has_data_for_a_while() {
    let (mut net, listener) = fast_net(1, 4);
    get_cookie(&mut net, listener, 1000);
    // Somebody on the way drops every SYN with data.
    net.filter =
        Some(Box::new(|_, p| p.tcp().is_some_and(|t| t.flags().is_syn() && !t.payload().is_empty())));
    for n in 0..2 {
        let (a, sent) = begin(&mut net, 1001 + n, b"data");
        assert_eq!(sent, Ok(4));
        net.run(Duration::from_millis(1500));
        let b = net.accept(1, listener).unwrap();
        assert_eq!(net.recv(1, b, 100).unwrap(), b"data", "they came behind the SYN that was sent again");
        assert!(!net.on(0, |e| e.tcp_info(a)).unwrap().syn_data);
        net.close(0, a);
        net.close(1, b);
    }
    let (_, sent) = begin(&mut net, 1003, b"data");
    assert_eq!(sent, Err(SendError::WouldBlock));
    net.run(Duration::from_secs(241));
    assert_eq!(begin(&mut net, 1004, b"data").1, Ok(4), "after four minutes it is tried again");
}

#[test]
fn a_peer_that_never_answers_data_counts_as_one_that_loses_them() {
    let (mut net, listener) = fast_net(1, 4);
    get_cookie(&mut net, listener, 1000);
    net.filter = Some(Box::new(|_, _| true));
    for n in 0..2 {
        let (a, sent) = begin(&mut net, 1001 + n, b"data");
        assert_eq!(sent, Ok(4));
        net.run(Duration::from_secs(200));
        assert_eq!(net.recv(0, a, 1), Err(RecvError::Failed(SockError::TimedOut)));
        net.close(0, a);
    }
    assert_eq!(begin(&mut net, 1003, b"data").1, Err(SendError::WouldBlock));
}

#[test]
fn a_connection_that_is_never_completed_gives_its_place_up() {
    let (mut net, listener) = fast_net(1, 1);
    get_cookie(&mut net, listener, 1000);
    // The server's answers are lost.
    net.filter = Some(Box::new(|from, _| from == 1));
    let (a, _) = begin(&mut net, 1001, b"one");
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.state(1, b), Some(State::SynRcvd));
    net.on(0, |e| e.abort(a));
    net.run(Duration::from_secs(200));
    assert_eq!(net.recv(1, b, 10).unwrap(), b"one");
    assert_eq!(net.recv(1, b, 10), Err(RecvError::Failed(SockError::TimedOut)));
    net.close(1, b);
    net.filter = None;
    assert_eq!(begin(&mut net, 1002, b"two").1, Ok(3));
    net.run(Duration::from_millis(10));
    let c = net.accept(1, listener).unwrap();
    assert!(net.on(1, |e| e.tcp_info(c)).unwrap().syn_data);
}

#[test]
fn a_listener_that_closes_resets_what_is_early_in_its_queue() {
    let (mut net, listener) = fast_net(1, 4);
    get_cookie(&mut net, listener, 1000);
    let (a, _) = begin(&mut net, 1001, b"data");
    net.step();
    net.close(1, listener);
    net.run(Duration::from_millis(10));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Reset));
    net.close(0, a);
    net.run(Duration::from_secs(1));
    net.assert_clean(&S);
}

#[test]
fn closing_an_early_connection_sends_what_is_queued_and_a_fin() {
    let (mut net, listener) = fast_net(1, 4);
    get_cookie(&mut net, listener, 1000);
    let (a, _) = begin(&mut net, 1001, b"data");
    net.step();
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 10).unwrap(), b"data");
    net.send(1, b, b"bye").unwrap();
    net.close(1, b);
    net.run(Duration::from_millis(10));
    assert_eq!(net.recv(0, a, 10).unwrap(), b"bye");
    assert_eq!(net.recv(0, a, 10).unwrap(), b"");
    net.close(0, a);
    net.close(1, listener);
    net.run(Duration::from_secs(120));
    net.assert_clean(&S);
}

#[test]
fn a_crowded_listener_answers_with_syn_cookies_and_without_fast_open() {
    let mut net = Net::new(1, &S);
    let listener = net.listen(1, 80, 1);
    net.on(1, |e| {
        e.set_fast_open(3);
        assert!(e.tcp_set_fast_open(listener, 100, &[]));
    });
    net.keep_trace = true;
    let options = wire::TcpOptions { mss: Some(1460), ..wire::TcpOptions::NONE };
    let options = options.with_fast_open(&FastOpen::REQUEST);
    for port in 1000..1010 {
        let header = TcpHeader {
            src_port: Port(port),
            dst_port: Port(80),
            seq: SeqNum(77),
            ack: SeqNum(0),
            flags: TcpFlags::SYN,
            window: 65_535,
            urgent: 0,
        };
        let packet = forged_with(&net.hosts[0], &net.hosts[1], &header, &options, &[]);
        net.deliver(1, &packet);
        net.flush(1);
    }
    let answers = net.segments();
    let with = |s: &&net::Seen| s.options.fast_open().is_some();
    assert_eq!(answers.len(), 10);
    let cookies = net.on(1, |e| e.counters().tcp.cookies_out);
    assert!(cookies > 0);
    assert_eq!(answers.iter().filter(with).count() as u64, 10 - cookies);
}

#[test]
fn one_more_peer_than_can_be_remembered_pushes_out_the_one_not_used_for_longest() {
    let (mut net, listener) = fast_net(1, 4);
    let own = net.hosts[0].addr;
    let now = net.now;
    net.on(0, |e| {
        for (n, row) in e.mem().globals.fast_peers.iter_mut().enumerate() {
            (row.remote, row.local, row.cookie_len) = (own, own, 8);
            row.used_at = now.plus(Duration::from_micros(if n == 7 { 0 } else { 10 }));
        }
    });
    get_cookie(&mut net, listener, 1000);
    let theirs = net.hosts[1].addr;
    let rows = net.on(0, |e| e.mem().globals.fast_peers.to_vec());
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row.remote, if n == 7 { theirs } else { own }, "row {n}");
    }
    assert_eq!(begin(&mut net, 1001, b"x").1, Ok(1));
}

#[test]
fn a_connection_that_hibernated_still_knows_that_its_syn_had_data() {
    let setup = Setup { dormant: 8, ..S };
    let mut net = Net::new(1, &setup);
    let listener = net.listen(1, 80, 16);
    net.on(1, |e| {
        e.set_fast_open(3);
        assert!(e.tcp_set_fast_open(listener, 4, &[]));
    });
    get_cookie(&mut net, listener, 1000);
    let (a, _) = begin(&mut net, 1001, b"data");
    net.run(Duration::from_millis(100));
    let b = net.accept(1, listener).unwrap();
    net.recv(1, b, 10).unwrap();
    net.run(Duration::from_secs(1));
    let asleep = net.sleep();
    assert_eq!(asleep, if net::V6 { [0, 0] } else { [1, 1] });
    for (host, sock) in [(0, a), (1, b)] {
        assert!(net.on(host, |e| e.tcp_info(sock)).unwrap().syn_data);
    }
}
