//! Opening and closing in every order (RFC 9293 3.5, 3.6), and what is left afterwards: nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, SeqNum};
use engine::{How, RecvError, SendError, ShutdownError, SockError, State};
use net::{Net, Packet, Setup, forged};
use state::{DropReason, Ready, TcpOptions};
use wire::TcpFlags;

const S: Setup = Setup::USUAL;

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

#[test]
fn the_active_closer_waits_in_time_wait_and_the_passive_one_does_not() {
    let mut net = Net::new(1, &S);
    let (listener, a, b) = net.open();
    net.on(0, |e| e.shutdown(a, How::Write)).unwrap();
    net.run(Duration::from_millis(10));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::FinWait2), Some(State::CloseWait)));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
    net.on(1, |e| e.shutdown(b, How::Write)).unwrap();
    net.run(Duration::from_millis(10));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::TimeWait), Some(State::Closed)));
    net.close(0, a);
    net.close(1, b);
    net.close(1, listener);
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 1);
    net.run(Duration::from_secs(61));
    net.assert_clean(&S);
}

#[test]
fn both_ends_closing_at_once_go_through_closing_to_time_wait() {
    let mut net = Net::new(2, &S);
    let (listener, a, b) = net.open();
    net.run(Duration::from_millis(100));
    net.on(0, |e| e.shutdown(a, How::Both)).unwrap();
    net.on(1, |e| e.shutdown(b, How::Both)).unwrap();
    net.flush(0);
    net.flush(1);
    net.run(Duration::from_micros(60));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::Closing), Some(State::Closing)));
    net.run(Duration::from_millis(100));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::TimeWait), Some(State::TimeWait)));
    net.close(0, a);
    net.close(1, b);
    net.close(1, listener);
    net.run(minutes(2));
    net.assert_clean(&S);
}

#[test]
fn both_ends_opening_at_once_become_one_connection() {
    let mut net = Net::new(3, &S);
    let a = net.connect(0, 5000, 6000).unwrap();
    let b = net.connect(1, 6000, 5000).unwrap();
    net.run(Duration::from_millis(50));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::Established), Some(State::Established)));
    net.transfer(a, b, 50_000, 50_000);
    net.run(minutes(3));
    net.assert_clean(&S);
}

#[test]
fn half_closed_connections_carry_data_the_other_way() {
    let mut net = Net::new(4, &S);
    let (listener, a, b) = net.open();
    net.on(0, |e| e.shutdown(a, How::Write)).unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.send(0, a, b"x"), Err(SendError::Pipe));
    assert_eq!(net.send(1, b, b"still here"), Ok(10));
    net.run(Duration::from_millis(1));
    assert_eq!(net.recv(0, a, 100), Ok(b"still here".to_vec()));
    net.close(1, b);
    net.run(Duration::from_millis(1));
    assert_eq!(net.recv(0, a, 100), Ok(vec![]));
    net.close(0, a);
    net.close(1, listener);
    net.run(minutes(2));
    net.assert_clean(&S);
}

#[test]
fn nobody_listens_so_the_connection_is_refused() {
    let mut net = Net::new(5, &S);
    let a = net.connect(0, 5000, 81).unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Closed));
    let ready = net.on(0, |e| e.ready(a));
    assert!(ready.has(Ready::ERR | Ready::HUP | Ready::IN | Ready::OUT));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Refused));
    assert_eq!(net.on(0, |e| e.take_error(a)), None);
    assert_eq!(net.on(0, |e| e.shutdown(a, How::Both)), Err(ShutdownError::NotConnected));
    net.close(0, a);
    net.assert_clean(&S);
    assert_eq!(net.dropped(1, DropReason::TcpNoSocket), 1);
}

#[test]
fn nobody_answers_so_the_connection_times_out() {
    let mut net = Net::new(6, &S);
    net.filter = Some(Box::new(|_, _| true));
    net.keep_trace = true;
    let a = net.connect(0, 5000, 80).unwrap();
    net.run(minutes(5));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
    // 1, 2, 4 ... 64 s: six retransmissions, then the end after 127 s, as Linux.
    assert_eq!(net.segments().len(), 7);
    net.close(0, a);
    net.assert_clean(&S);
}

