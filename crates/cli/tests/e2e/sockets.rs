//! What programs do with sockets, one by one, gives the same on a lane as on the kernel.

use std::path::PathBuf;

use crate::world::{OURS, PEER, Side, World, wait_until};

pub(crate) fn script(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/scripts").join(name);
    path.display().to_string()
}

/// Runs `words` on our side on the kernel and on a lane: line for line they print the same, and nothing was raised.
pub(crate) fn same_on_a_lane(world: &World, words: &[&str]) {
    let kernel = world.check(Side::Ours, 120, words);
    let lane = world.check(Side::Ours, 120, &World::corelane(words));
    for (kernel, lane) in kernel.lines().zip(lane.lines()) {
        assert_eq!(lane, kernel, "left: the lane, right: the kernel");
    }
    assert_eq!(lane.lines().count(), kernel.lines().count());
    assert!(!kernel.contains("raised"), "{kernel}");
    world.assert_clean();
}

#[test]
fn socket_calls_give_the_same_on_a_lane_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let sockets = script("sockets.py");
    let words = ["python3", &sockets, PEER, "9000", OURS];
    same_on_a_lane(&world, &words);
}

/// Reads nothing, sends nothing and never sleeps until all of a message is there.
const PEEKS: &str = "
import socket, sys
server = socket.create_server(('', 9100))
server.setblocking(False)
def wait(call):
    while True:
        try:
            got = call()
        except BlockingIOError:
            continue
        if got is not None:
            return got
try:
    server.accept()
except BlockingIOError:
    print('waits', flush=True)
while True:
    c, _ = wait(server.accept)
    c.setblocking(False)
    def whole():
        data = c.recv(32768, socket.MSG_PEEK)
        return data if len(data) == 32768 else None
    wait(whole)
    c.close()
";

/// Each needs several windows. Where the peer hears of the first one only when it asks, that takes it a second or two.
#[test]
fn a_program_that_only_peeks_is_told_of_what_arrives_meanwhile() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", PEEKS]));
    wait_until("the lane listens", 30, || {
        server.assert_running();
        server.output().contains("waits")
    });
    let send = format!(
        "import socket\nfor _ in range(60):\n c = socket.create_connection(('{OURS}', 9100))\n c.sendall(bytes(32768))\n try: c.recv(1)\n except ConnectionResetError: pass"
    );
    world.check(Side::Peer, 60, &["python3", "-c", &send]);
    server.assert_running();
}

/// Two sockets with one inode are placeholders; a kernel socket has an inode of its own.
const TWO_CLIENTS: &str = "
import os, socket, sys
peer = (sys.argv[1], 9000)
def talk(c):
    c.connect(peer)
    c.sendall(b'echo\\nxyz')
    return c.recv(3)
def inode(c):
    return os.readlink('/proc/self/fd/%d' % c.fileno())
first = socket.socket()
print(talk(first))
a, b = socket.socket(), socket.socket()
before = inode(a) == inode(b)
print(talk(a), talk(b), before, inode(a) == inode(b), inode(first) == inode(a))
c = socket.socket()
c.bind(('', 0))
print(inode(c) == inode(a), talk(c))
";

#[test]
fn a_client_of_lanes_makes_one_kernel_socket_only() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let said = world.check(Side::Ours, 60, &World::corelane(&["python3", "-c", TWO_CLIENTS, PEER]));
    let wanted = ["b'xyz'", "b'xyz' b'xyz' True True False", "False b'xyz'"];
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    world.assert_clean();
}

#[test]
fn connections_from_before_the_port_was_a_lanes_go_on_in_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let late = script("late.py");
    let mut server =
        world.spawn(Side::Ours, "late", &World::corelane(&["python3", &late, "serve", OURS, "7000"]));
    wait_until("the server listens", 20, || {
        server.assert_running();
        world.dir.join("listening").exists()
    });
    let said = world.check(Side::Peer, 60, &["python3", &late, "ask", OURS, "7000"]);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["early K", "between True", "late L"]);
    server.assert_running();
}

#[test]
fn fast_open_gives_the_same_on_a_lane_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    for side in [Side::Ours, Side::Peer] {
        world.check(side, 5, &["sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=3"]);
    }
    let script = script("fastopen.py");
    let ask = |side, to: &str, port: &str, lane: bool| {
        let words = ["python3", &script, "ask", to, port];
        let said = if lane {
            world.check(side, 60, &World::corelane(&words))
        } else {
            world.check(side, 60, &words)
        };
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // As clients: on the kernel first, whose cookies a lane does not know.
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script, "serve", PEER, "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let kernel = ask(Side::Ours, PEER, "9000", false);
    assert_eq!(ask(Side::Ours, PEER, "9000", true), kernel, "as a client; left: the lane, right: the kernel");
    assert!(kernel.iter().filter(|line| line.contains("early', True")).count() > 3, "{kernel:?}");
    // As servers: the first asks for the cookie, which the kernel gives and a lane takes.
    let mut plain = world.spawn(Side::Ours, "plain", &["python3", &script, "serve", OURS, "7000"]);
    world.wait_for_port_from(Side::Peer, OURS, &mut plain, 7000);
    ask(Side::Peer, OURS, "7000", false);
    let kernel = ask(Side::Peer, OURS, "7000", false);
    let words = ["python3", &script, "serve", OURS, "7001"];
    let mut lane = world.spawn(Side::Ours, "lane", &World::corelane(&words));
    world.wait_for_port_from(Side::Peer, OURS, &mut lane, 7001);
    assert_eq!(
        ask(Side::Peer, OURS, "7001", false),
        kernel,
        "as a server; left: the lane, right: the kernel"
    );
}
