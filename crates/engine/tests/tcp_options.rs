//! Options that change when a connection is accepted, written to and acknowledged: TCP_DEFER_ACCEPT, TCP_NOTSENT_LOWAT, TCP_QUICKACK.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use engine::{AcceptError, SendError, State, syn_ack_timeouts};
use net::{Net, Setup, pattern};
use state::{Ready, SockRef, TcpOptions, Usual};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };

fn listen_deferred(net: &mut Net, timeouts: u8) -> SockRef {
    let opts = TcpOptions { defer_accept: timeouts, ..TcpOptions::default() };
    let end = net.hosts[1].end(80);
    net.on(1, |e| e.tcp_listen(end, 8, &opts)).unwrap()
}

#[test]
fn seconds_become_timeouts_as_in_linux() {
    let counts: Vec<u8> = [0, 1, 2, 3, 4, 7, 8, 63, 64].map(syn_ack_timeouts).to_vec();
    assert_eq!(counts, [0, 1, 2, 2, 3, 3, 4, 6, 7]);
}

#[test]
fn a_deferred_connection_is_accepted_with_its_first_data() {
    let mut net = Net::new(1, &S);
    let listener = listen_deferred(&mut net, 3);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(300));
    // The client is open, the program on the other side has not heard of it.
    assert_eq!(net.state(0, a), Some(State::Established));
    assert_eq!(net.accept(1, listener), Err(AcceptError::WouldBlock));
    net.send(0, a, b"hello").unwrap();
    net.run(Duration::from_millis(5));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 10), Ok(b"hello".to_vec()));
}

#[test]
fn a_deferred_connection_without_data_is_accepted_after_its_time() {
    let mut net = Net::new(2, &S);
    let listener = listen_deferred(&mut net, 3);
    net.keep_trace = true;
    net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(6500));
    assert_eq!(net.accept(1, listener), Err(AcceptError::WouldBlock));
    let answers = |net: &Net| net.segments().iter().filter(|s| s.from == 1 && s.flags.is_syn()).count();
    // The client has answered: its SYN,ACK is repeated once only, at the end of the time of 1 + 2 + 4 s.
    assert_eq!(answers(&net), 1);
    net.run(Duration::from_millis(1000));
    assert_eq!(answers(&net), 2);
    assert!(net.accept(1, listener).is_ok());
}

#[test]
fn no_more_waits_unsent_than_the_program_asked_for() {
    let mut net = Net::new(3, &S);
    let (_, a, b) = net.open();
    let opts = TcpOptions { notsent_low_bytes: 16_384, ..TcpOptions::default() };
    net.on(0, |e| e.set_tcp_options(a, &opts));
    // Nothing is acknowledged, so the first window is all that goes out.
    net.filter = Some(Box::new(|from, _| from == 1));
    let data = pattern(1, 200_000);
    let mut sent = 0;
    loop {
        match net.send(0, a, &data[sent..]) {
            Ok(n) => sent += n,
            Err(e) => {
                assert_eq!(e, SendError::WouldBlock);
                break;
            }
        }
        net.run(Duration::from_micros(10));
    }
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(info.unsent_bytes >= 16_384 && info.unsent_bytes < 16_384 + 4096, "{info:?}");
    assert!(!net.on(0, |e| e.ready(a)).has(Ready::OUT));
    // Half of it is writable again, and everything arrives.
    net.filter = None;
    net.run(Duration::from_millis(400));
    assert!(net.on(0, |e| e.ready(a)).has(Ready::OUT));
    let mut got = Vec::new();
    while got.len() < data.len() {
        if let Ok(n) = net.send(0, a, &data[sent..]) {
            sent += n;
        }
        match net.recv(1, b, 100_000) {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => assert!(net.step()),
        }
    }
    assert!(got == data);
}

#[test]
fn quick_ack_acknowledges_at_once_for_a_while() {
    let mut net = Net::new(4, &S);
    let (_, a, b) = net.open();
    net.on(1, |e| e.tcp_set_quick_ack(b, false));
    net.keep_trace = true;
    let acks = |net: &mut Net| {
        net.trace.clear();
        net.send(0, a, b"x").unwrap();
        net.run(Duration::from_millis(5));
        net.segments().iter().filter(|s| s.from == 1).count()
    };
    assert_eq!(acks(&mut net), 0);
    // What is owed goes out with the call, what comes then at once.
    net.trace.clear();
    net.on(1, |e| e.tcp_set_quick_ack(b, true));
    net.run(Duration::from_millis(1));
    assert_eq!(net.segments().iter().filter(|s| s.from == 1).count(), 1);
    assert_eq!(acks(&mut net), 1);
}

/// What the options of SYNs of both ends say: SACK, timestamps, window scaling.
fn offers(net: &Net) -> Vec<(bool, bool, bool)> {
    let syns = net.trace.iter().filter_map(|(_, _, p)| p.tcp().filter(|t| t.flags().is_syn()));
    let options = syns.map(|t| wire::tcp_options::TcpOptions::parse(t.options()));
    options.map(|o| (o.sack_permitted, o.timestamps.is_some(), o.window_scale.is_some())).collect()
}

