//! TIME-WAIT of connections that nobody holds: in small rows, where a lane has them, and the peer cannot tell.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant, SeqNum};
use engine::{SockError, State};
use net::{Net, Packet, Setup, forged};
use state::{SockRef, TcpOptions};
use wire::TcpFlags;

const S: Setup = Setup { dormant: 64, ..Setup::USUAL };

/// Rows of host `host` in use: TCB rows, small rows, and small rows in TIME-WAIT.
fn rows(net: &mut Net, host: usize) -> (u32, u32, u32) {
    net.on(host, |e| {
        let globals = &e.mem().globals;
        (globals.tcp.used, globals.dormant.used, globals.dormant.waiting)
    })
}

/// Ends the connection, host `first` first, whose TIME-WAIT then lasts.
fn end(net: &mut Net, first: usize, [a, b]: [SockRef; 2]) {
    net.close(first, [a, b][first]);
    net.run(Duration::from_micros(300));
    net.close(1 - first, [a, b][1 - first]);
    net.run(Duration::from_micros(300));
}

/// Opens and ends a connection; gives the last FIN of the end that closed second.
fn ended(net: &mut Net, first: usize) -> Packet {
    net.keep_trace = true;
    let (_, a, b) = net.open();
    end(net, first, [a, b]);
    let mut fins = net.trace.iter().filter(|t| t.2.tcp().is_some_and(|s| s.flags().is_fin()));
    fins.next_back().unwrap().2.clone()
}

#[test]
fn a_closed_connection_waits_in_a_small_row() {
    for first in 0..2 {
        let mut net = Net::new(1, &S);
        ended(&mut net, first);
        assert_eq!(rows(&mut net, first), (0, 1, 1));
        assert_eq!(rows(&mut net, 1 - first), (0, 0, 0));
        let tcp = net.on(first, |e| e.counters().tcp);
        assert_eq!((tcp.open, tcp.dormant, tcp.hibernated), (1, 0, 0), "it is no hibernating connection");
        net.run(Duration::from_secs(59));
        assert_eq!(rows(&mut net, first), (0, 1, 1));
        net.run(Duration::from_secs(2));
        assert_eq!(rows(&mut net, first), (0, 0, 0));
        assert_eq!(net.on(first, |e| e.counters().tcp.open), 0);
        assert_eq!(net.on(first, |e| e.next_deadline()), Instant::NEVER);
    }
}

#[test]
fn both_ends_wait_in_small_rows_when_their_fins_crossed() {
    let mut net = Net::new(11, &S);
    let (_, a, b) = net.open();
    net.on(0, |e| e.close(a));
    net.close(1, b);
    net.flush(0);
    net.run(Duration::from_millis(1));
    assert_eq!([0, 1].map(|host| rows(&mut net, host)), [(0, 1, 1); 2]);
    net.run(Duration::from_secs(61));
    assert_eq!([0, 1].map(|host| rows(&mut net, host)), [(0, 0, 0); 2]);
}

#[test]
fn what_a_program_holds_keeps_its_row_until_it_is_closed() {
    let mut net = Net::new(2, &S);
    let (_, a, b) = net.open();
    net.on(0, |e| e.shutdown(a, engine::How::Write)).unwrap();
    net.flush(0);
    net.run(Duration::from_millis(1));
    net.close(1, b);
    net.run(Duration::from_secs(20));
    assert_eq!((net.state(0, a), rows(&mut net, 0)), (Some(State::TimeWait), (1, 0, 0)));
    net.close(0, a);
    assert_eq!(rows(&mut net, 0), (0, 1, 1));
    // The time began with the peer's FIN.
    net.run(Duration::from_secs(39));
    assert_eq!(rows(&mut net, 0), (0, 1, 1));
    net.run(Duration::from_secs(2));
    assert_eq!(rows(&mut net, 0), (0, 0, 0));
}

#[test]
fn a_fin_again_is_answered_and_the_time_starts_anew() {
    let mut net = Net::new(3, &S);
    let fin = ended(&mut net, 0);
    let last = *net.segments().last().unwrap();
    net.run(Duration::from_secs(40));
    for _ in 0..3 {
        net.trace.clear();
        net.filter = Some(Box::new(|_, _| true));
        net.deliver(0, &fin);
        net.run(Duration::from_secs(1));
        let seen = net.segments();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].flags, seen[0].seq, seen[0].ack), (last.flags, last.seq, last.ack));
        assert_eq!(seen[0].options.timestamps.unwrap().echo, last.options.timestamps.unwrap().echo);
        assert_eq!(rows(&mut net, 0), (0, 1, 1), "asleep again");
        net.run(Duration::from_secs(49));
        assert_eq!(rows(&mut net, 0), (0, 1, 1));
    }
    net.run(Duration::from_secs(15));
    assert_eq!(rows(&mut net, 0), (0, 0, 0));
}

