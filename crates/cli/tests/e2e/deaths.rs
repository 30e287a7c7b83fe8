//! Deaths of Corelane's own processes: peers that wait hear of it.

use rustix::process::Signal;

use crate::entrust::of_peer;
use crate::reload::{pid_in, touch};
use crate::sockets::script;
use crate::wires::said;
use crate::world::{OURS, Process, Side, World, send_signal, wait_until};

/// A server that answers each line with itself.
const SERVER: &str = "import socketserver\nclass H(socketserver.StreamRequestHandler):\n def handle(s):\n  for l in s.rfile:\n   s.wfile.write(l)\nsocketserver.ThreadingTCPServer.allow_reuse_address=True\nsocketserver.ThreadingTCPServer(('',9002),H).serve_forever()";
/// A peer that says one line, and then waits in silence.
const PEER: &str = "import socket,sys\ns=socket.create_connection((sys.argv[1],9002),20)\ns.sendall(b'a\\n')\nassert s.recv(9)==b'a\\n'\nopen('waits','w').close()\ntry:\n print('ended' if s.recv(1)==b'' else 'data')\nexcept ConnectionResetError:\n print('ended')\nexcept TimeoutError:\n print('silence')";

/// Two processes with a listener; each answers with its number.
const WORKERS: &str = "import os,socket\nl=socket.create_server(('',9002),backlog=64)\nkept=[]\nos.fork()\nwhile 1:\n c,_=l.accept()\n c.recv(1)\n c.sendall(b'%d\\n'%os.getpid())\n kept.append(c)";
/// A peer that asks until both have answered often: the first connections may be the kernel's. Then it waits in silence for the end of those
/// that the process with the greater number has.
const ASKER: &str = "import os,socket,sys\nall={}\nfew=lambda: len(set(all.values()))<2 or min(list(all.values()).count(n) for n in all.values())<4\nwhile few():\n s=socket.create_connection((sys.argv[1],9002),20)\n s.sendall(b'a')\n all[s]=int(s.makefile().readline())\nopen('pids.tmp','w').write(' '.join(map(str,sorted(set(all.values())))))\nos.rename('pids.tmp','waits')\nfor s in [s for s in all if all[s]==max(all.values())]:\n s.settimeout(40)\n try:\n  assert s.recv(1)==b''\n except ConnectionResetError: pass\nprint('ended')";

/// The keeper with the server under it, and a peer that waits.
fn waiting_peer(world: &World) -> (Process, Process) {
    waiting(world, SERVER, PEER, 20)
}

/// The keeper with `server` under it, and `peer`, which waits within `seconds`.
fn waiting(world: &World, server: &str, peer: &str, seconds: u64) -> (Process, Process) {
    let mut line = World::corelane(&["python3", "-c", server]);
    line.insert(2, "--verbose".to_owned());
    let mut server = world.spawn(Side::Ours, "server", &line);
    world.wait_for_port(&mut server, 9002);
    let peer = world.spawn(Side::Peer, "peer", &["python3", "-c", peer, OURS]);
    wait_until("the peer waits", seconds, || world.dir.join("waits").exists());
    (server, peer)
}

/// The keeper's children: the first is the program, or a steward.
pub(crate) fn child(world: &World, keeper: u32, steward: bool) -> Option<u32> {
    let out = world.run(Side::Ours, 5, &["pgrep", "-a", "-P", &keeper.to_string()]);
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = out.lines().find(|line| line.contains("__steward") == steward)?;
    line.split(' ').next()?.parse().ok()
}

fn assert_hears(mut peer: Process) {
    assert!(peer.wait(60).success());
    assert_eq!(peer.output().trim(), "ended");
}

#[test]
fn a_silent_peer_hears_of_the_keepers_death() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let (server, peer) = waiting_peer(&world);
    server.signal(Signal::KILL);
    assert_hears(peer);
}

#[test]
fn a_silent_peer_hears_of_the_death_of_keeper_and_program() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let (server, peer) = waiting_peer(&world);
    let program = child(&world, server.id(), false).expect("the program");
    wait_until("there is a steward", 20, || child(&world, server.id(), true).is_some());
    // Stopped, so that it cannot tell the peer itself.
    send_signal(program, Signal::STOP);
    server.signal(Signal::KILL);
    send_signal(program, Signal::KILL);
    assert_hears(peer);
}

