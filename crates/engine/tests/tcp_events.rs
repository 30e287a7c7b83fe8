//! Events come when Linux would wake a waiter of epoll, each socket once, and readiness is what Linux's poll gives.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use engine::{How, SendError};
use net::{Net, Setup, pattern};
use state::{Event, Ready, SockRef, TcpOptions};

const S: Setup = Setup::USUAL;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn events(net: &mut Net, host: usize, queue: u16) -> Vec<(u64, Ready)> {
    std::iter::from_fn(|| net.on(host, |e| e.poll_event(queue))).map(|e: Event| (e.token, e.ready)).collect()
}

fn watch(net: &mut Net, host: usize, s: SockRef, token: u64) {
    assert!(net.on(host, |e| e.set_event_queue(s, 1, token)));
}

/// An open connection of which both ends are watched with tokens 10 and 20, all events so far taken.
fn watched() -> (Net, SockRef, SockRef, SockRef) {
    let mut net = Net::new(1, &S);
    let (listener, a, b) = net.open();
    net.run(ms(100));
    watch(&mut net, 0, a, 10);
    watch(&mut net, 1, b, 20);
    assert_eq!(events(&mut net, 0, 1), vec![(10, Ready::OUT)]);
    assert_eq!(events(&mut net, 1, 1), vec![(20, Ready::OUT)]);
    (net, listener, a, b)
}

#[test]
fn each_arrival_of_data_is_an_event_and_several_are_gathered() {
    let (mut net, _, a, b) = watched();
    for _ in 0..3 {
        net.send(0, a, b"x").unwrap();
        net.run(ms(50));
    }
    assert_eq!(events(&mut net, 1, 1), vec![(20, Ready::IN)]);
    assert_eq!(events(&mut net, 1, 1), vec![]);
    // Unread data is no event, but new data is, although the socket was readable before.
    net.send(0, a, b"y").unwrap();
    net.run(ms(50));
    assert_eq!(events(&mut net, 1, 1), vec![(20, Ready::IN)]);
    assert_eq!(net.on(1, |e| e.ready(b)), Ready::IN | Ready::OUT);
    net.recv(1, b, 100).unwrap();
    assert_eq!(net.on(1, |e| e.ready(b)), Ready::OUT);
}

#[test]
fn a_subscription_tells_at_once_what_is_ready() {
    let (mut net, _, a, b) = watched();
    net.send(0, a, b"x").unwrap();
    net.run(ms(1));
    assert!(net.on(1, |e| e.set_event_queue(b, 5, 33)));
    assert_eq!(events(&mut net, 1, 1), vec![]);
    assert_eq!(events(&mut net, 1, 5), vec![(33, Ready::IN | Ready::OUT)]);
    assert!(net.on(1, |e| e.set_event_queue(b, 0, 0)));
    net.send(0, a, b"x").unwrap();
    net.run(ms(1));
    assert_eq!(events(&mut net, 1, 5), vec![]);
    assert!(!net.on(1, |e| e.set_event_queue(b, 9999, 0)));
    assert!(!net.on(1, |e| e.set_event_queue(SockRef::NONE, 1, 0)));
}

#[test]
fn room_is_an_event_only_after_it_was_short() {
    let (mut net, _, a, b) = watched();
    let data = pattern(1, 10_000);
    net.send(0, a, &data).unwrap();
    net.run(ms(50));
    assert_eq!(events(&mut net, 0, 1), vec![]);
    let mut queued = 10_000;
    loop {
        match net.send(0, a, &data) {
            Ok(n) => queued += n,
            Err(SendError::WouldBlock) => break,
            Err(e) => panic!("{e:?}"),
        }
        net.run(ms(1));
    }
    assert!(!net.on(0, |e| e.ready(a)).has(Ready::OUT));
    assert_eq!(events(&mut net, 0, 1), vec![]);
    let mut got = 0;
    while got < queued {
        match net.recv(1, b, 100_000) {
            Ok(bytes) => got += bytes.len(),
            Err(_) => net.run(ms(1)),
        }
    }
    net.run(ms(10));
    assert_eq!(events(&mut net, 0, 1), vec![(10, Ready::OUT)]);
    assert!(net.on(0, |e| e.ready(a)).has(Ready::OUT));
}