#[test]
fn closing_with_unread_data_resets_the_peer() {
    let mut net = Net::new(7, &S);
    let (listener, a, b) = net.open();
    net.send(0, a, b"nobody reads this").unwrap();
    net.run(Duration::from_millis(1));
    net.close(1, b);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Closed));
    assert_eq!(net.recv(0, a, 10), Err(RecvError::Failed(SockError::Reset)));
    assert_eq!(net.recv(0, a, 10), Ok(vec![]));
    assert_eq!(net.send(0, a, b"x"), Err(SendError::Pipe));
    net.close(0, a);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn data_for_a_closed_socket_resets_the_peer() {
    let mut net = Net::new(8, &S);
    let (listener, a, b) = net.open();
    net.close(1, b);
    net.run(Duration::from_millis(1));
    assert_eq!(net.recv(0, a, 10), Ok(vec![]));
    net.send(0, a, b"too late").unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Pipe));
    assert_eq!(net.dropped(1, DropReason::TcpAfterClose), 1);
    net.close(0, a);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn data_before_a_reset_can_still_be_read() {
    let mut net = Net::new(9, &S);
    let (listener, a, b) = net.open();
    net.send(0, a, b"last words").unwrap();
    net.run(Duration::from_millis(1));
    net.on(0, |e| e.abort(a));
    net.run(Duration::from_millis(1));
    assert_eq!(net.recv(1, b, 100), Ok(b"last words".to_vec()));
    assert_eq!(net.recv(1, b, 100), Err(RecvError::Failed(SockError::Reset)));
    net.close(1, b);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn a_linger_time_of_zero_resets() {
    let mut net = Net::new(10, &S);
    let (listener, a, b) = net.open();
    let opts = TcpOptions { linger: 1, ..TcpOptions::default() };
    assert!(net.on(0, |e| e.set_tcp_options(a, &opts)));
    net.close(0, a);
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(1, |e| e.take_error(b)), Some(SockError::Reset));
    net.close(1, b);
    net.close(1, listener);
    net.assert_clean(&S);
}

#[test]
fn an_orphan_does_not_wait_for_ever_for_the_peers_fin() {
    let mut net = Net::new(11, &S);
    let (_, a, b) = net.open();
    net.close(0, a);
    net.run(Duration::from_secs(59));
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 1);
    net.run(Duration::from_secs(2));
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 0);
    // The peer learns of it when it sends something.
    net.send(1, b, b"?").unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(1, |e| e.take_error(b)), Some(SockError::Pipe));
}

#[test]
fn a_socket_that_is_only_half_closed_may_wait_for_ever() {
    let mut net = Net::new(12, &S);
    let (_, a, b) = net.open();
    net.on(0, |e| e.shutdown(a, How::Write)).unwrap();
    net.run(minutes(10));
    net.send(1, b, b"there you are").unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.recv(0, a, 100), Ok(b"there you are".to_vec()));
}

#[test]
fn a_name_is_dead_after_close() {
    let mut net = Net::new(13, &S);
    let (listener, a, _) = net.open();
    net.close(0, a);
    assert_eq!(net.send(0, a, b"x"), Err(SendError::Gone));
    assert_eq!(net.recv(0, a, 1), Err(RecvError::Gone));
    assert!(!net.on(0, |e| e.exists(a)));
    assert_eq!(net.on(0, |e| e.ready(a)), Ready::ERR | Ready::HUP);
    let (a2, _) = net.open_to(listener, 40_001);
    net.close(0, a2);
    net.on(0, |e| e.abort(a2));
    net.run(minutes(2));
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 0);
}

