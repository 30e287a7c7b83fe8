//! Who gets signals for what happens to a socket, and when something is to be signalled.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use base::limits::SIGNAL_ROWS;
use engine::Raised;
use net::{Net, Setup};
use state::{Ready, Signals, SockRef};

const ME: u32 = 7;

fn to(identity: u64, async_fd: u32) -> Signals {
    Signals { owner: 1 << 32 | 9, identity, named_by: ME, signal: 0, async_fd, room: 0 }
}

fn raised(net: &mut Net, me: u32) -> Vec<Raised> {
    std::iter::from_fn(|| net.on(1, |e| e.poll_signal(me))).collect()
}

fn open() -> (Net, SockRef, SockRef) {
    let mut net = Net::new(1, &Setup::USUAL);
    let (_, a, b) = net.open();
    (net, a, b)
}

fn send(net: &mut Net, a: SockRef, data: &[u8]) {
    net.send(0, a, data).unwrap();
    net.run(Duration::from_millis(100));
}

fn urge(net: &mut Net, a: SockRef) {
    assert_eq!(net.on(0, |e| e.tcp_send_urgent(a, b"U", false)), Ok(1));
    net.flush(0);
    net.run(Duration::from_millis(100));
}

#[test]
fn what_happens_is_signalled_once_to_who_asked() {
    let (mut net, a, b) = open();
    send(&mut net, a, b"nobody asked");
    assert!(!net.on(1, |e| e.signals_pending()));
    let to = to(3, 5);
    assert!(net.on(1, |e| e.set_signals(b, &to)));
    assert_eq!(net.on(1, |e| e.signals(b)), to);
    assert!(raised(&mut net, 0).is_empty(), "what was there before is not signalled");
    send(&mut net, a, b"x");
    assert!(net.on(1, |e| e.signals_pending()));
    assert_eq!(raised(&mut net, 0), [Raised { to, ready: Ready::IN }]);
    assert!(!net.on(1, |e| e.signals_pending()));
    // Asking for events is no event.
    assert!(net.on(1, |e| e.set_event_queue(b, 1, 7)));
    assert!(raised(&mut net, 0).is_empty());
    send(&mut net, a, b"y");
    assert_eq!(raised(&mut net, 0).len(), 1);
    assert!(net.on(1, |e| e.set_signals(b, &Signals::default())));
    send(&mut net, a, b"z");
    assert!(!net.on(1, |e| e.signals_pending()));
}

#[test]
fn without_o_async_urgent_data_alone_are_signalled() {
    let (mut net, a, b) = open();
    assert!(net.on(1, |e| e.set_signals(b, &to(3, 0))));
    send(&mut net, a, b"x");
    assert!(raised(&mut net, 0).is_empty());
    urge(&mut net, a);
    assert_eq!(raised(&mut net, 0), [Raised { to: to(3, 0), ready: Ready::ALARM }]);
}

#[test]
fn who_cannot_be_told_from_another_is_left_to_the_process_that_named_it() {
    let (mut net, a, b) = open();
    assert!(net.on(1, |e| e.set_signals(b, &to(0, 5))));
    send(&mut net, a, b"x");
    assert!(raised(&mut net, ME + 1).is_empty());
    assert!(net.on(1, |e| e.signals_pending()));
    assert_eq!(raised(&mut net, ME).len(), 1);
    assert!(raised(&mut net, ME).is_empty());
    assert!(!net.on(1, |e| e.signals_pending()));
}

#[test]
fn a_socket_that_is_closed_signals_nothing_and_frees_its_row() {
    let mut net = Net::new(1, &Setup::USUAL);
    let (listener, a, b) = net.open();
    for _ in 0..2 * SIGNAL_ROWS {
        assert!(net.on(1, |e| e.set_signals(b, &to(3, 5))));
        assert!(net.on(1, |e| e.set_signals(b, &Signals::default())));
    }
    assert!(net.on(1, |e| e.set_signals(b, &to(3, 5))));
    assert!(net.on(1, |e| e.set_signals(listener, &to(4, 6))));
    net.on(1, |e| e.close(b));
    assert!(!net.on(1, |e| e.set_signals(b, &to(3, 5))), "a stale name");
    send(&mut net, a, b"x");
    assert!(raised(&mut net, 0).is_empty());
    assert_eq!(net.on(1, |e| e.signals(listener)), to(4, 6));
}

#[test]
fn a_connection_of_which_somebody_is_told_does_not_hibernate() {
    let mut net = Net::new(1, &Setup { dormant: 8, ..Setup::USUAL });
    let (_, _, b) = net.open();
    assert!(net.on(1, |e| e.set_signals(b, &to(3, 5))));
    net.run(Duration::from_secs(60));
    assert_eq!(net.on(1, |e| e.hibernate_idle(8)), 0);
    assert!(net.on(1, |e| e.set_signals(b, &Signals::default())));
    assert_eq!(net.on(1, |e| e.hibernate_idle(8)), 1);
}