#[test]
fn the_end_of_the_stream_is_an_event() {
    let (mut net, _, a, b) = watched();
    net.on(0, |e| e.shutdown(a, How::Write)).unwrap();
    net.run(ms(1));
    assert_eq!(events(&mut net, 1, 1), vec![(20, Ready::IN | Ready::RDHUP)]);
    assert_eq!(net.on(1, |e| e.ready(b)), Ready::IN | Ready::RDHUP | Ready::OUT);
    net.on(1, |e| e.shutdown(b, How::Write)).unwrap();
    net.run(ms(1));
    let got = events(&mut net, 0, 1);
    assert!(got.iter().any(|e| e.1.has(Ready::IN | Ready::RDHUP | Ready::HUP)), "{got:?}");
    assert_eq!(net.on(0, |e| e.ready(a)), Ready::IN | Ready::RDHUP | Ready::HUP | Ready::OUT);
}

#[test]
fn a_reset_is_an_event_with_an_error() {
    let (mut net, _, a, b) = watched();
    net.on(0, |e| e.abort(a));
    net.run(ms(1));
    let all = Ready::IN | Ready::OUT | Ready::RDHUP | Ready::HUP | Ready::ERR;
    assert_eq!(events(&mut net, 1, 1), vec![(20, all)]);
    assert_eq!(net.on(1, |e| e.ready(b)), all);
    net.on(1, |e| e.take_error(b));
    assert!(!net.on(1, |e| e.ready(b)).has(Ready::ERR));
}

#[test]
fn a_connection_to_accept_is_an_event_of_the_listener() {
    let (mut net, listener, _, _) = watched();
    watch(&mut net, 1, listener, 30);
    assert_eq!(events(&mut net, 1, 1), vec![]);
    net.connect(0, 40_001, 80).unwrap();
    net.run(ms(1));
    assert_eq!(events(&mut net, 1, 1), vec![(30, Ready::IN)]);
    net.connect(0, 40_002, 80).unwrap();
    net.run(ms(1));
    assert_eq!(events(&mut net, 1, 1), vec![(30, Ready::IN)]);
}

#[test]
fn an_opened_connection_is_an_event_and_so_is_a_refused_one() {
    let mut net = Net::new(2, &S);
    net.listen(1, 80, 4);
    let a = net.connect(0, 40_000, 80).unwrap();
    watch(&mut net, 0, a, 1);
    let b = net.connect(0, 40_000, 81).unwrap();
    watch(&mut net, 0, b, 2);
    assert_eq!(events(&mut net, 0, 1), vec![]);
    assert_eq!(net.on(0, |e| e.ready(a)), Ready::NONE);
    net.run(ms(1));
    let mut got = events(&mut net, 0, 1);
    got.sort_unstable_by_key(|e| e.0);
    assert_eq!(got[0], (1, Ready::OUT));
    assert!(got[1].1.has(Ready::ERR | Ready::HUP | Ready::OUT));
}

#[test]
fn events_come_in_the_order_in_which_sockets_became_ready() {
    let mut net = Net::new(3, &S);
    let listener = net.listen(1, 80, 16);
    let pairs: Vec<_> = (0..5).map(|n| net.open_to(listener, 40_000 + n)).collect();
    net.run(ms(100));
    for (n, (_, b)) in pairs.iter().enumerate() {
        watch(&mut net, 1, *b, n as u64);
    }
    events(&mut net, 1, 1);
    for n in [3, 1, 4, 0, 2] {
        net.send(0, pairs[n].0, b"x").unwrap();
        net.run(ms(1));
    }
    // A closed socket has no events any more.
    net.recv(1, pairs[4].1, 10).unwrap();
    net.close(1, pairs[4].1);
    let tokens: Vec<u64> = events(&mut net, 1, 1).iter().map(|e| e.0).collect();
    assert_eq!(tokens, vec![3, 1, 0, 2]);
}

#[test]
fn a_low_water_mark_keeps_little_data_quiet() {
    let (mut net, _, a, b) = watched();
    let opts = TcpOptions { rcv_low_bytes: 5, ..TcpOptions::default() };
    net.on(1, |e| e.set_tcp_options(b, &opts));
    net.send(0, a, b"abc").unwrap();
    net.run(ms(50));
    assert_eq!(events(&mut net, 1, 1), vec![]);
    assert!(!net.on(1, |e| e.ready(b)).has(Ready::IN));
    net.send(0, a, b"def").unwrap();
    net.run(ms(50));
    assert_eq!(events(&mut net, 1, 1), vec![(20, Ready::IN)]);
}
