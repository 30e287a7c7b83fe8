//! The control socket of a memif wire: ends that meet, that are sent away, and that disappear.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod rig;

use port::Port;
use port::memif::{Connection, MemifSpec, News, Role, Wire, WireShape};
use rig::{FRAMES, Memory, pattern, setup, udp_head};
use state::{CsumState, RxBatch};
use sys::fds;

fn spec(role: Role, name: &str) -> MemifSpec {
    MemifSpec {
        role,
        path: format!("@corelane-memif-{}-{name}", std::process::id()),
        id: 3,
        secret: "sesame".to_owned(),
        shape: WireShape { log2_ring: 4, buffer_bytes: 512 },
    }
}

fn ends(name: &str) -> (Connection, Connection) {
    (Connection::open(spec(Role::Client, name)).unwrap(), Connection::open(spec(Role::Server, name)).unwrap())
}

/// Lets both ends talk until each has news.
fn meet(client: &mut Connection, server: &mut Connection) -> (News, News) {
    let (mut a, mut b) = (News::None, News::None);
    for _ in 0..20 {
        if matches!(a, News::None) {
            a = client.advance().unwrap();
        }
        if matches!(b, News::None) {
            b = server.advance().unwrap();
        }
    }
    (a, b)
}

fn up(client: &mut Connection, server: &mut Connection) -> (Wire, Wire) {
    match meet(client, server) {
        (News::Up(a), News::Up(b)) => (a, b),
        news => panic!("no wire: {news:?}"),
    }
}

