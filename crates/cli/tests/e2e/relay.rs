//! Programs that no preload library reaches: their sockets are carried by a relay.

use rustix::process::Signal;

use crate::sockets::script;
use crate::world::{OURS, PEER, Process, Side, World, send_signal, wait_until};

/// `corelane run --relay`.
fn relayed(words: &[&str]) -> Vec<String> {
    let mut line = World::corelane(words);
    let at = line.iter().position(|word| word == "--").expect("the command follows --");
    line.insert(at, "--relay".to_owned());
    line
}

/// TCP connections that the kernel of this side opened or accepted so far (ActiveOpens and PassiveOpens of RFC 4022).
fn opened_by_the_kernel(world: &World, side: Side) -> u64 {
    let all = world.check(side, 5, &["cat", "/proc/net/snmp"]);
    let rows: Vec<Vec<&str>> =
        all.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' ').collect()).collect();
    let [names, values] = &rows[..] else { panic!("{all}") };
    let wanted = |name: &str| ["ActiveOpens", "PassiveOpens"].contains(&name);
    names
        .iter()
        .zip(values)
        .filter(|(name, _)| wanted(name))
        .map(|(_, value)| value.parse::<u64>().expect("a count"))
        .sum()
}

/// Functions of `sockets.py` with something the relay leaves out: reading from a socket that neither is connected nor will be, and edges of a
/// writable socket that nothing but the other side's reading made.
const LEFT_OUT: [&str; 3] = ["sockets_before_they_connect", "epoll_before_connect", "listener_errors"];

#[test]
fn socket_calls_give_the_same_by_a_relay_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let sockets = script("sockets.py");
    let words = ["python3", &sockets, PEER, "9000", OURS];
    let kernel = world.check(Side::Ours, 120, &words);
    let kernel = kernel.lines().filter(|line| !LEFT_OUT.iter().any(|name| line.starts_with(name)));
    let kernel: Vec<&str> = kernel.collect();
    let names = kernel.iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    let opened = opened_by_the_kernel(&world, Side::Ours);
    let by_relay =
        world.check(Side::Ours, 180, &relayed(&words.into_iter().chain(names).collect::<Vec<_>>()));
    for (kernel, relay) in kernel.iter().zip(by_relay.lines()) {
        assert_eq!(&relay, kernel, "left: by a relay, right: on the kernel");
    }
    assert_eq!(by_relay.lines().count(), kernel.len());
    // What loopback is asked for is the kernel's on a lane too.
    let opened = opened_by_the_kernel(&world, Side::Ours) - opened;
    assert!(opened < 20, "{opened} connections were the kernel's");
    world.assert_clean();
}

/// Compiles the matrix's echo server, with a thread a connection.
fn echo_server(world: &World, compiler: &[&str]) -> String {
    let out = world.dir.join("echo").to_str().expect("a name").to_owned();
    let source = script("../../matrix/programs/threads_echo.c");
    world.check(Side::Ours, 60, &[compiler, &["-O1", "-o", &out, &source, "-lpthread"]].concat());
    out
}

/// Starts `words`, an echo server at port 7006; what clients send comes back unchanged, and none of their connections is the kernel's.
fn echoes_on_a_lane(world: &World, words: &[&str]) -> Process {
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(words));
    world.wait_for_port_from(Side::Peer, OURS, &mut server, 7006);
    let opened = opened_by_the_kernel(world, Side::Ours);
    let client = script("../../matrix/programs/echo_client.py");
    let said = world.check(Side::Peer, 120, &["python3", &client, OURS, "7006", "24", "700001"]);
    assert_eq!(said.trim(), "24 unchanged");
    assert_eq!(opened_by_the_kernel(world, Side::Ours), opened);
    server
}

