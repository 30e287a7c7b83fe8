//! Idle connections hibernate in small rows and wake by the next segment or call, and nobody can tell.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{ConnectError, RecvError, SendError, SockError, State};
use net::{Faults, Net, Setup, pattern};
use proptest::prelude::*;
use state::{DropReason, Ready, SockRef, TcpOptions};

const S: Setup = Setup { dormant: 64, ..Setup::USUAL };

/// An open connection, both ends asleep.
fn asleep(seed: u64) -> (Net, SockRef, SockRef) {
    let mut net = Net::new(seed, &S);
    let (_, a, b) = net.open();
    doze(&mut net);
    (net, a, b)
}

/// Time for delayed ACKs, then to sleep: both ends of the only connection.
fn doze(net: &mut Net) {
    net.run(Duration::from_millis(300));
    assert_eq!(net.sleep(), [1, 1]);
    for host in 0..2 {
        assert_eq!(net.on(host, |e| e.mem().globals.tcp.used), 0);
    }
}

fn woken(net: &mut Net, host: usize) -> u64 {
    net.on(host, |e| e.counters().tcp.woken)
}

#[test]
fn data_wakes_both_ends_under_their_old_names() {
    let (mut net, a, b) = asleep(1);
    for round in 0..20u8 {
        let (from, to, s, r) = if round % 2 == 0 { (0, 1, a, b) } else { (1, 0, b, a) };
        let data = pattern(round.into(), 1 + usize::from(round) * 700);
        assert_eq!(net.send(from, s, &data), Ok(data.len()));
        net.run(Duration::from_millis(20));
        assert_eq!(net.recv(to, r, 20_000), Ok(data));
        doze(&mut net);
    }
    for (host, s) in [(0, a), (1, b)] {
        let info = net.on(host, |e| e.tcp_info(s)).unwrap();
        assert_eq!((info.retransmits, info.state), (0, State::Established));
        assert_eq!(info.bytes_in + info.bytes_out, (0..20).map(|n| 1 + n * 700).sum::<u64>());
        assert_eq!(net.on(host, |e| e.counters().tcp.retransmits), 0);
    }
}

#[test]
fn looking_at_a_sleeping_connection_does_not_wake_it() {
    let mut net = Net::new(2, &S);
    let (_, a, b) = net.open();
    net.run(Duration::from_millis(300));
    let look = |net: &mut Net, host, s| {
        net.on(host, |e| {
            let info =
                e.tcp_info(s).map(|i| (i.state, i.snd_mss, i.rtt_us, i.rcv_wnd_bytes, i.snd_shift, i.rto_us));
            (e.exists(s), e.ready(s), e.names(s), e.tcp_options(s), info)
        })
    };
    let before = [look(&mut net, 0, a), look(&mut net, 1, b)];
    doze(&mut net);
    let after = [look(&mut net, 0, a), look(&mut net, 1, b)];
    assert_eq!(before.map(|x| (x.0, x.1, x.2, x.3)), after.map(|x| (x.0, x.1, x.2, x.3)));
    for (x, y) in before.iter().zip(after) {
        let (x, y) = (x.4.unwrap(), y.4.unwrap());
        assert_eq!((x.0, x.1, x.2, x.4, x.5), (y.0, y.1, y.2, y.4, y.5));
        assert!((x.3..=x.3 + 128).contains(&y.3), "our window is not made smaller: {x:?} {y:?}");
    }
    for (host, s) in [(0, a), (1, b)] {
        assert_eq!(net.recv(host, s, 10), Err(RecvError::WouldBlock));
        assert_eq!(net.on(host, |e| e.ready(s)), Ready::OUT);
        assert_eq!(woken(&mut net, host), 0);
    }
}

#[test]
fn fin_rst_and_close_find_a_sleeping_connection() {
    let (mut net, a, b) = asleep(3);
    net.close(0, a);
    net.run(Duration::from_millis(100));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
    assert_eq!(net.state(1, b), Some(State::CloseWait));
    net.close(1, b);
    net.run(Duration::from_secs(100));
    assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.open)), [0, 0]);
    assert!(!net.on(0, |e| e.exists(a)) && !net.on(1, |e| e.exists(b)));

    let (mut net, a, b) = asleep(4);
    net.on(1, |e| e.abort(b));
    net.flush(1);
    net.run(Duration::from_millis(100));
    assert_eq!(net.recv(0, a, 10), Err(RecvError::Failed(SockError::Reset)));
    net.close(0, a);
    assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.open)), [0, 0]);
}

