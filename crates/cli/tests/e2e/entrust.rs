//! Connections that a lane hands over to the kernel, in the middle of what they do: no byte is lost, and `explain` says why.

use crate::sockets::script;
use crate::wires::{corelane, explain, said};
use crate::world::{OURS, OURS_V6, PEER, Process, Side, World, wait_until};

/// Every way of `rights.py`, and its server's lines.
const WAYS: [&str; 7] = ["plain", "child", "kept", "late", "shut", "idle", "slow"];

/// `words` as they are started on the peer's side: on the kernel, or on Corelane, so that connections go by a wire at first.
pub(crate) fn of_peer(wired: bool, words: &[&str]) -> Vec<String> {
    if wired { corelane("peer0", words) } else { words.iter().map(|word| (*word).to_owned()).collect() }
}

/// Waits until the lane of `server` listens, which says `ready` with its process id.
pub(crate) fn wait_for_lane(world: &World, server: &Process) {
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let pid = said(server, "ready").expect("a pid");
    wait_until("its lane listens", 20, || explain(world, Side::Ours, &pid).contains("listens on port"));
}

fn sends_connections_on(address: &str, wired: bool) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let rights = script("rights.py");
    let seen = world.dir.join("seen");
    let seen = seen.to_str().expect("a name");
    let line = World::corelane(&["python3", &rights, "serve", address, "9004", seen]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_for_lane(&world, &server);
    let ask = of_peer(wired, &["python3", &rights, "ask", address, "9004"]);
    let client = world.spawn(Side::Peer, "client", &ask);
    wait_until("the server goes on with a connection that it sent", 60, || {
        server.output().contains("goes on")
    });
    let output = server.output();
    let goes_on = output.lines().find(|line| line.contains("goes on with"));
    let (pid, fd) = goes_on.and_then(|line| line.split_once(" goes on with ")).expect("a pid and a number");
    let explained = explain(&world, Side::Ours, pid);
    assert!(explained.contains(&format!("fd {fd} kernel: handed over to the kernel")), "{explained}");
    assert!(explained.contains("accelerated"), "{explained}");
    assert_eq!(explained.contains("wire      to process"), wired, "{explained}");
    std::fs::write(seen, "").expect("a file");
    assert!(server.wait(120).success(), "{}", server.output());
    wait_until("the client ends", 30, || client.output().lines().count() == WAYS.len());
    assert_eq!(client.output().lines().collect::<Vec<_>>(), WAYS.map(|way| format!("{way} True")));
    for way in WAYS {
        let line = format!("{way} same ends True options 1 1");
        assert!(server.output().contains(&line), "{}", server.output());
    }
    assert!(server.output().contains("shut 3000000"), "{}", server.output());
    world.assert_clean();
}

#[test]
fn a_connection_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS, false);
}

#[test]
fn a_connection_over_a_wire_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS, true);
}

#[test]
fn a_connection_over_ipv6_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS_V6, false);
}

#[test]
fn a_connection_over_a_wire_and_ipv6_that_is_sent_to_another_process_goes_on_there() {
    sends_connections_on(OURS_V6, true);
}

/// Every way of `past.py`.
const PAST: [&str; 8] = ["sed", "static", "bare", "spawn", "file", "print", "many", "listens"];

