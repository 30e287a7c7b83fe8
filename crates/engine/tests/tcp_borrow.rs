//! Bytes written into frames and read in frames are the bytes that copying would have carried.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{How, RecvError, SendError};
use net::{Faults, Net, Setup, pattern};
use proptest::prelude::*;
use state::SockRef;

/// Queues bytes of `data` from `sent` on, in frames or by copy as `in_frames` says, `fill` bytes at most in a frame.
fn write(
    net: &mut Net,
    s: SockRef,
    data: &[u8],
    sent: &mut usize,
    (in_frames, len, fill): (bool, usize, usize),
) {
    let rest = &data[*sent..data.len().min(*sent + len)];
    let n = net.on(0, |e| {
        if !in_frames {
            return e.tcp_send(s, rest, false);
        }
        let mut done = 0;
        e.tcp_send_with(s, rest.len(), |room| {
            let n = room.len().min(fill);
            room[..n].copy_from_slice(&rest[done..done + n]);
            room[n..].fill(0xee);
            done += n;
            n
        })
    });
    match n {
        Ok(n) => *sent += n,
        Err(SendError::WouldBlock) => {}
        Err(e) => panic!("{e:?}"),
    }
    net.flush(0);
}

/// Reads what there is, in frames or by copy, taking `most` bytes of a piece at most. True: the stream is at its end.
fn read(net: &mut Net, s: SockRef, got: &mut Vec<u8>, (in_frames, most): (bool, usize)) -> bool {
    let mut called = false;
    let n = net.on(1, |e| {
        if !in_frames {
            let mut buf = vec![0; most];
            let n = e.tcp_recv(s, &mut buf, false)?;
            got.extend_from_slice(&buf[..n]);
            return Ok(n);
        }
        e.tcp_recv_with(s, |piece| {
            called = true;
            let n = piece.len().min(most);
            got.extend_from_slice(&piece[..n]);
            n
        })
    });
    net.flush(1);
    match n {
        Ok(n) => n == 0 && !called,
        Err(RecvError::WouldBlock) => false,
        Err(e) => panic!("{e:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn frames_carry_what_copies_would(
        seed in any::<u64>(),
        bytes in 1_usize..300_000,
        loss_ppm in prop_oneof![Just(0_u32), Just(10_000)],
        few_frames in any::<bool>(),
        steps in prop::collection::vec((any::<bool>(), 1_usize..9000, 1_usize..5000, any::<bool>(), 1_usize..9000), 1..40),
    ) {
        let setup = Setup { frames: if few_frames { 400 } else { 4096 }, ..Setup::USUAL };
        let mut net = Net::new(seed, &setup);
        net.faults = Faults { loss_ppm, ..Faults::NONE };
        let (listener, a, b) = net.open();
        let data = pattern(seed, bytes);
        let (mut sent, mut got, mut finished) = (0, Vec::new(), false);
        for &(frames_out, len, fill, frames_in, most) in steps.iter().cycle() {
            if sent < data.len() {
                write(&mut net, a, &data, &mut sent, (frames_out, len, fill));
            } else if !finished {
                net.on(0, |e| e.shutdown(a, How::Write)).unwrap();
                net.flush(0);
                finished = true;
            }
            if read(&mut net, b, &mut got, (frames_in, most)) {
                break;
            }
            let at = net.next();
            prop_assert!(at != Instant::NEVER || sent < data.len() || got.len() < sent, "stuck");
            if at != Instant::NEVER {
                net.go_to(at);
            }
        }
        prop_assert!(got == data);
        net.close(0, a);
        net.close(1, b);
        net.close(1, listener);
        net.faults = Faults::NONE;
        net.run(Duration::from_secs(400));
        net.assert_clean(&setup);
    }
}

#[test]
fn an_unwilling_filler_queues_nothing_and_holds_no_frame() {
    let mut net = Net::new(5, &Setup::USUAL);
    let (_, a, b) = net.open();
    let free = net.free_frames(0);
    assert_eq!(net.on(0, |e| e.tcp_send_with(a, 100, |_| 0)), Ok(0));
    assert_eq!(net.free_frames(0), free);
    assert_eq!(net.on(0, |e| e.unsent_bytes(a)), 0);
    // It may say that it filled more than it was given.
    assert_eq!(net.on(0, |e| e.tcp_send_with(a, 100, |_| usize::MAX)), Ok(100));
    net.flush(0);
    net.run(Duration::from_millis(10));
    assert_eq!(net.on(1, |e| e.tcp_recv_with(b, |_| usize::MAX)), Ok(100));
    assert_eq!(net.on(1, |e| e.tcp_recv_with(b, |_| 1)), Err(RecvError::WouldBlock));
}

#[test]
fn a_full_send_buffer_gives_no_room_to_fill() {
    let mut net = Net::new(6, &Setup::USUAL);
    let (_, a, _) = net.open();
    let mut calls = 0;
    while net.on(0, |e| {
        e.tcp_send_with(a, 1 << 20, |room| {
            calls += 1;
            room.len()
        })
    }) != Err(SendError::WouldBlock)
    {}
    let before = calls;
    assert_eq!(net.on(0, |e| e.tcp_send_with(a, 10, |_| panic!("called"))), Err(SendError::WouldBlock));
    assert_eq!(calls, before);
}