#[test]
fn events_come_under_the_old_name_and_token() {
    let (mut net, a, b) = asleep(5);
    assert!(net.on(1, |e| e.set_event_queue(b, 3, 0xfeed_0000_0001)));
    let first = net.on(1, |e| e.poll_event(3)).unwrap();
    assert_eq!((first.sock, first.ready), (b, Ready::OUT));
    net.run(Duration::from_millis(100));
    assert_eq!(net.sleep(), [1, 1]);
    net.send(0, a, b"wake up").unwrap();
    net.run(Duration::from_millis(100));
    let event = net.on(1, |e| e.poll_event(3)).unwrap();
    assert_eq!((event.sock, event.token, event.ready), (b, 0xfeed_0000_0001, Ready::IN));
    assert_eq!(net.on(1, |e| e.poll_event(3)), None);
}

#[test]
fn a_sleeping_connection_probes_its_peer_and_ends_when_that_is_gone() {
    let mut net = Net::new(6, &S);
    let (_, a, b) = net.open();
    let keep = TcpOptions {
        keepalive: 1,
        keep_idle_s: 10,
        keep_interval_s: 2,
        keep_probes: 3,
        ..TcpOptions::default()
    };
    assert!(net.on(0, |e| e.set_tcp_options(a, &keep)));
    net.sleepy_ppm = 1_000_000;
    net.keep_trace = true;
    net.run(Duration::from_secs(35));
    assert_eq!(net.sleep(), [1, 1]);
    let probes = net.segments().iter().filter(|s| s.from == 0).count();
    assert_eq!(probes, 3, "one each 10 s, all answered");
    assert_eq!(net.on(0, |e| e.counters().tcp.keepalives), 3);
    net.filter = Some(Box::new(|_, _| true));
    net.run(Duration::from_secs(10 + 3 * 2 + 2));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
    assert_eq!(net.state(1, b), Some(State::Established));
}

#[test]
fn a_window_that_opens_wakes_the_sender() {
    let mut net = Net::new(7, &Setup { super_segment_max: 0, ..S });
    let small = TcpOptions { rcv_buf_bytes: 4096, ..TcpOptions::default() };
    let listener = net.listen(1, 80, 4);
    assert!(net.on(1, |e| e.set_tcp_options(listener, &small)));
    let (a, b) = net.open_to(listener, 40_000);
    let data = pattern(7, 4096);
    assert_eq!(net.send(0, a, &data), Ok(4096));
    net.run(Duration::from_secs(1));
    assert_eq!(net.sleep(), [1, 0], "the receiver has unread data");
    assert_eq!(net.recv(1, b, 4096), Ok(data.clone()));
    net.flush(1);
    net.run(Duration::from_millis(10));
    assert_eq!(woken(&mut net, 0), 1);
    assert_eq!(net.send(0, a, &data), Ok(4096));
    net.run(Duration::from_secs(1));
    assert_eq!(net.recv(1, b, 4096), Ok(data));
    assert_eq!(net.on(0, |e| e.counters().tcp.window_probes), 0);
}

#[test]
fn a_busy_connection_does_not_sleep() {
    let mut net = Net::new(8, &S);
    let (_, a, b) = net.open();
    net.run(Duration::from_millis(300));
    net.filter = Some(Box::new(|_, _| true));
    net.send(0, a, b"lost").unwrap();
    assert_eq!(net.sleep(), [0, 1], "data in flight");
    net.filter = None;
    net.run(Duration::from_secs(2));
    assert_eq!(net.sleep(), [1, 0], "unread data");
    assert_eq!(net.recv(1, b, 10), Ok(b"lost".to_vec()));
    assert!(net.on(1, |e| e.set_event_queue(b, 1, 1)));
    assert_eq!(net.sleep(), [1, 0], "an event that nobody took");
    net.on(1, |e| e.poll_event(1)).unwrap();
    assert_eq!(net.sleep(), [1, 1]);
}