#[test]
fn a_client_and_a_server_meet_and_packets_pass_both_ways_with_finished_checksums() {
    let (mut client, mut server) = ends("meet");
    let (a, b) = up(&mut client, &mut server);
    let mut memory = Memory::new(FRAMES);
    let mut ports = [a.into_port(memory.area, setup()).unwrap(), b.into_port(memory.area, setup()).unwrap()];
    for _ in 0..100 {
        let text = pattern(1400);
        let mut packet = memory.packet(&udp_head(1, 2, text.len()), &text);
        (packet.csum_start, packet.csum_offset) = (34, 6);
        let [from, to] = &mut ports;
        assert_eq!(from.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
        memory.release_payload(&packet);
        let mut batch = RxBatch::new();
        to.rx(&mut memory.frames(), &mut batch).unwrap();
        let [got] = *batch.items() else { panic!("one packet") };
        assert_eq!(got.csum, CsumState::Unknown);
        let bytes = memory.take(&got);
        let pseudo = [&bytes[26..34], &[0, 17], &bytes[38..40]].concat();
        assert_eq!(rig::ones(&[&pseudo, &bytes[34..]].concat()), 0xffff);
        ports.reverse();
    }
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn the_end_of_one_end_ends_the_wire_of_the_other_and_another_peer_may_come() {
    let (mut client, mut server) = ends("end");
    let memory = Memory::new(FRAMES);
    for _ in 0..3 {
        let (_, b) = up(&mut client, &mut server);
        let mut port = b.into_port(memory.area, setup()).unwrap();
        assert!(server.is_up());
        drop(client);
        let News::Down(why) = server.advance().unwrap() else { panic!("it is gone") };
        assert_eq!(why, "the peer ended it: the interface is closed");
        let mut stock = memory.stock;
        assert!(port.rx(&mut memory.area.frames(&mut stock), &mut RxBatch::new()).is_err());
        client = Connection::open(spec(Role::Client, "end")).unwrap();
    }
}

#[test]
fn who_does_not_know_the_id_or_the_secret_is_sent_away() {
    let (_, mut server) = ends("away");
    for (id, secret, reason) in
        [(4, "sesame", "no interface with this id"), (3, "sesamo", "wrong secret"), (3, "", "wrong secret")]
    {
        let spec = MemifSpec { id, secret: secret.to_owned(), ..spec(Role::Client, "away") };
        let mut client = Connection::open(spec).unwrap();
        let (News::Down(theirs), News::Down(ours)) = meet(&mut client, &mut server) else {
            panic!("refused")
        };
        assert_eq!((theirs, ours.as_str()), (format!("the peer ended it: {reason}"), reason));
    }
}

#[test]
fn nobody_to_connect_to_is_no_error() {
    let mut client = Connection::open(spec(Role::Client, "nobody")).unwrap();
    assert!(matches!(client.advance(), Ok(News::None)));
    assert!(client.poll_fd().is_none());
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let path = std::env::temp_dir().join(format!("corelane-memif-{}", std::process::id()));
    let path = path.to_str().unwrap();
    let spec = MemifSpec { path: path.to_owned(), ..spec(Role::Server, "") };
    drop(fds::listen_path(path).unwrap());
    assert!(std::path::Path::new(path).exists());
    let first = Connection::open(spec.clone()).unwrap();
    assert!(Connection::open(spec).is_err());
    drop(first);
    assert!(!std::path::Path::new(path).exists());
}

/// One message of a client with a field changed here and there: the server must send it away or go on, whatever it says.
#[test]
fn a_client_that_talks_nonsense_is_sent_away_and_the_next_one_is_served() {
    let (_, mut server) = ends("nonsense");
    let path = spec(Role::Client, "nonsense").path;
    let mut rng = base::Rng::new(7);
    let mut wires = 0;
    for round in 0..2000_u32 {
        let socket = fds::connect_path(&path).unwrap();
        let memory = sys::memory::memfd("test", 4096, false).unwrap().fd;
        let window = sys::window::Window::map(&memory, 0, 4096).unwrap();
        for ring_at in [0, 2048] {
            assert!(window.write(ring_at, &sys::memif::COOKIE.to_ne_bytes()));
        }
        let event = fds::event().unwrap();
        let mut conversation = conversation();
        let victim = (round as usize) % conversation.len();
        for _ in 0..1 + round % 3 {
            let at = (rng.next_u64() % 48) as usize;
            conversation[victim][at] = rng.next_u64() as u8;
        }
        let mut alive = true;
        for (at, message) in conversation.iter().enumerate() {
            use std::os::fd::AsFd;
            let fd = match at {
                1 => vec![memory.as_fd()],
                2 | 3 => vec![event.as_fd()],
                _ => Vec::new(),
            };
            let fd = if round % 7 == 6 { Vec::new() } else { fd };
            alive = alive && fds::send(&socket, message, &fd).is_ok();
            // Whatever it finds, it neither panics nor stops to serve.
            match server.advance().unwrap() {
                News::Down(_) => alive = false,
                News::Up(wire) => {
                    wires += 1;
                    let memory = Memory::new(64);
                    let mut stock = memory.stock;
                    if let Ok(mut port) = wire.into_port(memory.area, setup()) {
                        let _ = port.rx(&mut memory.area.frames(&mut stock), &mut RxBatch::new());
                    }
                }
                News::None => {}
            }
        }
        drop(socket);
        while !matches!(server.advance().unwrap(), News::None) {}
    }
    assert!(wires > 100, "some changes do not matter: {wires}");
    let mut client = Connection::open(spec(Role::Client, "nonsense")).unwrap();
    up(&mut client, &mut server);
}

/// INIT, ADD_REGION, ADD_RING twice and CONNECT as a client of one page would send them.
fn conversation() -> [[u8; 128]; 5] {
    let message = |head: &[u8]| {
        let mut bytes = [0; 128];
        bytes[..head.len()].copy_from_slice(head);
        bytes
    };
    let mut init = message(&[3, 0, 0, 2, 3, 0, 0, 0, 0]);
    init[9..15].copy_from_slice(b"sesame");
    [
        init,
        message(&[4, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]),
        message(&[5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]),
        message(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 5]),
        message(&[6, 0]),
    ]
}