#[test]
fn a_new_syn_takes_a_sleeping_one_over_and_an_old_one_does_not() {
    let mut net = Net::new(4, &S);
    let (listener, a, b) = net.open();
    let seq = net.on(1, |e| e.mem().hot.rows()[0].rcv.nxt);
    end(&mut net, 1, [a, b]);
    assert_eq!(rows(&mut net, 1), (0, 1, 1));
    let old = forged(&net, 0, (40_000, 80), (seq.minus(1000), SeqNum(0)), TcpFlags::SYN, &[]);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    net.deliver(1, &old);
    net.flush(1);
    let answer = net.segments();
    assert_eq!((answer.len(), answer[0].flags, answer[0].ack), (1, TcpFlags::ACK, seq.plus(1)));
    assert_eq!(rows(&mut net, 1), (0, 1, 1));
    net.filter = None;
    net.run(Duration::from_millis(5));
    let (a2, b2) = net.open_to(listener, 40_000);
    assert_eq!(net.on(1, |e| e.counters().tcp.time_wait_reused), 1);
    assert_eq!(rows(&mut net, 1), (1, 0, 0));
    net.transfer(a2, b2, 1000, 1000);
}

#[test]
fn a_reset_ends_a_sleeping_one() {
    let mut net = Net::new(5, &S);
    let (_, a, b) = net.open();
    end(&mut net, 0, [a, b]);
    let row = net.on(0, |e| e.mem().dormant.rows()[0]);
    let rst = forged(&net, 1, (80, 40_000), (row.rcv_nxt, row.snd_nxt), TcpFlags::RST, &[]);
    net.deliver(0, &rst);
    assert_eq!(rows(&mut net, 0), (0, 0, 0));
}

#[test]
fn few_rows_are_enough_for_many_that_wait_and_the_oldest_make_room() {
    let setup = Setup { socks: 8, dormant: 63, ..S };
    let mut net = Net::new(6, &setup);
    let listener = net.listen(1, 80, 4);
    for n in 0..100 {
        let (a, b) = net.open_to(listener, 41_000 + n);
        end(&mut net, 1, [a, b]);
        assert_eq!(rows(&mut net, 1), (0, 32.min(u32::from(n) + 1), 32.min(u32::from(n) + 1)));
    }
    let waits = |net: &mut Net, port: u16| {
        net.keep_trace = true;
        net.trace.clear();
        net.filter = Some(Box::new(|_, _| true));
        let ack = forged(net, 0, (port, 80), (SeqNum(1), SeqNum(1)), TcpFlags::ACK, &[]);
        net.deliver(1, &ack);
        net.flush(1);
        let reset = net.segments().iter().any(|s| s.flags.is_rst());
        net.filter = None;
        !reset
    };
    assert!(!waits(&mut net, 41_067) && waits(&mut net, 41_068) && waits(&mut net, 41_099));
    net.close(1, listener);
    net.run(Duration::from_secs(130));
    net.assert_clean(&setup);
}

#[test]
fn those_that_wait_give_way_to_those_that_hibernate() {
    let setup = Setup { socks: 16, dormant: 15, ..S };
    let mut net = Net::new(7, &setup);
    let listener = net.listen(1, 80, 16);
    for n in 0..8 {
        let (a, b) = net.open_to(listener, 41_000 + n);
        end(&mut net, 1, [a, b]);
    }
    assert_eq!(rows(&mut net, 1), (0, 8, 8));
    let pairs: Vec<_> = (0..12).map(|n| net.open_to(listener, 42_000 + n)).collect();
    net.run(Duration::from_millis(300));
    net.sleep();
    let (_, used, waiting) = rows(&mut net, 1);
    assert_eq!((used, waiting), (16, 4), "twelve sleep, and four still wait");
    for (n, (a, b)) in pairs.iter().enumerate() {
        net.transfer(*a, *b, 100 + n, 50);
    }
    net.run(Duration::from_secs(70));
    assert_eq!(rows(&mut net, 1).2, 0);
}

#[test]
fn a_port_that_goes_takes_those_that_wait_behind_it_along() {
    let mut net = Net::new(8, &S);
    let (_, a, b) = net.open();
    end(&mut net, 0, [a, b]);
    assert_eq!(net.on(0, |e| e.drop_port(0)), 1);
    assert_eq!(rows(&mut net, 0), (0, 0, 0));
    assert_eq!(net.on(0, |e| e.mem().hops.rows().iter().filter(|h| h.refs > 0).count()), 0);
}

#[test]
fn a_name_does_not_lead_to_what_waits() {
    let mut net = Net::new(9, &S);
    let (listener, a, b) = net.open();
    end(&mut net, 0, [a, b]);
    assert!(!net.on(0, |e| e.exists(a)));
    assert_eq!(net.send(0, a, b"x"), Err(engine::SendError::Gone));
    // The next connection has the row, and not the name.
    let (a2, b2) = net.open_to(listener, 40_001);
    assert_ne!(a2, a);
    net.transfer(a2, b2, 500, 500);
    assert!(!net.on(0, |e| e.exists(a)));
    assert_eq!(net.on(0, |e| e.take_error(a)), None::<SockError>);
}

#[test]
fn keepalive_does_not_disturb_what_waits() {
    let mut net = Net::new(10, &S);
    let (_, a, b) = net.open();
    let keep = TcpOptions { keepalive: 1, keep_idle_s: 5, keep_interval_s: 5, ..TcpOptions::default() };
    assert!(net.on(0, |e| e.set_tcp_options(a, &keep)));
    end(&mut net, 0, [a, b]);
    net.keep_trace = true;
    net.run(Duration::from_secs(30));
    assert!(net.segments().is_empty());
    assert_eq!(rows(&mut net, 0), (0, 1, 1));
}
