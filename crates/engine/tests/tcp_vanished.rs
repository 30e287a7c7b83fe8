//! Peers that may be gone without a word are asked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use base::Idx;
use engine::{SockError, State};
use net::{Net, Setup};
use state::ports::PORT_WIRE;

/// What `host` 0 finds of connection `a` when it asks all of the other host's.
fn ask(net: &mut Net) -> u32 {
    let peer = net.hosts[1].addr;
    let asked = net.on(0, |e| e.probe_peer(peer));
    net.run(Duration::from_millis(1));
    asked
}

#[test]
fn a_peer_that_has_forgotten_its_connection_resets_it() {
    for setup in [Setup::USUAL, Setup { dormant: 8, ..Setup::USUAL }] {
        let mut net = Net::new(1, &setup);
        let (_, a, b) = net.open();
        net.run(Duration::from_secs(60));
        if setup.dormant > 0 {
            assert_eq!(net.on(0, |e| e.hibernate_idle(8)), 1);
        }
        // Nobody hears that it ends.
        net.filter = Some(Box::new(|from, _| from == 1));
        net.on(1, |e| e.abort(b));
        net.run(Duration::from_millis(1));
        net.filter = None;
        assert_eq!(net.state(0, a), Some(State::Established));
        assert_eq!(ask(&mut net), 1);
        assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Reset));
    }
}

#[test]
fn a_peer_that_lives_says_so_and_both_go_on() {
    let mut net = Net::new(2, &Setup::USUAL);
    let (_, a, b) = net.open();
    assert_eq!(net.send(0, a, b"hello"), Ok(5));
    net.run(Duration::from_secs(1));
    let before = net.on(0, |e| e.counters().tcp.segments_out);
    assert_eq!(ask(&mut net), 1);
    assert_eq!(net.on(0, |e| e.counters().tcp.segments_out), before + 1);
    assert_eq!([net.state(0, a), net.state(1, b)], [Some(State::Established); 2]);
    assert_eq!(net.recv(1, b, 100).unwrap(), b"hello");
    net.transfer(a, b, 100_000, 100_000);
}

#[test]
fn connections_to_others_or_by_wires_are_not_asked() {
    let mut net = Net::new(3, &Setup::USUAL);
    net.open();
    let own = net.hosts[0].addr;
    assert_eq!(net.on(0, |e| e.probe_peer(own)), 0);
    net.on(0, |e| e.mem().ports.get_mut(Idx::new(0)).unwrap().flags |= PORT_WIRE);
    assert_eq!(ask(&mut net), 0);
}
