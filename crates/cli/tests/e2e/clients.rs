//! Clients on Corelane, servers on the kernel.

use crate::world::{DEVICE, PEER, Process, Side, World, sha256};

fn kernel_http(world: &World) -> Process {
    let mut server = world.spawn(Side::Peer, "peer-python", &["python3", "-m", "http.server", "8000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut server, 8000);
    server
}

#[test]
fn curl_fetches_a_file_unchanged() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", 50_000_001);
    let _server = kernel_http(&world);
    let fetched = world.dir.join("fetched");
    let url = format!("http://{PEER}:8000/data");
    let line = World::corelane(&["curl", "-sSf", "-o", &fetched.display().to_string(), &url]);
    for _ in 0..3 {
        world.check(Side::Ours, 60, &line);
        assert_eq!(sha256(&file), sha256(&fetched));
    }
    world.assert_clean();
}

#[test]
fn curl_uploads_a_file_unchanged() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", 50_000_001);
    let script = "import http.server,hashlib\nclass H(http.server.BaseHTTPRequestHandler):\n def do_PUT(s):\n  h=hashlib.sha256();n=int(s.headers['Content-Length'])\n  while n:\n   b=s.rfile.read(min(n,65536));h.update(b);n-=len(b)\n  d=h.hexdigest().encode();s.send_response(200);s.send_header('Content-Length',str(len(d)));s.end_headers();s.wfile.write(d)\nhttp.server.HTTPServer(('',8001),H).serve_forever()";
    let mut server = world.spawn(Side::Peer, "sink", &["python3", "-c", script]);
    world.wait_for_port_from(Side::Ours, PEER, &mut server, 8001);
    let url = format!("http://{PEER}:8001/data");
    let digest = world.check(
        Side::Ours,
        60,
        &World::corelane(&["curl", "-sSf", "-T", &file.display().to_string(), &url]),
    );
    assert_eq!(digest.trim(), sha256(&file));
}

#[test]
fn wrk_loads_a_kernel_server() {
    let Some(world) = World::new(&["python3", "wrk", "nginx", "ip"]) else { return };
    let dir = world.dir.display();
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {dir}/p.pid; error_log {dir}/e.log; events {{}} http {{ access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e; server {{ listen 80; location / {{ return 200 'ok'; }} }} }}"
    );
    std::fs::write(world.dir.join("peer.conf"), conf).expect("a file");
    let mut server =
        world.spawn(Side::Peer, "peer-nginx", &["/usr/sbin/nginx", "-c", &format!("{dir}/peer.conf")]);
    world.wait_for_port_from(Side::Ours, PEER, &mut server, 80);
    for header in ["Connection: keep-alive", "Connection: close"] {
        let url = format!("http://{PEER}/");
        let out = world.check(
            Side::Ours,
            60,
            &World::corelane(&["wrk", "-t1", "-c32", "-d2s", "-H", header, &url]),
        );
        assert!(!out.contains("Socket errors") && out.contains(" requests in "), "{header}: {out}");
    }
    world.assert_clean();
}

#[test]
fn redis_cli_talks_to_a_kernel_server() {
    let Some(world) = World::new(&["redis-server", "redis-cli", "ip"]) else { return };
    let mut server = world.spawn(
        Side::Peer,
        "peer-redis",
        &["redis-server", "--bind", PEER, "--protected-mode", "no", "--save", "", "--port", "6379"],
    );
    world.wait_for_port_from(Side::Ours, PEER, &mut server, 6379);
    let run = |words: &[&str]| {
        let mut line = vec!["redis-cli", "-h", PEER];
        line.extend(words);
        world.check(Side::Ours, 30, &World::corelane(&line))
    };
    assert_eq!(run(&["SET", "lane", "core"]).trim(), "OK");
    assert_eq!(run(&["GET", "lane"]).trim(), "core");
}

#[test]
fn both_ends_on_corelane_meet_at_the_first_packet() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", 300_001);
    let mut line = World::corelane(&["python3", "-m", "http.server", "8000"]);
    for word in line.iter_mut().filter(|word| *word == DEVICE) {
        *word = "peer0".to_owned();
    }
    let mut server = world.spawn(Side::Peer, "peer-lane", &line);
    // Also makes the kernels know their neighbours, so that no packet waits for that.
    world.wait_for_port_from(Side::Ours, PEER, &mut server, 8000);
    let fetched = world.dir.join("fetched");
    let url = format!("http://{PEER}:8000/data");
    let fetch = ["curl", "-sSf", "--connect-timeout", "3", "-o", &fetched.display().to_string(), &url];
    for _ in 0..3 {
        world.check(Side::Ours, 30, &World::corelane(&fetch));
        assert_eq!(sha256(&file), sha256(&fetched));
    }
}
