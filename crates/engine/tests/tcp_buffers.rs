//! Buffers that grow with what is read and sent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use engine::Buffers;
use net::{Faults, Net, Setup, pattern};
use state::{SockRef, TcpOptions};

const S: Setup = Setup { frames: 8192, ..Setup::USUAL };
const FIRST: u32 = 65_536;
const MOST: u32 = 3 << 20;

/// Two hosts 50 ms apart whose buffers begin small.
fn net(seed: u64, setup: &Setup) -> Net {
    let mut net = Net::new(seed, setup);
    let buffers = Buffers { first: FIRST, most: MOST };
    for host in 0..2 {
        net.on(host, |e| e.set_buffers(buffers, buffers));
    }
    net.faults = Faults { delay: Duration::from_millis(25), ..Faults::NONE };
    net
}

/// Receive and send buffer.
fn buffers(net: &mut Net, host: usize, s: SockRef) -> (u32, u32) {
    net.on(host, |e| e.tcp_options(s)).map(|o| (o.rcv_buf_bytes, o.snd_buf_bytes)).unwrap()
}

/// Sends `len` bytes from `a` to `b`, which reads all; gives the time it took.
fn carry(net: &mut Net, a: SockRef, b: SockRef, len: usize) -> Duration {
    let data = pattern(1, len);
    let (mut sent, mut got, start) = (0, 0, net.now);
    while got < len {
        while let Ok(n) = net.send(0, a, &data[sent..(sent + 50_000).min(len)]) {
            sent += n;
            if n == 0 || sent == len {
                break;
            }
        }
        while let Ok(bytes) = net.recv(1, b, 1 << 20) {
            got += bytes.len();
        }
        assert!(got == len || net.step());
    }
    net.now.since(start)
}

#[test]
fn a_transfer_over_a_long_path_gets_large_buffers_and_a_connection_that_rests_keeps_small_ones() {
    let mut net = net(1, &S);
    let (listener, a, b) = net.open();
    let (rests, _) = net.open_to(listener, 40_001);
    let took = carry(&mut net, a, b, 10_000_000);
    let (rcv, _) = buffers(&mut net, 1, b);
    let (_, snd) = buffers(&mut net, 0, a);
    assert!((1 << 20..=MOST).contains(&rcv) && (1 << 20..=MOST).contains(&snd), "{rcv} {snd}");
    // With windows of 64 KiB it would be 153 round trips of 50 ms.
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(buffers(&mut net, 0, rests), (FIRST, FIRST));
    // What was read holds no frame.
    net.run(Duration::from_millis(100));
    assert_eq!([net.free_frames(0), net.free_frames(1)], [S.frames; 2]);
}

#[test]
fn without_timestamps_the_window_itself_measures_the_round_trip() {
    let mut net = net(2, &S);
    let (_, a, b) = net.open();
    for host in 0..2 {
        net.on(host, |e| e.mem().hot.rows_mut()[0].flags &= !1);
    }
    let took = carry(&mut net, a, b, 10_000_000);
    let (rcv, _) = buffers(&mut net, 1, b);
    assert!(rcv > 1 << 20 && took < Duration::from_millis(2000), "{rcv} {took:?}");
}

#[test]
fn a_slow_path_and_a_program_that_does_not_read_leave_the_buffer_as_it_is() {
    let mut net = net(3, &S);
    let (_, a, b) = net.open();
    net.on(0, |e| e.tcp_send(a, &pattern(1, 60_000), false)).unwrap();
    net.run(Duration::from_secs(2));
    assert_eq!(buffers(&mut net, 1, b).0, FIRST);
    assert_eq!(net.recv(1, b, 1 << 20).map(|d| d.len()), Ok(60_000));
    for _ in 0..40 {
        // 20 000 bytes in a round trip.
        carry(&mut net, a, b, 20_000);
        net.run(Duration::from_millis(25));
    }
    assert!(buffers(&mut net, 1, b).0 < 3 * FIRST, "{}", buffers(&mut net, 1, b).0);
}

#[test]
fn a_size_that_the_program_has_set_stays() {
    let mut net = net(4, &S);
    let set = TcpOptions { rcv_buf_bytes: 100_000, snd_buf_bytes: 90_000, ..TcpOptions::default() };
    let (_, a, b) = net.open();
    net.on(1, |e| e.set_tcp_options(b, &set));
    net.on(0, |e| e.set_tcp_options(a, &set));
    carry(&mut net, a, b, 2_000_000);
    assert_eq!((buffers(&mut net, 0, a).1, buffers(&mut net, 1, b).0), (90_000, 100_000));
    // Another option leaves what has grown.
    let (_, a, b) = {
        let listener = net.listen(1, 81, 4);
        let a = net.connect(0, 40_002, 81).unwrap();
        net.run(Duration::from_millis(200));
        (listener, a, net.accept(1, listener).unwrap())
    };
    carry(&mut net, a, b, 5_000_000);
    let before = buffers(&mut net, 1, b);
    assert!(before.0 > 4 * FIRST);
    net.on(1, |e| e.set_tcp_options(b, &TcpOptions { nodelay: 1, ..TcpOptions::default() }));
    assert_eq!(buffers(&mut net, 1, b), before);
}

#[test]
fn while_frames_are_short_nothing_grows() {
    let setup = Setup { frames: 4096, ..S };
    let mut net = net(5, &setup);
    let (_, a, b) = net.open();
    let held: Vec<_> = net.on(1, |e| {
        let frames = &mut e.mem().frames;
        let mut all: Vec<_> = std::iter::from_fn(|| frames.alloc()).collect();
        all.drain(..300).for_each(|frame| frames.release(frame));
        all
    });
    assert_eq!(held.len(), 3796);
    carry(&mut net, a, b, 1_000_000);
    assert_eq!(buffers(&mut net, 1, b).0, FIRST);
    net.on(1, |e| held.iter().for_each(|frame| e.mem().frames.release(*frame)));
    carry(&mut net, a, b, 1_000_000);
    assert!(buffers(&mut net, 1, b).0 > 2 * FIRST);
}

#[test]
fn a_connection_that_has_slept_begins_with_small_buffers_and_takes_no_window_back() {
    let setup = Setup { dormant: 64, ..S };
    let mut net = net(6, &setup);
    let (_, a, b) = net.open();
    carry(&mut net, a, b, 10_000_000);
    net.run(Duration::from_secs(2));
    let before = net.on(1, |e| e.tcp_info(b)).unwrap().rcv_wnd_bytes;
    assert!(before > 1 << 20);
    assert_eq!(net.sleep(), [1, 1]);
    let after = carry(&mut net, a, b, 50_000);
    assert!(after < Duration::from_secs(1));
    let window = net.on(1, |e| e.tcp_info(b)).unwrap().rcv_wnd_bytes;
    assert!(window + 50_000 >= before, "{before} {window}");
    assert_eq!(buffers(&mut net, 1, b).0, FIRST);
    carry(&mut net, a, b, 10_000_000);
    assert!(buffers(&mut net, 1, b).0 > 1 << 20);
}
