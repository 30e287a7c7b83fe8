//! What goes wrong says what failed, why and what to do; nobody else suffers.

use crate::world::{DEVICE, OURS, Side, World, program, send_signal, wait_until};
use rustix::process::Signal;
use std::path::Path;

/// A server that holds connections open: accepts, reads one line, answers with it.
const LINE_SERVER: &str = "import socketserver\nclass H(socketserver.StreamRequestHandler):\n def handle(s):\n  for l in s.rfile:\n   s.wfile.write(l)\nsocketserver.ThreadingTCPServer.allow_reuse_address=True\nsocketserver.ThreadingTCPServer(('',9002),H).serve_forever()";

/// Output of a command that must fail.
fn failing(world: &World, words: &[String]) -> (i32, String) {
    let output = world.run(Side::Ours, 30, words);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn a_port_in_use_is_refused_as_the_kernel_does() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut first =
        world.spawn(Side::Ours, "first", &World::corelane(&["python3", "-m", "http.server", "8000"]));
    world.wait_for_port(&mut first, 8000);
    let (code, text) = failing(&world, &World::corelane(&["python3", "-m", "http.server", "8000"]));
    assert!(code != 0 && text.contains("Address already in use"), "{code}: {text}");
    first.assert_running();
    world.wait_for_port(&mut first, 8000);
}

#[test]
fn an_unknown_device_is_named() {
    let Some(world) = World::new(&["ip"]) else { return };
    let line: Vec<String> = [&program().display().to_string(), "run", "--device", "nosuch7", "--", "true"]
        .map(String::from)
        .to_vec();
    let (code, text) = failing(&world, &line);
    assert!(
        code != 0 && text.contains("nosuch7") && text.contains(DEVICE),
        "names the device and those there are: {text}"
    );
}

#[test]
fn a_missing_capability_is_named() {
    let Some(world) = World::new(&["ip", "setpriv"]) else { return };
    let program = program().display().to_string();
    let copy = world.dir.join("corelane");
    std::fs::copy(&program, &copy).expect("a copy that nobody may run");
    let library = world.dir.join("libcorelane_preload.so");
    std::fs::copy(Path::new(&program).with_file_name("libcorelane_preload.so"), &library)
        .expect("its library");
    let copy = copy.display().to_string();
    let line: Vec<String> = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &copy,
        "run",
        "--device",
        DEVICE,
        "--",
        "true",
    ]
    .map(String::from)
    .to_vec();
    let (code, text) = failing(&world, &line);
    assert!(code != 0 && text.contains("CAP_NET_ADMIN"), "{code}: {text}");
}

#[test]
fn the_exit_status_is_the_commands() {
    let Some(world) = World::new(&["ip"]) else { return };
    assert_eq!(failing(&world, &World::corelane(&["sh", "-c", "exit 7"])).0, 7);
    assert_eq!(failing(&world, &World::corelane(&["sh", "-c", "kill -9 $$"])).0, 137);
    assert_eq!(failing(&world, &World::corelane(&["/nosuch/program"])).0, 127);
    world.assert_clean();
}

/// A client on the kernel's side that opens a connection, says one line, prints what came back, waits for the end.
fn client(world: &World) -> crate::world::Process {
    let script = format!(
        "import socket\ns=socket.create_connection(('{OURS}',9002))\ns.sendall(b'hello\\n')\nprint(s.recv(100),flush=True)\ntry:\n print('end',s.recv(100),flush=True)\nexcept ConnectionResetError: print('end reset',flush=True)"
    );
    let client = world.spawn(Side::Peer, "client", &["python3", "-c", &script]);
    wait_until("the client has its answer", 20, || client.output().contains("hello"));
    client
}

#[test]
fn the_peer_of_a_killed_program_sees_the_end() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", LINE_SERVER]));
    world.wait_for_port(&mut server, 9002);
    let client = client(&world);
    let pid = world.check(Side::Ours, 5, &["pgrep", "-P", &server.id().to_string(), "python3"]);
    send_signal(pid.trim().parse().expect("one pid"), Signal::KILL);
    wait_until("the client sees FIN or RST", 20, || client.output().contains("end"));
    assert_eq!(server.wait(70).code(), Some(137));
    drop(client);
    world.assert_clean();
}

#[test]
fn connections_go_on_when_the_keeper_is_killed() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", LINE_SERVER]));
    world.wait_for_port(&mut server, 9002);
    let script = format!(
        "import socket,sys\ns=socket.create_connection(('{OURS}',9002))\nfor l in sys.stdin.buffer:\n try:\n  s.sendall(l);print(s.recv(100),flush=True)\n except OSError as e: print('clean error',e,flush=True);break\n"
    );
    let mut command = world.command(Side::Peer, &["python3", "-c", &script]);
    command.stdin(std::process::Stdio::piped());
    let log = world.dir.join("talk.log");
    let file = std::fs::File::create(&log).expect("a log file");
    let mut talk = command.stdout(file).spawn().expect("python3");
    let mut input = talk.stdin.take().expect("a pipe");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    std::io::Write::write_all(&mut input, b"one\n").expect("a pipe");
    wait_until("the first answer", 20, || said().contains("one"));
    let pid = world.check(Side::Ours, 5, &["pgrep", "-P", &server.id().to_string(), "python3"]);
    server.signal(Signal::KILL);
    server.wait(20);
    std::io::Write::write_all(&mut input, b"two\n").expect("a pipe");
    drop(input);
    wait_until("an answer or a clean error", 60, || said().contains("two") || said().contains("clean error"));
    let _ = talk.wait();
    send_signal(pid.trim().parse().expect("one pid"), Signal::KILL);
}

#[test]
fn a_full_table_refuses_new_sockets_and_spares_the_others() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut command = world.command(Side::Ours, &World::corelane(&["python3", "-c", LINE_SERVER]));
    command.env("CORELANE_SOCKETS", "64");
    let mut server = world.spawn_command("server", command);
    world.wait_for_port(&mut server, 9002);
    let script = format!(
        "import socket\ng=[]\nfor i in range(100):\n try:\n  s=socket.create_connection(('{OURS}',9002),1);s.settimeout(5);s.sendall(b'a\\n');assert s.recv(10)==b'a\\n';g.append(s)\n except OSError: break\nassert 32<=len(g)<100,len(g)\nfor s in g:\n s.sendall(b'still\\n');assert s.recv(10)==b'still\\n'\nprint(len(g))"
    );
    world.check(Side::Peer, 60, &["python3", "-c", &script]);
    server.assert_running();
}

#[test]
fn few_frames_slow_a_transfer_and_do_not_break_it() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", 20_000_003);
    let mut command = world.command(Side::Ours, &World::corelane(&["python3", "-m", "http.server", "8000"]));
    command.env("CORELANE_FRAMES", "512");
    let mut server = world.spawn_command("server", command);
    world.wait_for_port(&mut server, 8000);
    let fetched = world.dir.join("fetched");
    let url = format!("http://{OURS}:8000/data");
    world.check(Side::Peer, 120, &["curl", "-sSf", "-o", &fetched.display().to_string(), &url]);
    assert_eq!(crate::world::sha256(&file), crate::world::sha256(&fetched));
    server.assert_running();
}