#[test]
fn options_of_syns_that_a_lane_does_not_use_are_neither_offered_nor_accepted() {
    let off = Usual { no_sack: 1, no_timestamps: 1, no_window_scaling: 1, ..Usual::NONE };
    for (host, first) in [(0, (false, false, false)), (1, (true, true, true))] {
        let mut net = Net::new(12, &S);
        net.keep_trace = true;
        net.on(host, |e| e.set_usual(&off));
        let (_, a, b) = net.open();
        assert_eq!(offers(&net), [first, (false, false, false)], "set on host {host}");
        net.send(0, a, &pattern(1, 1000)).unwrap();
        net.run(Duration::from_millis(50));
        assert_eq!(net.recv(1, b, 2000), Ok(pattern(1, 1000)));
        for (host, sock) in [(0, a), (1, b)] {
            let info = net.on(host, |e| e.tcp_info(sock)).unwrap();
            assert!(!info.timestamps && !info.sack, "{info:?}");
        }
    }
}

#[test]
fn a_lane_s_own_numbers_of_retries_count_where_a_connection_has_none() {
    for (options, syns) in [(0, 3), (1, 2)] {
        let mut net = Net::new(13, &S);
        net.keep_trace = true;
        net.on(0, |e| e.set_usual(&Usual { syn_retries: 2, ..Usual::NONE }));
        net.faults = net::Faults { loss_ppm: 1_000_000, ..net.faults };
        let opts = TcpOptions { syn_retries: options, ..TcpOptions::default() };
        let a = net.connect_with(0, 40_001, 80, &opts).unwrap();
        net.run(Duration::from_secs(60));
        assert_eq!(net.segments().iter().filter(|s| s.flags.is_syn()).count(), syns);
        assert_ne!(net.state(0, a), Some(State::SynSent));
    }
}

#[test]
fn a_lane_s_own_number_of_syn_acks_counts_where_a_listener_has_none() {
    let mut net = Net::new(15, &S);
    net.keep_trace = true;
    net.on(1, |e| e.set_usual(&Usual { syn_ack_retries: 1, ..Usual::NONE }));
    let end = net.hosts[1].end(80);
    net.on(1, |e| e.tcp_listen(end, 8, &TcpOptions::default())).unwrap();
    net.faults = net::Faults { delay: Duration::from_millis(5), ..net.faults };
    net.connect(0, 40_002, 80).unwrap();
    // The SYN was answered; what is sent from now on does not come through.
    net.run(Duration::from_millis(7));
    net.faults = net::Faults { loss_ppm: 1_000_000, ..net.faults };
    net.run(Duration::from_secs(60));
    let answers = net.segments().iter().filter(|s| s.from == 1 && s.flags.is_syn()).count();
    assert_eq!(answers, 2, "one and its repetition");
}

#[test]
fn keepalive_goes_by_the_lane_where_the_program_set_nothing() {
    let mut net = Net::new(14, &S);
    net.on(0, |e| {
        e.set_usual(&Usual { keep_idle_s: 10, keep_interval_s: 5, keep_probes: 2, ..Usual::NONE });
    });
    let (_, a, _) = net.open();
    net.on(0, |e| e.set_tcp_options(a, &TcpOptions { keepalive: 1, ..TcpOptions::default() }));
    net.run(Duration::from_secs(9));
    net.faults = net::Faults { loss_ppm: 1_000_000, ..net.faults };
    assert_eq!(net.state(0, a), Some(State::Established));
    net.run(Duration::from_secs(12));
    assert_ne!(net.state(0, a), Some(State::Established), "two probes, 5 s apart, from 10 s on");
}

#[test]
fn packets_have_the_ttl_of_the_lane_where_the_program_set_none() {
    for (own, wanted) in [(0, 33), (9, 9)] {
        let mut net = Net::new(16, &S);
        net.keep_trace = true;
        for host in 0..2 {
            net.on(host, |e| e.set_usual(&Usual { ttl: 33, hop_limit: 44, ..Usual::NONE }));
        }
        let opts = TcpOptions { ttl: own, ..TcpOptions::default() };
        let end = net.hosts[1].end(80);
        let listener = net.on(1, |e| e.tcp_listen(end, 8, &opts)).unwrap();
        let a = net.connect_with(0, 40_001, 80, &opts).unwrap();
        net.run(Duration::from_millis(10));
        let b = net.accept(1, listener).unwrap();
        net.send(0, a, &pattern(1, 3000)).unwrap();
        net.run(Duration::from_millis(10));
        net.on(1, |e| e.abort(b));
        net.run(Duration::from_millis(10));
        let all = net.trace.iter().filter(|(_, _, p)| p.tcp().is_some());
        assert!(all.clone().count() > 5);
        assert!(all.clone().all(|(_, _, p)| p.bytes[14 + 8] == wanted));
        // Nobody listens there.
        net.trace.clear();
        net.connect_with(0, 40_002, 81, &opts).unwrap();
        net.run(Duration::from_millis(10));
        let reset = net.trace.iter().find(|(_, from, _)| *from == 1).map(|(_, _, p)| p.bytes[14 + 8]);
        assert_eq!(reset, Some(33));
    }
}

#[test]
fn the_lane_says_how_much_may_wait_to_be_sent_where_the_program_does_not() {
    for (own, least) in [(0, 16_384), (40_000, 40_000)] {
        let mut net = Net::new(17, &S);
        net.on(0, |e| e.set_usual(&Usual { notsent_low_bytes: 16_384, ..Usual::NONE }));
        let (_, a, _) = net.open();
        net.on(0, |e| e.set_tcp_options(a, &TcpOptions { notsent_low_bytes: own, ..TcpOptions::default() }));
        net.filter = Some(Box::new(|_, _| true));
        let queued = net.send(0, a, &pattern(1, 500_000)).unwrap();
        assert!((least..least + 4096).contains(&queued), "{queued}");
    }
}