#[test]
fn a_static_server_is_on_a_lane() {
    let Some(world) = World::new(&["python3", "ip", "cc"]) else { return };
    let program = echo_server(&world, &["cc", "-static"]);
    let mut server = echoes_on_a_lane(&world, &[&program, "7006"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(20).code(), Some(128 + 15), "{}", server.output());
    world.assert_clean();
}

#[test]
fn a_program_of_another_c_library_that_a_shell_starts_is_on_a_lane() {
    let Some(world) = World::new(&["python3", "ip", "musl-gcc"]) else { return };
    let program = echo_server(&world, &["musl-gcc"]);
    drop(echoes_on_a_lane(&world, &["sh", "-c", &format!("{program} 7006; echo ended")]));
}

#[test]
fn a_static_program_that_a_shell_or_posix_spawn_starts_is_on_a_lane() {
    let Some(world) = World::new(&["python3", "ip", "cc"]) else { return };
    let program = echo_server(&world, &["cc", "-static"]);
    drop(echoes_on_a_lane(&world, &["sh", "-c", &format!("{program} 7006; echo ended")]));
    drop(world);
    let Some(world) = World::new(&["python3", "ip", "cc"]) else { return };
    let program = echo_server(&world, &["cc", "-static"]);
    let spawn = "import os, sys; os.waitpid(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)";
    drop(echoes_on_a_lane(&world, &["python3", "-c", spawn, &program, "7006"]));
}

/// Compiles `unreached.c`.
fn unreached(world: &World) -> String {
    let out = world.dir.join("unreached").to_str().expect("a name").to_owned();
    world.check(Side::Ours, 60, &["cc", "-static", "-O1", "-o", &out, &script("unreached.c")]);
    out
}

#[test]
fn who_starts_a_carried_program_sees_it_end_as_it_ends() {
    let Some(world) = World::new(&["python3", "ip", "cc"]) else { return };
    let program = unreached(&world);
    let words = ["python3", &script("unreached.py"), &program];
    let seen = world.check(Side::Ours, 60, &World::corelane(&words));
    assert_eq!(seen.trim(), "returned 3\naborted -6\nspawned 1\nterminated -15\nkilled -9\nrefused 13");
    world.assert_clean();
}

#[test]
fn a_carried_daemon_serves_on_while_who_started_it_goes_on() {
    let Some(world) = World::new(&["python3", "ip", "cc"]) else { return };
    let program = unreached(&world);
    // Its starter waits until every writer of the pipe is gone.
    let script = format!("said=$({program} daemon 7006); echo it $said $?");
    let mut run = world.spawn(Side::Ours, "run", &World::corelane(&["sh", "-c", &script]));
    wait_until("its starter goes on", 20, || run.output().contains("it listens 0"));
    let opened = opened_by_the_kernel(&world, Side::Ours);
    let ask = "
import socket
c = socket.create_connection(('10.77.0.1', 7006))
c.sendall(bytes(range(256)) * 16)
c.shutdown(socket.SHUT_WR)
print(b''.join(iter(lambda: c.recv(65536), b'')) == bytes(range(256)) * 16)
";
    let ask = ask.replace("10.77.0.1", OURS);
    assert_eq!(world.check(Side::Peer, 30, &["python3", "-c", &ask]).trim(), "True");
    assert_eq!(opened_by_the_kernel(&world, Side::Ours), opened);
    assert!(run.wait(30).success(), "{}", run.output());
    world.assert_clean();
}

/// Writes more than one buffer holds and ends at once; then, another time, is killed with data unread.
const LEAVES: &str = "
import os, socket, sys, time
c = socket.create_connection((sys.argv[1], 9000))
if sys.argv[2] == 'exits':
    c.sendall(b'count 0.5\\n' + bytes(1000000))
    os._exit(7)
c.sendall(b'give 100000\\n')
c.recv(1)
print('ready', os.getpid(), flush=True)
time.sleep(60)
";

#[test]
fn what_a_program_wrote_before_it_ended_arrives_and_its_status_is_passed_on() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let peer = "
import socket
s = socket.create_server(('', 9000))
print('ready', flush=True)
c, _ = s.accept()
n = 0
while True:
    d = c.recv(65536)
    if not d:
        break
    n += len(d)
print('got', n, flush=True)
c.close()
c, _ = s.accept()
c.sendall(bytes(100000))
try:
    while c.recv(65536):
        pass
    print('end', flush=True)
except ConnectionResetError:
    print('reset', flush=True)
";
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", "-c", peer]);
    wait_until("the peer listens", 20, || peer.output().contains("ready"));
    let exits = world.run(Side::Ours, 60, &relayed(&["python3", "-c", LEAVES, PEER, "exits"]));
    assert_eq!(exits.status.code(), Some(7));
    wait_until("all of it has come", 20, || peer.output().contains("got 1000010"));
    let mut killed = world.spawn(Side::Ours, "killed", &relayed(&["python3", "-c", LEAVES, PEER, "killed"]));
    wait_until("it reads", 20, || killed.output().contains('\n'));
    let pid = killed.output().lines().find_map(|line| line.strip_prefix("ready ")?.parse().ok());
    send_signal(pid.expect("its number"), Signal::KILL);
    assert_eq!(killed.wait(20).code(), Some(128 + 9));
    assert!(peer.wait(20).success());
    assert!(peer.output().contains("reset"), "as the kernel does with what was not read: {}", peer.output());
    world.assert_clean();
}
