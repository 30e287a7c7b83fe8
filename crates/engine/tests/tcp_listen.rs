//! Listeners: which SYNs are taken, how many connections may wait, and what becomes of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant, IpAddress, Port, SeqNum};
use engine::{AcceptError, Engine, ListenError, State};
use net::{Net, Packet, Setup, forged};
use state::{DropReason, Endpoint, Ready, SockRef, TcpOptions};
use wire::TcpFlags;

const S: Setup = Setup::USUAL;

#[test]
fn connections_wait_in_order_until_accepted() {
    let mut net = Net::new(1, &S);
    let listener = net.listen(1, 80, 8);
    assert_eq!(net.accept(1, listener), Err(AcceptError::WouldBlock));
    for n in 0..3 {
        net.connect(0, 40_000 + n, 80).unwrap();
        net.run(Duration::from_millis(1));
    }
    assert_eq!(net.on(1, |e| e.ready(listener)), Ready::IN);
    for n in 0..3 {
        let accepted = net.on(1, |e| e.tcp_accept(listener)).unwrap();
        assert_eq!(accepted.remote.port, Port(40_000 + n));
        assert_eq!(accepted.local, net.hosts[1].end(80));
    }
    assert_eq!(net.on(1, |e| e.ready(listener)), Ready::NONE);
}

#[test]
fn a_full_accept_queue_drops_syns_and_counts_them() {
    let mut net = Net::new(2, &S);
    let listener = net.listen(1, 80, 2);
    let socks: Vec<_> = (0..6)
        .map(|n| {
            let s = net.connect(0, 40_000 + n, 80).unwrap();
            net.run(Duration::from_millis(1));
            s
        })
        .collect();
    // As Linux: one more than the backlog.
    assert!(net.dropped(1, DropReason::TcpBacklogFull) >= 3);
    let open = |net: &mut Net| socks.iter().filter(|s| net.state(0, **s) == Some(State::Established)).count();
    assert_eq!(open(&mut net), 3);
    for _ in 0..3 {
        net.accept(1, listener).unwrap();
    }
    // The others try again by their SYN timers.
    net.run(Duration::from_secs(8));
    assert_eq!(open(&mut net), 6);
    for _ in 0..3 {
        net.accept(1, listener).unwrap();
    }
}

#[test]
fn the_last_ack_of_a_handshake_is_dropped_while_the_accept_queue_is_full() {
    let mut net = Net::new(3, &S);
    let listener = net.listen(1, 80, 1);
    // Four SYNs arrive before any handshake is complete.
    let socks: Vec<_> = (0..4).map(|n| net.connect(0, 40_000 + n, 80).unwrap()).collect();
    net.run(Duration::from_millis(1));
    let waiting = net.on(1, |e| e.mem().listeners.rows()[0].accept_queue.len);
    assert_eq!(waiting, 2);
    assert!(net.dropped(1, DropReason::TcpBacklogFull) > 0);
    // The clients believe that they are connected, or try again; all get through in the end. What was answered with a cookie is known to
    // nobody here until the client sends.
    for s in &socks {
        let _ = net.send(0, *s, b"x");
    }
    let mut accepted = Vec::new();
    for _ in 0..40 {
        while let Ok(s) = net.accept(1, listener) {
            accepted.push(s);
        }
        net.run(Duration::from_secs(1));
    }
    assert_eq!(accepted.len(), 4);
    for s in socks {
        assert_eq!(net.state(0, s), Some(State::Established));
    }
}

#[test]
fn a_syn_again_is_answered_again_with_the_same_number() {
    let mut net = Net::new(4, &S);
    net.listen(1, 80, 4);
    net.keep_trace = true;
    let syn = forged(&net, 0, (40_000, 80), (SeqNum(7000), SeqNum(0)), TcpFlags::SYN, &[]);
    net.filter = Some(Box::new(|_, _| true));
    for _ in 0..3 {
        net.deliver(1, &syn);
        net.run(Duration::from_millis(10));
    }
    let answers = net.segments();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|a| a.flags == TcpFlags::SYN | TcpFlags::ACK
        && a.seq == answers[0].seq
        && a.ack == SeqNum(7001)));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 1);
}