#[test]
fn queued_data_goes_out_before_the_fin() {
    let mut net = Net::new(14, &S);
    let (listener, a, b) = net.open();
    let data = net::pattern(5, 300_000);
    assert_eq!(net.send(0, a, &data), Ok(300_000));
    net.close(0, a);
    let mut got = Vec::new();
    loop {
        net.run(Duration::from_millis(1));
        match net.recv(1, b, 100_000) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(RecvError::WouldBlock) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    assert!(got == data);
    net.close(1, b);
    net.close(1, listener);
    net.run(minutes(2));
    net.assert_clean(&S);
}

#[test]
fn every_lost_segment_of_opening_and_closing_is_sent_again() {
    // The nth packet of either side is lost.
    for lost in 0..12 {
        let mut net = Net::new(100 + lost, &S);
        let mut n = 0;
        net.filter = Some(Box::new(move |_, p: &Packet| {
            n += 1;
            p.tcp().is_some() && n == lost + 1
        }));
        let listener = net.listen(1, 80, 4);
        let a = net.connect(0, 40_000, 80).unwrap();
        net.run(Duration::from_secs(5));
        let b = net.accept(1, listener).unwrap();
        net.send(0, a, b"request").unwrap();
        net.run(Duration::from_secs(5));
        assert_eq!(net.recv(1, b, 100), Ok(b"request".to_vec()), "lost {lost}");
        net.send(1, b, b"answer").unwrap();
        net.close(1, b);
        net.run(Duration::from_secs(5));
        assert_eq!(net.recv(0, a, 100), Ok(b"answer".to_vec()), "lost {lost}");
        assert_eq!(net.recv(0, a, 100), Ok(vec![]), "lost {lost}");
        net.close(0, a);
        net.close(1, listener);
        net.run(minutes(4));
        net.assert_clean(&S);
    }
}

#[test]
fn a_time_wait_answers_the_fin_again_and_starts_anew() {
    let mut net = Net::new(15, &S);
    let (_, a, b) = net.open();
    net.close(0, a);
    net.run(Duration::from_millis(1));
    net.keep_trace = true;
    net.close(1, b);
    net.run(Duration::from_secs(30));
    let fin = net.trace.iter().find(|t| t.2.tcp().is_some_and(|s| s.flags().is_fin())).unwrap().2.clone();
    net.trace.clear();
    net.filter = Some(Box::new(|_, _| true));
    net.deliver(0, &fin);
    net.run(Duration::from_secs(45));
    assert_eq!(net.segments().len(), 1, "an ACK for the FIN");
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 1);
    net.run(Duration::from_secs(20));
    assert_eq!(net.on(0, |e| e.counters().tcp.open), 0);
}

#[test]
fn a_new_syn_takes_a_connection_in_time_wait_over() {
    let mut net = Net::new(16, &S);
    let (listener, a, b) = net.open();
    // Host 1 closes first, so it holds the TIME-WAIT.
    net.close(1, b);
    net.run(Duration::from_millis(1));
    net.close(0, a);
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 1);
    net.run(Duration::from_millis(5));
    let (a2, b2) = net.open_to(listener, 40_000);
    assert_eq!(net.on(1, |e| e.counters().tcp.time_wait_reused), 1);
    net.transfer(a2, b2, 1000, 1000);
}

#[test]
fn an_old_syn_in_time_wait_is_answered_with_an_ack() {
    let mut net = Net::new(17, &S);
    let (_, a, b) = net.open();
    let seq = net.on(1, |e| e.mem().hot.rows()[0].rcv.nxt);
    net.close(1, b);
    net.run(Duration::from_millis(1));
    net.close(0, a);
    net.run(Duration::from_millis(1));
    let old = forged(&net, 0, (40_000, 80), (seq.minus(1000), SeqNum(0)), TcpFlags::SYN, &[]);
    net.keep_trace = true;
    net.deliver(1, &old);
    net.flush(1);
    assert_eq!(net.on(1, |e| e.counters().tcp.time_wait_reused), 0);
    let answer = net.segments();
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].flags, answer[0].ack), (TcpFlags::ACK, seq.plus(1)));
}

#[test]
fn time_waits_that_nobody_holds_make_room_for_new_connections() {
    let setup = Setup { socks: 16, ..S };
    let mut net = Net::new(18, &setup);
    let listener = net.listen(1, 80, 4);
    for n in 0..100 {
        let (a, b) = net.open_to(listener, 41_000 + n);
        net.close(1, b);
        net.run(Duration::from_micros(300));
        net.close(0, a);
        net.run(Duration::from_micros(300));
        assert!(net.on(1, |e| e.counters().tcp.open) <= 9);
    }
    net.close(1, listener);
    net.run(minutes(2));
    net.assert_clean(&setup);
}

