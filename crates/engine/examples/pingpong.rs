//! Instruction count of request and answer between two engines: run under callgrind with and without rounds.
#[path = "../tests/net/mod.rs"]
mod net;
use base::Duration;
use base::*;
use net::*;
use state::*;

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(0, |s| s.parse().unwrap());
    let mut n = Net::new(1, &Setup { frames: 1024, socks: 16, ..Setup::USUAL });
    let (_, a, b) = n.open();
    n.run(Duration::from_millis(300));
    let socks = [a, b];
    let mut now = n.now;
    let Net { hosts, .. } = &mut n;
    // Both regions are carved once; frames are copied by a trivial port.
    let [h0, h1] = hosts;
    let mut bufs = vec![0u8; 2048];
    h0.engine(now, |e0| {
        h1.engine(now, |e1| {
            for _ in 0..rounds {
                now = now.plus(Duration::from_micros(20));
                round(e0, e1, socks[0], socks[1], now, &mut bufs);
                now = now.plus(Duration::from_micros(20));
                round(e1, e0, socks[1], socks[0], now, &mut bufs);
            }
        });
    });
}

#[inline(never)]
fn round(
    from: &mut engine::Engine<'_>,
    to: &mut engine::Engine<'_>,
    s: SockRef,
    r: SockRef,
    now: Instant,
    buf: &mut [u8],
) {
    from.set_now(now);
    to.set_now(now);
    stack_send(from, s);
    let mut out = TxBatch::new();
    stack_poll(from, &mut out);
    let mut batch = RxBatch::new();
    port(from, to, &out, &mut batch, buf);
    stack_frames(to, &mut batch);
    stack_timers(to);
    stack_recv(to, r, buf);
}
#[inline(never)]
fn stack_send(e: &mut engine::Engine<'_>, s: SockRef) {
    assert_eq!(e.tcp_send(s, &[7; 64], false), Ok(64));
}
#[inline(never)]
fn stack_poll(e: &mut engine::Engine<'_>, out: &mut TxBatch) {
    assert_eq!(e.poll_transmit(out), 1);
}
#[inline(never)]
fn stack_frames(e: &mut engine::Engine<'_>, b: &mut RxBatch) {
    e.handle_frames(b);
}
#[inline(never)]
fn stack_timers(e: &mut engine::Engine<'_>) {
    e.handle_timers();
}
#[inline(never)]
fn stack_recv(e: &mut engine::Engine<'_>, s: SockRef, buf: &mut [u8]) {
    assert_eq!(e.tcp_recv(s, buf, false), Ok(64));
}
#[inline(never)]
fn port(
    from: &mut engine::Engine<'_>,
    to: &mut engine::Engine<'_>,
    out: &TxBatch,
    batch: &mut RxBatch,
    buf: &mut [u8],
) {
    for p in out.items() {
        let mut n = 0;
        let d = from.mem().frames.data(p.head);
        buf[..d.len()].copy_from_slice(d);
        n += d.len();
        for piece in p.pieces() {
            let c = from.mem().frames.cell(piece.frame);
            buf[n..n + piece.len as usize].copy_from_slice(&c[piece.offset as usize..][..piece.len as usize]);
            n += piece.len as usize;
        }
        from.mem().frames.release(p.head);
        let f = to.mem().frames.alloc().unwrap();
        to.mem().frames.cell_mut(f)[256..256 + n].copy_from_slice(&buf[..n]);
        to.mem().frames.meta_mut(f).unwrap().len = n as u16;
        batch.push(RxFrame {
            head: f,
            len: n as u32,
            gso_size: 0,
            port: 0,
            local_peer: true,
            csum: CsumState::Unfinished,
        });
    }
}