#[test]
fn an_unanswered_syn_ack_is_repeated_and_then_given_up() {
    let mut net = Net::new(5, &S);
    let listener = net.listen(1, 80, 4);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    let syn = forged(&net, 0, (40_000, 80), (SeqNum(1), SeqNum(0)), TcpFlags::SYN, &[]);
    net.deliver(1, &syn);
    net.run(Duration::from_secs(100));
    assert_eq!(net.segments().len(), 6);
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 0);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn several_peers_can_be_in_syn_received_at_once() {
    let mut net = Net::new(6, &S);
    let listener = net.listen(1, 80, 32);
    for n in 0..20 {
        let syn = forged(&net, 0, (30_000 + n, 80), (SeqNum(0), SeqNum(0)), TcpFlags::SYN, &[]);
        net.deliver(1, &syn);
    }
    assert_eq!(net.on(1, |e| e.mem().listeners.rows()[0].half_open_count()), 20);
    // The peer knows nothing of these and resets them.
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(1, |e| e.mem().listeners.rows()[0].half_open_count()), 0);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn closing_a_listener_resets_what_was_not_accepted() {
    let mut net = Net::new(7, &S);
    let listener = net.listen(1, 80, 8);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Established));
    net.close(1, listener);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Closed));
    assert_eq!(net.accept(1, listener), Err(AcceptError::Gone));
    net.close(0, a);
    net.assert_clean(&S);
    // The port is free again.
    net.listen(1, 80, 8);
}

#[test]
fn a_connection_reset_in_the_accept_queue_is_still_handed_out() {
    let mut net = Net::new(8, &S);
    let listener = net.listen(1, 80, 8);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    net.on(0, |e| e.abort(a));
    net.run(Duration::from_millis(1));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.on(1, |e| e.take_error(b)), Some(engine::SockError::Reset));
    net.close(1, b);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn data_and_fin_may_wait_in_the_accept_queue() {
    let mut net = Net::new(9, &S);
    let listener = net.listen(1, 80, 8);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    net.send(0, a, b"early").unwrap();
    net.close(0, a);
    net.run(Duration::from_millis(100));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 10), Ok(b"early".to_vec()));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
    net.close(1, b);
    net.close(1, listener);
    net.run(Duration::from_secs(70));
    net.assert_clean(&S);
}

#[test]
fn an_exact_address_is_preferred_to_any() {
    let mut net = Net::new(10, &S);
    let any = net.listen(1, 80, 8);
    let local = net.hosts[1].end(80);
    let exact = net.on(1, |e| e.tcp_listen(local, 8, &TcpOptions::default())).unwrap();
    net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.accept(1, any), Err(AcceptError::WouldBlock));
    assert!(net.accept(1, exact).is_ok());
}

#[test]
fn a_port_is_listened_at_once_only() {
    let mut net = Net::new(11, &S);
    net.listen(1, 80, 8);
    let any = Endpoint { addr: IpAddress::ANY, port: Port(80) };
    let none = Endpoint { addr: IpAddress::ANY, port: Port(0) };
    net.on(1, |e| {
        assert_eq!(e.tcp_listen(any, 8, &TcpOptions::default()), Err(ListenError::InUse));
        assert_eq!(e.tcp_listen(none, 8, &TcpOptions::default()), Err(ListenError::Invalid));
        for port in 100..107 {
            let at = Endpoint { port: Port(port), ..any };
            e.tcp_listen(at, 8, &TcpOptions::default()).unwrap();
        }
        let one_more = Endpoint { port: Port(200), ..any };
        assert_eq!(e.tcp_listen(one_more, 8, &TcpOptions::default()), Err(ListenError::NoRoom));
    });
}

/// `count` listeners at port 80 of host 1 that share it (SO_REUSEPORT).
fn group(net: &mut Net, count: usize) -> Vec<SockRef> {
    let mut opts = TcpOptions::default();
    opts.set_reuse_port(true);
    let any = Endpoint { addr: IpAddress::ANY, port: Port(80) };
    (0..count).map(|_| net.on(1, |e| e.tcp_listen(any, 64, &opts)).unwrap()).collect()
}

/// Accepts all that waits at each of `group`: the ports of the peers.
fn accepted(net: &mut Net, group: &[SockRef]) -> Vec<Vec<u16>> {
    let mut all = |listener: &SockRef| {
        core::iter::from_fn(|| net.on(1, |e| e.tcp_accept(*listener)).ok()).map(|a| a.remote.port.0).collect()
    };
    group.iter().map(&mut all).collect()
}

const SHARED: Setup = Setup { socks: 128, ..S };