#[test]
fn many_connections_share_few_rows() {
    let setup = Setup { socks: 8, dormant: 120, ..S };
    let mut net = Net::new(9, &setup);
    let listener = net.listen(1, 80, 16);
    for generation in 0..3u16 {
        let mut pairs = Vec::new();
        for n in 0..100 {
            pairs.push(net.open_to(listener, 30_000 + generation * 1000 + n));
            net.run(Duration::from_millis(100));
        }
        assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.open)), [100, 100]);
        for n in 0..400usize {
            let (a, b) = pairs[(n * 37) % 100];
            let said = (n as u64).to_le_bytes();
            assert_eq!(net.send(0, a, &said), Ok(8));
            net.run(Duration::from_millis(5));
            assert_eq!(net.recv(1, b, 100), Ok(said.to_vec()));
            assert_eq!(net.send(1, b, &said), Ok(8));
            net.run(Duration::from_millis(60));
            assert_eq!(net.recv(0, a, 100), Ok(said.to_vec()));
        }
        for (n, (a, b)) in pairs.iter().enumerate() {
            assert_eq!(net.on(0, |e| e.names(*a)).unwrap().0.port.0, 30_000 + generation * 1000 + n as u16);
            net.close(0, *a);
            net.run(Duration::from_millis(20));
            assert_eq!(net.recv(1, *b, 1), Ok(vec![]));
            net.close(1, *b);
            net.run(Duration::from_millis(20));
        }
        net.run(Duration::from_secs(100));
        for (a, b) in &pairs {
            assert!(!net.on(0, |e| e.exists(*a)) && !net.on(1, |e| e.exists(*b)), "a stale name");
            assert_eq!(net.send(0, *a, b"x"), Err(SendError::Gone));
        }
        assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.open)), [0, 0]);
    }
    net.close(1, listener);
    net.assert_clean(&setup);
}

#[test]
fn a_full_table_is_counted_and_nothing_that_is_open_is_lost() {
    let setup = Setup { socks: 4, dormant: 2, ..S };
    let mut net = Net::new(10, &setup);
    let listener = net.listen(1, 80, 16);
    let pairs: Vec<_> = (0..6)
        .map(|n| {
            let pair = net.open_to(listener, 40_000 + n);
            net.run(Duration::from_millis(300));
            pair
        })
        .collect();
    let (route, l, r) = (net.route(0), net.hosts[0].end(50_000), net.hosts[1].end(80));
    let more = net.on(0, |e| e.tcp_connect(l, r, &route, &TcpOptions::default()));
    assert_eq!(more, Err(ConnectError::NoRoom));
    assert_eq!(net.on(0, |e| e.counters().tcp.table_full), 1);
    // Four connections with unread data hold every row of host 1: the fifth cannot wake, and its segment comes again later.
    for (a, _) in &pairs {
        net.send(0, *a, b"data").unwrap();
        net.run(Duration::from_millis(50));
    }
    let asleep: Vec<usize> = (0..6).filter(|n| net.on(1, |e| e.unread_bytes(pairs[*n].1)) == 0).collect();
    assert_eq!(asleep.len(), 2);
    assert!(net.dropped(1, DropReason::TcpNoTcb) > 0 && net.on(1, |e| e.counters().tcp.table_full) > 0);
    assert_eq!(net.send(1, pairs[asleep[0]].1, b"x"), Err(SendError::WouldBlock));
    // Closed while no row is free: as soon as one is.
    net.close(1, pairs[asleep[0]].1);
    assert!(!net.on(1, |e| e.exists(pairs[asleep[0]].1)));
    for n in (0..6).filter(|n| !asleep.contains(n)) {
        assert_eq!(net.recv(1, pairs[n].1, 10), Ok(b"data".to_vec()));
    }
    net.run(Duration::from_secs(5));
    assert_eq!(net.recv(1, pairs[asleep[1]].1, 10), Ok(b"data".to_vec()));
    assert_eq!(net.state(0, pairs[asleep[0]].0), Some(State::Closed), "data for a closed socket is reset");
}

