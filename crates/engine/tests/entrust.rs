//! A connection that leaves for the kernel: what is told of it, and what stays.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod net;

use base::Duration;
use engine::{Engine, RecvError, State};
use net::{Net, Setup, pattern};
use state::{DropReason, SockRef};

/// What is unread, then what is queued.
fn all(e: &Engine<'_>, s: SockRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    e.tcp_copy_all(s, |piece| bytes.extend_from_slice(piece));
    bytes
}

#[test]
fn what_the_kernel_needs_is_told_with_fins_apart() {
    let mut net = Net::new(1, &Setup::USUAL);
    let (_, client, server) = net.open();
    net.send(0, client, &pattern(1, 5000)).unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(net.recv(1, server, 1000).unwrap(), pattern(1, 5000)[..1000]);
    // Nothing is delivered any more: what the server sends is not acknowledged.
    net.send(1, server, &pattern(2, 200_000)).unwrap();
    let before = net.on(1, |e| (e.tcp_stopped(server).unwrap(), all(e, server)));
    let (stopped, bytes) = before;
    let (unread, bytes) = bytes.split_at(4000);
    assert_eq!((stopped.unread_bytes, bytes.len()), (4000, stopped.snd_end.since(stopped.snd_una) as usize));
    assert_eq!(unread, &pattern(1, 5000)[1000..]);
    assert_eq!(bytes, &pattern(2, 200_000)[..bytes.len()]);
    assert!(stopped.snd_nxt.at_or_before(stopped.snd_end) && stopped.snd_una.at_or_before(stopped.snd_nxt));
    assert!(!stopped.fin_sent && !stopped.fin_received && stopped.timestamp.is_some());
    net.on(0, |e| e.shutdown(client, engine::How::Write)).unwrap();
    net.run(Duration::from_secs(2));
    net.on(1, |e| e.shutdown(server, engine::How::Write)).unwrap();
    let after = net.on(1, |e| e.tcp_stopped(server)).unwrap();
    assert!(after.fin_sent && after.fin_received);
    assert_eq!(after.rcv_nxt, stopped.rcv_nxt, "the FIN is not counted");
}

#[test]
fn an_urgent_byte_among_what_is_unread_is_told_as_data() {
    let mut net = Net::new(4, &Setup::USUAL);
    let (_, client, server) = net.open();
    net.on(0, |e| e.tcp_send_urgent(client, b"abcU", false)).unwrap();
    net.send(0, client, b"def").unwrap();
    net.run(Duration::from_millis(100));
    let (stopped, bytes) = net.on(1, |e| (e.tcp_stopped(server).unwrap(), all(e, server)));
    assert_eq!((stopped.unread_bytes, bytes.as_slice()), (7, b"abcUdef".as_slice()));
    assert!(net.on(1, |e| e.tcp_entrust(server)));
    assert_eq!(net.on(1, |e| e.audit(true)), Ok(()));
}

#[test]
fn an_entrusted_connection_is_silent_and_leaves_nothing_behind() {
    let setup = Setup::USUAL;
    let mut net = Net::new(2, &setup);
    let (listener, client, server) = net.open();
    net.send(1, server, &pattern(1, 3000)).unwrap();
    net.send(0, client, &pattern(2, 3000)).unwrap();
    net.run(Duration::from_millis(100));
    assert!(net.on(1, |e| e.tcp_entrust(server)));
    assert!(!net.on(1, |e| e.tcp_entrust(server)), "its name is dead");
    assert_eq!(net.recv(1, server, 10), Err(RecvError::Gone));
    let sent = net.on(1, |e| e.counters().tx_packets);
    net.send(0, client, &pattern(3, 3000)).unwrap();
    net.run(Duration::from_millis(500));
    assert!(net.dropped(1, DropReason::TcpEntrusted) > 0);
    assert_eq!(net.on(1, |e| e.counters().tx_packets), sent, "no word to the peer");
    assert_eq!(net.state(0, client), Some(State::Established));
    // Its row is free after a while.
    net.run(Duration::from_secs(2));
    net.on(0, |e| e.abort(client));
    net.on(1, |e| e.close(listener));
    net.run(Duration::from_secs(2));
    net.assert_clean(&setup);
}

#[test]
fn a_connection_that_is_over_or_not_open_yet_stays() {
    let mut net = Net::new(3, &Setup::USUAL);
    let begun = net.connect(0, 4000, 81).unwrap();
    assert!(net.on(0, |e| e.tcp_stopped(begun).is_none() && !e.tcp_entrust(begun)));
    let (_, client, server) = net.open();
    net.on(1, |e| e.abort(server));
    net.run(Duration::from_millis(100));
    assert!(net.on(0, |e| e.tcp_stopped(client).is_none() && !e.tcp_entrust(client)));
}