#[test]
fn closing_while_both_ends_open_loses_nothing() {
    let mut net = Net::new(19, &S);
    // The first SYN,ACK of host 0 is lost, too.
    let mut n = 0;
    net.filter = Some(Box::new(move |from, p: &Packet| {
        let syn_ack = from == 0 && p.tcp().is_some_and(|t| t.flags().contains(TcpFlags::SYN | TcpFlags::ACK));
        n += u32::from(syn_ack);
        syn_ack && n == 1
    }));
    let a = net.connect(0, 5000, 6000).unwrap();
    let b = net.connect(1, 6000, 5000).unwrap();
    net.flush(0);
    net.flush(1);
    while net.state(0, a) == Some(State::SynSent) {
        assert!(net.step());
    }
    assert_eq!(net.state(0, a), Some(State::SynRcvd));
    net.close(0, a);
    net.run(Duration::from_secs(10));
    assert_eq!(net.state(1, b), Some(State::CloseWait));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
    net.close(1, b);
    net.run(minutes(2));
    net.assert_clean(&S);
}

#[test]
fn a_next_hop_that_comes_back_is_found_again() {
    let mut net = Net::new(20, &S);
    let listener = net.listen(1, 80, 4);
    // Nobody knows the MAC, and nobody answers for a while.
    net.filter = Some(Box::new(|_, _| true));
    let mut route = net.route(0);
    route.mac = None;
    let (l, r) = (net.hosts[0].end(40_000), net.hosts[1].end(80));
    let lost = net.on(0, |e| e.tcp_connect(l, r, &route, &TcpOptions::default())).unwrap();
    net.run(Duration::from_secs(10));
    assert_eq!(net.on(0, |e| e.take_error(lost)), Some(SockError::HostUnreachable));
    net.close(0, lost);
    net.filter = None;
    let a = loop {
        match net.on(0, |e| e.tcp_connect(l, r, &route, &TcpOptions::default())) {
            Ok(a) => break a,
            Err(e) => assert_eq!(e, engine::ConnectError::HostUnreachable),
        }
        net.run(Duration::from_secs(1));
    };
    net.run(Duration::from_secs(1));
    let b = net.accept(1, listener).unwrap();
    // The neighbour goes away under an open connection, and comes back.
    net.filter = Some(Box::new(|_, _| true));
    net.run(Duration::from_secs(100));
    net.send(0, a, b"are you there").unwrap();
    net.run(Duration::from_secs(20));
    net.filter = None;
    net.run(Duration::from_secs(60));
    assert_eq!(net.recv(1, b, 100), Ok(b"are you there".to_vec()));
}

#[test]
fn a_closed_connection_that_still_has_something_to_say_ends_by_reset_with_its_lane() {
    let mut net = Net::new(40, &S);
    let (listener, a, b) = net.open();
    let (silent, other) = net.open_to(listener, 5001);
    // The peer reads nothing, so there is more than can go.
    while net.send(1, b, &[7; 4096]).is_ok_and(|sent| sent > 0) {
        net.run(Duration::from_millis(10));
    }
    net.close(1, b);
    net.run(Duration::from_millis(100));
    assert_eq!(net.state(0, a), Some(State::Established));
    // Told twice, as by one that dies after the first time.
    assert_eq!(net.on(1, |e| (e.tell_closed(8), e.tell_closed(8))), (1, 1));
    assert_eq!(net.on(1, |e| (e.end_closed(8), e.end_closed(8))), (1, 0));
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Closed));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Reset));
    // One that the program has is not meant.
    assert_eq!(net.state(1, other), Some(State::Established));
    for (host, sock) in [(0, a), (0, silent), (1, other), (1, listener)] {
        net.close(host, sock);
    }
    net.run(minutes(2));
    net.assert_clean(&S);
}