fn goes_on_past_the_library(wired: bool) {
    let Some(world) = World::new(&["python3", "ip", "cc", "sed"]) else { return };
    let fixed = world.dir.join("static_echo");
    let fixed = fixed.to_str().expect("a name");
    world.check(Side::Ours, 60, &["cc", "-O1", "-static", "-o", fixed, &script("static_echo.c")]);
    let past = script("past.py");
    let line = World::corelane(&["python3", &past, "serve", OURS, "9004", fixed]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_for_lane(&world, &server);
    let said = world.check(Side::Peer, 200, &of_peer(wired, &["python3", &past, "ask", OURS, "9004"]));
    assert_eq!(said.lines().collect::<Vec<_>>(), PAST.map(|way| format!("{way} True")));
    assert!(server.wait(30).success(), "{}", server.output());
    let output = server.output();
    let ends = output.lines().find(|line| line.starts_with('[')).expect("how the children ended");
    assert!(!ends.chars().any(|c| ('1'..='9').contains(&c)), "{output}");
    assert!(!output.contains("corelane:"), "no complaint: {output}");
    world.assert_clean();
}

#[test]
fn connections_go_on_in_stdio_in_programs_without_the_library_and_in_many_of_them_at_once() {
    goes_on_past_the_library(false);
}

#[test]
fn connections_over_wires_go_on_in_stdio_and_in_programs_without_the_library() {
    goes_on_past_the_library(true);
}

/// A thread sleeps in `recv` while another one sends the connection on; then a stream is made of it.
const SLEEPER: &str = "
import ctypes, os, socket, sys, threading, time
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
c = socket.create_connection((sys.argv[1], 9000))
c.sendall(b'echo\\n')
got = []
reader = threading.Thread(target=lambda: got.append(c.recv(5, socket.MSG_WAITALL)))
reader.start()
def asleep():
    with open('/proc/self/task/%d/syscall' % reader.native_id) as f:
        return f.read().split()[0] not in ('running', '0', '1')
while not asleep():
    time.sleep(0.01)
before = os.fstat(c.fileno()).st_ino
stream = libc.fdopen(os.dup(c.fileno()), b'w')
print(before != os.fstat(c.fileno()).st_ino)
c.sendall(b'hello')
reader.join()
print(got)
";

#[test]
fn a_thread_that_sleeps_in_a_connection_goes_on_with_it_when_it_is_the_kernels() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let said = world.check(Side::Ours, 60, &World::corelane(&["python3", "-c", SLEEPER, PEER]));
    assert_eq!(said.lines().collect::<Vec<_>>(), ["True", "[b'hello']"]);
    world.assert_clean();
}

/// Sets options that a lane does not have on connections that are open, and goes on.
const OPTIONS: &str = "
import errno, os, socket, sys
l = socket.create_server((sys.argv[1], 9008)); print('ready', os.getpid(), flush=True)
while True:
    c, _ = l.accept()
    try: c.setsockopt(socket.SOL_SOCKET, 9999, 1); sys.exit('an option that nobody has')
    except OSError as e: assert e.errno == errno.ENOPROTOOPT, e
    c.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    way = c.recv(4)
    if way == b'mark': c.setsockopt(socket.SOL_SOCKET, 36, 5); assert c.getsockopt(socket.SOL_SOCKET, 36) == 5
    if way == b'time': c.setsockopt(socket.SOL_SOCKET, 29, 1)
    of_kernel = [w for w in map(str.split, open('/proc/net/tcp')) if w[1].endswith(':%04X' % 9008) and w[3] == '01']
    assert bool(of_kernel) == (way != b'none'), (way, of_kernel)
    c.sendall(b'set.')
    data, control, _, _ = c.recvmsg(100, 100)
    stamped = any(kind == 29 for _, kind, _ in control)
    assert data == b'rest' and stamped == (way == b'time'), (way, data, control)
    c.sendall(b'done'); print('on', c.fileno(), flush=True)
    assert c.recv(100) == b''";

const SETS: &str = "
import socket, sys
for way in (b'none', b'mark', b'time'):
    c = socket.create_connection((sys.argv[1], 9008))
    c.sendall(way); assert c.recv(4) == b'set.'
    c.sendall(b'rest'); assert c.recv(4) == b'done'
    c.close()";

#[test]
fn an_option_that_a_lane_does_not_have_takes_its_connection_to_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", OPTIONS, OURS]));
    wait_for_lane(&world, &server);
    world.check(Side::Peer, 20, &["python3", "-c", SETS, OURS]);
    let pid = said(&server, "ready").expect("a pid");
    server.assert_running();
    let explained = explain(&world, Side::Ours, &pid);
    assert!(explained.contains("accelerated"), "{explained}");
    assert_eq!(server.output().matches("on ").count(), 3, "{}", server.output());
}
