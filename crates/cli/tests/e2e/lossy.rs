//! The same transfers over a wire that loses, doubles and reorders packets: the fault middleware, in both directions.

use crate::world::{OURS, Process, Side, World, sha256};

/// Starts a server on Corelane with the fault middleware between its lane and the device.
fn faulty(world: &World, name: &str, fault: &str, words: &[&str]) -> Process {
    let mut command = world.command(Side::Ours, &World::corelane(words));
    command.env("CORELANE_FAULT", fault);
    world.spawn_command(name, command)
}

fn fetch_over(fault: &str, megabytes: u64) {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", megabytes << 20);
    let mut server = faulty(&world, "python", fault, &["python3", "-m", "http.server", "8000"]);
    world.wait_for_port(&mut server, 8000);
    let fetched = world.dir.join("fetched");
    let url = format!("http://{OURS}:8000/data");
    world.check(Side::Peer, 120, &["curl", "-sSf", "-o", &fetched.display().to_string(), &url]);
    assert_eq!(sha256(&file), sha256(&fetched));
    server.assert_running();
}

fn upload_over(fault: &str, megabytes: u64) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let file = world.random_file("data", megabytes << 20);
    let sink = "import socket,hashlib\ns=socket.create_server(('',9000))\nwhile True:\n c,_=s.accept();h=hashlib.sha256()\n while True:\n  b=c.recv(1<<16)\n  if not b: break\n  h.update(b)\n c.sendall(h.hexdigest().encode());c.close()";
    let mut server = faulty(&world, "sink", fault, &["python3", "-c", sink]);
    world.wait_for_port(&mut server, 9000);
    let push = format!(
        "import socket\ns=socket.create_connection(('{OURS}',9000))\nf=open('{}','rb')\ns.sendfile(f);s.shutdown(1)\nprint(s.makefile().read())",
        file.display()
    );
    let digest = world.check(Side::Peer, 120, &["python3", "-c", &push]);
    assert_eq!(digest.trim(), sha256(&file));
    server.assert_running();
}

#[test]
fn a_file_fetched_over_one_percent_loss_is_unchanged() {
    fetch_over("drop=10000,seed=1", 32);
}

#[test]
fn a_file_fetched_over_five_percent_of_each_fault_is_unchanged() {
    fetch_over("drop=50000,duplicate=50000,reorder=50000,seed=2", 8);
}

#[test]
fn a_file_uploaded_over_one_percent_loss_is_unchanged() {
    upload_over("drop=10000,seed=3", 32);
}

#[test]
fn a_file_uploaded_over_five_percent_of_each_fault_is_unchanged() {
    upload_over("drop=50000,duplicate=50000,reorder=50000,seed=4", 8);
}

/// Both ways on one connection, with each congestion control that the kernel has at its end.
#[test]
fn the_kernel_s_congestion_controls_and_mtus_go_with_losses_both_ways() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let known =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").expect("a list");
    let echo = "import socket\ns=socket.create_server(('',9002))\nwhile True:\n c,_=s.accept()\n while True:\n  b=c.recv(1<<16)\n  if not b: break\n  c.sendall(b)\n c.close()";
    for mtu in ["1500", "9000", "65535"] {
        world.check(Side::Peer, 5, &["ip", "link", "set", "peer0", "mtu", mtu]);
        world.check(Side::Ours, 5, &["ip", "link", "set", crate::world::DEVICE, "mtu", mtu]);
        let fault = format!("drop=10000,duplicate=10000,reorder=10000,seed={mtu}");
        let mut server = faulty(&world, "echo", &fault, &["python3", "-c", echo]);
        world.wait_for_port(&mut server, 9002);
        for algorithm in known.split_whitespace() {
            let load = format!(
                "import socket,os,threading\ns=socket.socket();s.setsockopt(6,13,b'{algorithm}');s.settimeout(60);s.connect(('{OURS}',9002))\nm=os.urandom(2<<20)\ndef push():\n s.sendall(m);s.shutdown(1)\nt=threading.Thread(target=push);t.start();d=bytearray()\nwhile True:\n b=s.recv(1<<16)\n if not b: break\n d+=b\nt.join();assert d==m,len(d)"
            );
            world.check(Side::Peer, 90, &["python3", "-c", &load]);
        }
        server.assert_running();
    }
}

#[test]
fn short_connections_survive_one_percent_loss() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let echo = "import socketserver\nclass H(socketserver.BaseRequestHandler):\n def handle(s):\n  d=b''\n  while len(d)<64:\n   x=s.request.recv(64-len(d))\n   if not x: return\n   d+=x\n  s.request.sendall(d[::-1])\nsocketserver.ThreadingTCPServer.request_queue_size=128\nsocketserver.ThreadingTCPServer(('',9001),H).serve_forever()";
    let mut server = faulty(&world, "echo", "drop=10000,seed=5", &["python3", "-c", echo]);
    world.wait_for_port(&mut server, 9001);
    let load = format!(
        "import socket,os\nfor i in range(300):\n s=socket.create_connection(('{OURS}',9001),20);m=os.urandom(64);s.sendall(m);d=b''\n while True:\n  x=s.recv(100)\n  if not x: break\n  d+=x\n assert d==m[::-1],(i,d)\n s.close()"
    );
    world.check(Side::Peer, 120, &["python3", "-c", &load]);
    server.assert_running();
}