#[test]
fn connections_without_traffic_fall_asleep_after_a_time() {
    let setup = Setup { socks: 8, ..S };
    let mut net = Net::new(11, &setup);
    let listener = net.listen(1, 80, 16);
    let pairs: Vec<_> = (0..4).map(|n| net.open_to(listener, 40_000 + n)).collect();
    for _ in 0..30 {
        net.run(Duration::from_secs(1));
        net.send(0, pairs[0].0, b"x").unwrap();
        net.run(Duration::from_millis(1));
        assert_eq!(net.recv(1, pairs[0].1, 1), Ok(b"x".to_vec()));
    }
    assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.dormant)), [3, 3]);
    // Too few rows are in use now to care: no timer is left that would keep an idle lane busy.
    net.run(Duration::from_secs(1));
    assert_eq!(net.on(1, |e| e.next_deadline()), Instant::NEVER);
}

#[test]
fn a_time_of_zero_leaves_connections_awake() {
    let mut net = Net::new(12, &Setup { socks: 4, ..S });
    for host in 0..2 {
        net.on(host, |e| e.set_hibernate_after(0));
    }
    net.open();
    net.run(Duration::from_secs(100));
    assert_eq!([0, 1].map(|h| net.on(h, |e| e.counters().tcp.dormant)), [0, 0]);
}

#[test]
fn transfers_are_whole_with_every_idle_moment_slept_through() {
    for seed in 0..24 {
        let faults = Faults {
            loss_ppm: [0, 10_000, 50_000][seed as usize % 3],
            dup_ppm: [0, 20_000][seed as usize % 2],
            reorder_ppm: [0, 100_000][(seed as usize / 2) % 2],
            delay: Duration::from_micros([50, 20_000][(seed as usize / 4) % 2]),
            split: seed % 5 != 0,
            ..Faults::NONE
        };
        let mut net = Net::new(seed, &S);
        net.faults = faults;
        net.sleepy_ppm = 1_000_000;
        let (listener, a, b) = net.open();
        net.transfer(a, b, 100_000, 30_000);
        net.close(1, listener);
        net.faults = Faults::NONE;
        net.run(Duration::from_secs(400));
        net.assert_clean(&S);
    }
}

/// What a program does next: at which end, on which connection, how many bytes, and how long nothing happens then.
type Step = (usize, usize, usize, u64);

/// Does `steps` on three connections, every idle one put to sleep as often as `sleepy_ppm` says; gives what each end received.
fn streams(seed: u64, sleepy_ppm: u32, steps: &[Step]) -> Vec<[Vec<u8>; 2]> {
    let setup = Setup { socks: if sleepy_ppm > 0 { 4 } else { 64 }, ..S };
    let mut net = Net::new(seed, &setup);
    let listener = net.listen(1, 80, 16);
    let pairs: Vec<_> = (0..3).map(|n| net.open_to(listener, 40_000 + n)).collect();
    net.faults = Faults { loss_ppm: 20_000, dup_ppm: 20_000, reorder_ppm: 50_000, ..Faults::NONE };
    net.sleepy_ppm = sleepy_ppm;
    let mut got = vec![[vec![], vec![]]; 3];
    let mut read = |net: &mut Net| {
        for (n, (a, b)) in pairs.iter().enumerate() {
            for (host, s) in [(0, *a), (1, *b)] {
                while let Ok(bytes) = net.recv(host, s, 3000)
                    && !bytes.is_empty()
                {
                    got[n][host].extend_from_slice(&bytes);
                }
            }
        }
    };
    for (at, &(host, which, len, pause_ms)) in steps.iter().enumerate() {
        let s = if host == 0 { pairs[which].0 } else { pairs[which].1 };
        assert_eq!(net.send(host, s, &pattern(at as u64, len)), Ok(len));
        net.run(Duration::from_millis(pause_ms));
        read(&mut net);
    }
    for _ in 0..60 {
        net.run(Duration::from_secs(2));
        read(&mut net);
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn sleep_at_random_moments_changes_no_byte_of_any_stream(
        seed in any::<u64>(),
        sleepy_ppm in 100_000u32..1_000_000,
        steps in prop::collection::vec((0usize..2, 0usize..3, 1usize..6000, 0u64..400), 1..20),
    ) {
        prop_assert_eq!(streams(seed, 0, &steps), streams(seed, sleepy_ppm, &steps));
    }
}