#[test]
fn a_steward_that_was_killed_has_a_successor_that_ends_the_dead_programs_connections() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let (server, peer) = waiting_peer(&world);
    let keeper = server.id();
    wait_until("there is a steward", 20, || child(&world, keeper, true).is_some());
    let steward = child(&world, keeper, true).expect("a steward");
    send_signal(steward, Signal::STOP);
    send_signal(child(&world, keeper, false).expect("the program"), Signal::KILL);
    wait_until("the keeper knows", 20, || server.output().contains("is gone"));
    send_signal(steward, Signal::KILL);
    assert_hears(peer);
    drop(server);
    world.assert_clean();
}

/// A process that waits on its parent's listener and accepts nothing; the parent keeps the listener.
const DEAF: &str = "
import os, select, socket, time
l = socket.create_server(('', 9002), backlog=64)
if os.fork() == 0:
    p = select.poll(); p.register(l, select.POLLIN); p.poll(0)
    print('waits', os.getpid(), flush=True)
time.sleep(600)";

#[test]
fn a_dead_programs_peers_hear_however_many_stewards_are_killed_over_it() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let server = world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", DEAF]));
    wait_until("the server waits", 20, || said(&server, "waits").is_some());
    let pid = said(&server, "waits").expect("a number");
    let keeper = server.id();
    let steward = || child(&world, keeper, true);
    wait_until("there is a steward", 20, || steward().is_some());
    let asks = "import socket,sys\ns=socket.create_connection((sys.argv[1],9002),60)\ns.sendall(b'a\\n')\nopen('waits','w').close()\ntry:\n print('ended' if s.recv(1)==b'' else 'data')\nexcept ConnectionResetError:\n print('ended')\nexcept TimeoutError:\n print('silence')";
    let peer = world.spawn(Side::Peer, "peer", &["python3", "-c", asks, OURS]);
    wait_until("the peer waits", 20, || world.dir.join("waits").exists());
    let held = world.check(Side::Ours, 5, &["ss", "-Htn", "state", "established"]);
    assert_eq!(held.trim(), "", "the kernel does not have the connection");
    send_signal(pid.parse().expect("a number"), Signal::KILL);
    // Each waits 3 s for a process that accepts, the parent may.
    for _ in 0..12 {
        let now = steward();
        now.into_iter().for_each(|pid| send_signal(pid, Signal::KILL));
        wait_until("there is a successor", 20, || steward().is_some_and(|pid| Some(pid) != now));
    }
    assert_hears(peer);
}

#[test]
fn peers_of_a_killed_process_hear_from_another_one_when_keeper_and_steward_are_killed() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let (server, peer) = waiting(&world, WORKERS, ASKER, 40);
    let pids = std::fs::read_to_string(world.dir.join("waits")).expect("the servers' numbers");
    let last = pids.split(' ').next_back().and_then(|pid| pid.parse().ok()).expect("a number");
    let keeper = server.id();
    wait_until("there is a steward", 20, || child(&world, keeper, true).is_some());
    let steward = child(&world, keeper, true).expect("a steward");
    // Stopped, so that it does nothing for the dead.
    send_signal(steward, Signal::STOP);
    send_signal(last, Signal::KILL);
    wait_until("the keeper knows", 20, || server.output().contains("is gone"));
    server.signal(Signal::KILL);
    send_signal(steward, Signal::KILL);
    assert_hears(peer);
}

/// What went from the lane that a wire leads to on to another one goes by the device, so that no wire's end says that its peer is gone.
#[test]
fn a_server_hears_that_a_client_vanished_with_keeper_and_steward() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let vanish = script("vanish.py");
    let server = world.spawn(
        Side::Ours,
        "server",
        &World::corelane(&["python3", &vanish, "serve", OURS, "9003", "40"]),
    );
    wait_until("the first worker waits", 20, || pid_in(&world, "first.pid").is_some());
    let client =
        world.spawn(Side::Peer, "client", &of_peer(true, &["python3", &vanish, "ask", OURS, "9003", "40"]));
    wait_until("the client has asked", 20, || world.dir.join("asked").exists());
    send_signal(pid_in(&world, "first.pid").expect("a pid"), Signal::KILL);
    touch(&world, "go");
    wait_until("the client has its answers", 30, || world.dir.join("answered").exists());
    let family = [Some(client.id()), child(&world, client.id(), true), child(&world, client.id(), false)];
    let family = family.map(|pid| pid.expect("keeper, steward and program"));
    for signal in [Signal::STOP, Signal::KILL] {
        family.iter().for_each(|&pid| send_signal(pid, signal));
    }
    wait_until("the server hears of every end", 30, || server.output().contains("all ended"));
    drop(server);
    drop(client);
    world.assert_clean();
}
