//! Listeners that share an address and a port (SO_REUSEPORT).

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::wires::{explain, said};
use crate::world::{OURS, Process, Side, World, send_signal, wait_until};

/// Threads with a listener of their own each, in as many processes as said; each answers with its name and holds the connection.
const SERVE: &str = "
import os, socket, sys, threading
address, port, processes, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def serve(name):
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    l.bind((address, port)); l.listen(64)
    os.write(1, b'pid %d\\n' % os.getpid())
    held = []
    while True:
        c, _ = l.accept()
        c.sendall(name.encode()); held.append(c)
number = 0
for n in range(1, processes):
    if os.fork() == 0: number = n; break
for t in range(1, threads): threading.Thread(target=serve, args=(f'{number}.{t}\\n',)).start()
serve(f'{number}.0\\n')";

/// Opens connections and prints which listener had each, while all are open.
const ASK: &str = "
import socket, sys, collections, signal
all = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
for name, count in sorted(collections.Counter(s.makefile().readline().strip() for s in all).items()): print(name, count)
print('done', flush=True)
signal.pause()";

/// Starts [`SERVE`] with lanes, and waits until all listeners are waited on.
fn serve(world: &World, port: u16, (processes, threads): (usize, usize)) -> (Process, BTreeSet<String>) {
    let words = [usize::from(port), processes, threads].map(|n| n.to_string());
    let line = ["python3", "-c", SERVE, OURS, &words[0], &words[1], &words[2]];
    let server = world.spawn(Side::Ours, &format!("server{port}"), &World::corelane(&line));
    let pids = || -> BTreeSet<String> {
        server.output().lines().filter_map(|line| Some(line.strip_prefix("pid ")?.to_owned())).collect()
    };
    let waited = |pid: &String| explain(world, Side::Ours, pid).matches("listens on port").count() == threads;
    wait_until("all are waited on", 20, || pids().len() == processes && pids().iter().all(waited));
    let pids = pids();
    (server, pids)
}

/// How many connections each listener has got.
fn shares(output: &str) -> Vec<(String, u32)> {
    let words = output.lines().filter_map(|line| line.split_once(' '));
    words.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

#[test]
fn listeners_of_one_process_and_of_several_share_the_connections_of_their_port() {
    let Some(world) = World::new(&["python3", "ip", "ss"]) else { return };
    for (port, processes, threads) in [(9010, 1, 3), (9011, 2, 2)] {
        let count = processes * threads;
        let _server = serve(&world, port, (processes, threads));
        let (_client, got, by_kernel) = asked(&world, &format!("client{port}"), port);
        let even = 120 / count as u32;
        assert_eq!((got.len(), by_kernel), (count, 0), "{got:?}");
        assert!(got.iter().all(|(_, n)| (even / 3..=even * 2).contains(n)), "{got:?}");
    }
}

/// Two listeners, of which one closes when told so, with connections that wait at it; then the other one serves all, and what comes later.
const CLOSE: &str = "
import os, select, signal, socket, sys
def listener():
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    l.bind((sys.argv[1], int(sys.argv[2]))); l.listen(128); l.setblocking(False)
    return l
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
a, b = listener(), listener()
e = select.epoll()
for l in (a, b): e.register(l, select.EPOLLIN)
e.poll(0)
print('ready', os.getpid(), flush=True)
signal.sigwait([signal.SIGUSR1])
first = [a.accept()[0] for _ in range(3)]
a.close()
b.setblocking(True)
print('closed', flush=True)
for c in first: c.sendall(b'ok\\n')
while True:
    c, _ = b.accept()
    c.sendall(b'ok\\n'); c.close()";

const OPEN: &str = "
import socket, sys
all = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
print('open', flush=True)
for s in all: assert s.recv(10) == b'ok\\n', s
print('done', flush=True)";

#[test]
fn connections_that_wait_at_a_listener_that_closes_are_those_of_the_other_one_at_its_port() {
    let Some(world) = World::new(&["python3", "ip", "ss"]) else { return };
    let mut server =
        world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", CLOSE, OURS, "9012"]));
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let open = |name: &str, side| world.spawn(side, name, &["python3", "-c", OPEN, OURS, "9012", "60"]);
    let first = open("first", Side::Peer);
    wait_until("all are open", 20, || first.output().contains("open"));
    let held = world.check(Side::Ours, 5, &["ss", "-Htn", "state", "established"]);
    assert_eq!(held.trim(), "", "the kernel has none of them");
    let python = said(&server, "ready").and_then(|pid| pid.parse().ok()).expect("its number");
    send_signal(python, Signal::USR1);
    wait_until("all are answered", 30, || {
        server.assert_running();
        first.output().contains("done")
    });
    // Those that come later, from next door and from this host.
    for (name, side) in [("second", Side::Peer), ("own", Side::Ours)] {
        let later = open(name, side);
        wait_until("those that came later are answered", 30, || later.output().contains("done"));
    }
    let left = world.check(Side::Ours, 5, &["ss", "-Hltn", "sport = :9012"]);
    assert_eq!(left.lines().count(), 1, "the kernel's listener behind the closed one is gone: {left}");
}

/// The connections that each listener got of a client's, which holds them until it is ended, and how many are the kernel's.
fn asked(world: &World, name: &str, port: u16) -> (Process, Vec<(String, u32)>, usize) {
    let client = world.spawn(Side::Peer, name, &["python3", "-c", ASK, OURS, &port.to_string(), "120"]);
    wait_until("all are answered", 30, || client.output().contains("done"));
    let got = shares(&client.output());
    assert_eq!(got.iter().map(|(_, n)| n).sum::<u32>(), 120);
    let held =
        world.check(Side::Ours, 5, &["ss", "-Htn", "state", "established", &format!("sport = :{port}")]);
    (client, got, held.lines().count())
}

#[test]
fn a_program_outside_corelane_that_shares_the_port_gets_its_share_by_the_kernel() {
    let Some(world) = World::new(&["python3", "ip", "ss"]) else { return };
    let (mut server, pids) = serve(&world, 9013, (1, 2));
    let pid = pids.first().expect("one process");
    let (_before, _, by_kernel) = asked(&world, "before", 9013);
    assert_eq!(by_kernel, 0);
    let words = ["python3", "-c", SERVE, OURS, "9013", "1", "2"];
    let stranger = world.spawn(Side::Ours, "stranger", &words);
    let is_shared = || explain(&world, Side::Ours, pid).contains("the kernel's: a program outside Corelane");
    wait_until("the stranger is seen", 20, is_shared);
    let (_with, got, by_kernel) = asked(&world, "with", 9013);
    // Both programs' listeners have the same names.
    assert_eq!((got.len(), by_kernel), (2, 120));
    let of_stranger = format!("pid={},", stranger.id());
    let held = world.check(Side::Ours, 5, &["ss", "-Htnp", "state", "established"]);
    let theirs = held.lines().filter(|line| line.contains(&of_stranger)).count();
    assert!((30..=90).contains(&theirs), "{theirs} of 120");
    stranger.signal(Signal::KILL);
    wait_until("the stranger is gone", 20, || !is_shared());
    let (_after, _, by_kernel) = asked(&world, "after", 9013);
    assert_eq!(by_kernel, 120 - theirs, "none but those from before");
    server.assert_running();
}