#[test]
fn listeners_that_share_a_port_share_its_connections() {
    let mut net = Net::new(20, &SHARED);
    let all = group(&mut net, 3);
    let any = Endpoint { addr: IpAddress::ANY, port: Port(80) };
    let alone = net.on(1, |e| e.tcp_listen(any, 8, &TcpOptions::default()));
    assert_eq!(alone, Err(ListenError::InUse), "who does not share gets no port that others share");
    for port in 40_000..40_060 {
        net.connect(0, port, 80).unwrap();
        net.run(Duration::from_millis(1));
    }
    let shares = accepted(&mut net, &all);
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 60);
    assert!(shares.iter().all(|share| (10..=30).contains(&share.len())), "{shares:?}");
}

#[test]
fn what_waits_at_a_listener_that_closes_goes_to_one_that_shares_its_port() {
    for small_rows in [0, 64] {
        let mut net = Net::new(21, &Setup { dormant: small_rows, ..SHARED });
        let all = group(&mut net, 2);
        for port in 40_000..40_020 {
            net.connect(0, port, 80).unwrap();
            net.run(Duration::from_millis(1));
        }
        // Others are half open when it closes: their SYN,ACK is on its way.
        for port in 41_000..41_020 {
            net.connect(0, port, 80).unwrap();
        }
        let half_open = |e: &mut Engine<'_>| {
            e.mem().listeners.rows().iter().map(state::Listener::half_open_count).sum::<u32>()
        };
        while net.on(1, half_open) < 10 {
            assert!(net.step(), "their last ACKs are under way");
        }
        net.on(1, |e| {
            e.tcp_begin_close(all[0]);
            assert!(e.tcp_close_if_idle(all[0]), "another takes over what waits");
            e.audit(true).unwrap();
        });
        net.run(Duration::from_secs(2));
        let shares = accepted(&mut net, &all);
        assert_eq!((shares[0].len(), shares[1].len()), (0, 40));
        // Nobody shares it with the last.
        net.on(1, |e| e.close(all[1]));
        net.connect(0, 42_000, 80).unwrap();
        net.run(Duration::from_millis(1));
        assert_eq!(net.dropped(1, DropReason::TcpNoSocket), 1);
    }
}

#[test]
fn no_free_connection_drops_the_syn() {
    let setup = Setup { socks: 4, ..S };
    let mut net = Net::new(12, &setup);
    net.listen(1, 80, 100);
    for n in 0..4 {
        net.connect(0, 40_000 + n, 80).unwrap();
        net.run(Duration::from_millis(1));
    }
    let syn = forged(&net, 0, (50_000, 80), (SeqNum(1), SeqNum(0)), TcpFlags::SYN, &[]);
    net.deliver(1, &syn);
    assert_eq!(net.dropped(1, DropReason::TcpNoTcb), 1);
    assert_eq!(net.connect(0, 45_000, 80), Err(engine::ConnectError::NoRoom));
    assert_eq!(net.connect(0, 40_000, 80), Err(engine::ConnectError::InUse));
}

#[test]
fn flags_that_make_no_sense_open_nothing() {
    let mut net = Net::new(13, &S);
    net.listen(1, 80, 8);
    net.keep_trace = true;
    for flags in [TcpFlags::NONE, TcpFlags::FIN, TcpFlags::RST, TcpFlags::SYN | TcpFlags::FIN, TcpFlags::PSH]
    {
        let p = forged(&net, 0, (40_000, 80), (SeqNum(1), SeqNum(1)), flags, b"x");
        net.deliver(1, &p);
        net.flush(1);
    }
    assert_eq!(net.segments().len(), 0);
    for flags in [TcpFlags::ACK, TcpFlags::SYN | TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK] {
        let p = forged(&net, 0, (40_000, 80), (SeqNum(1), SeqNum(99)), flags, &[]);
        net.deliver(1, &p);
        net.flush(1);
        let answer = net.segments().pop().unwrap();
        assert_eq!((answer.flags, answer.seq), (TcpFlags::RST, SeqNum(99)));
    }
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 0);
}

#[test]
fn a_rst_in_syn_received_gives_the_row_back_in_silence() {
    let mut net = Net::new(14, &S);
    let listener = net.listen(1, 80, 8);
    let put = |net: &mut Net, p: &Packet| net.deliver(1, p);
    let syn = forged(&net, 0, (40_000, 80), (SeqNum(500), SeqNum(0)), TcpFlags::SYN, &[]);
    put(&mut net, &syn);
    let rst = forged(&net, 0, (40_000, 80), (SeqNum(501), SeqNum(0)), TcpFlags::RST, &[]);
    put(&mut net, &rst);
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 0);
    assert_eq!(net.accept(1, listener), Err(AcceptError::WouldBlock));
    net.close(1, listener);
    net.assert_clean(&S);
    assert_eq!(net.on(1, |e| e.next_deadline()), Instant::NEVER);
}
