//! Servers on Corelane, clients on the kernel.

use crate::world::{OURS, Process, Side, World, sha256, wait_until};

/// nginx as it comes, one worker, with a folder of its own.
pub(crate) fn nginx(world: &World, workers: u32) -> (Process, String) {
    nginx_by(world, workers, &[])
}

/// [`nginx`] with `options` for `corelane run`.
pub(crate) fn nginx_by(world: &World, workers: u32, options: &[&str]) -> (Process, String) {
    let dir = world.dir.display();
    let conf = format!(
        "daemon off; master_process on; worker_processes {workers}; user root; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         server {{ listen 80; root {dir}/www; }} }}\n"
    );
    std::fs::create_dir_all(world.dir.join("www")).expect("a folder");
    std::fs::write(world.dir.join("nginx.conf"), conf).expect("a file");
    std::fs::write(world.dir.join("www/index.html"), "lanes\n".repeat(100)).expect("a file");
    let conf = world.dir.join("nginx.conf").display().to_string();
    let mut line = World::corelane(&["/usr/sbin/nginx", "-c", &conf]);
    line.splice(2..2, options.iter().map(|option| (*option).to_owned()));
    let mut server = world.spawn(Side::Ours, "nginx", &line);
    world.wait_for_port(&mut server, 80);
    (server, format!("http://{OURS}/"))
}

fn wrk_requests(out: &str) -> u64 {
    let line = out.lines().find(|l| l.contains(" requests in ")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

pub(crate) fn wrk_is_clean(out: &str) {
    assert!(!out.contains("Socket errors"), "{out}");
    assert!(!out.contains("Non-2xx"), "{out}");
    assert!(wrk_requests(out) > 100, "{out}");
}

/// `explain` says of the command under `corelane run` (process `pid`) that its sockets are accelerated.
fn assert_accelerated(world: &World, pid: u32) {
    let program = crate::world::program().display().to_string();
    let command = world.check(Side::Ours, 5, &["pgrep", "-P", &pid.to_string(), "nginx"]);
    let explained = world.check(Side::Ours, 10, &[&program, "explain", command.trim()]);
    assert!(explained.contains("accelerated"), "{explained}");
}

#[test]
fn nginx_serves_keep_alive_requests() {
    let Some(world) = World::new(&["nginx", "wrk", "ip"]) else { return };
    let (mut server, url) = nginx(&world, 1);
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d3s", &url]));
    assert_accelerated(&world, server.id());
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn nginx_serves_one_request_a_connection() {
    let Some(world) = World::new(&["nginx", "wrk", "ip"]) else { return };
    let (mut server, url) = nginx(&world, 1);
    wrk_is_clean(&world.check(
        Side::Peer,
        60,
        &["wrk", "-t1", "-c32", "-d3s", "-H", "Connection: close", &url],
    ));
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn nginx_with_four_workers_serves_on_all() {
    let Some(world) = World::new(&["nginx", "wrk", "ip"]) else { return };
    let (mut server, url) = nginx(&world, 4);
    wrk_is_clean(&world.check(Side::Peer, 60, &["wrk", "-t1", "-c64", "-d3s", &url]));
    wrk_is_clean(&world.check(
        Side::Peer,
        60,
        &["wrk", "-t1", "-c64", "-d2s", "-H", "Connection: close", &url],
    ));
    server.assert_running();
}

#[test]
fn nginx_sends_a_gibibyte_unchanged() {
    let Some(world) = World::new(&["nginx", "curl", "ip"]) else { return };
    let (_server, url) = nginx(&world, 1);
    let file = world.random_file("www/big", 1 << 30);
    let fetched = world.dir.join("fetched");
    world.check(
        Side::Peer,
        120,
        &["curl", "-sSf", "-o", &fetched.display().to_string(), &format!("{url}big")],
    );
    assert_eq!(sha256(&file), sha256(&fetched));
}

#[test]
fn redis_passes_all_of_redis_benchmark() {
    let Some(world) = World::new(&["redis-server", "redis-benchmark", "ip"]) else { return };
    let line = World::corelane(&[
        "redis-server",
        "--bind",
        OURS,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--port",
        "6379",
    ]);
    let mut server = world.spawn(Side::Ours, "redis", &line);
    world.wait_for_port(&mut server, 6379);
    let out = world.check(Side::Peer, 240, &["redis-benchmark", "-h", OURS, "-n", "5000", "--csv"]);
    let rows = out.lines().filter(|l| l.starts_with('"')).count();
    assert!(rows >= 15, "{out}");
    world.check(
        Side::Peer,
        60,
        &["redis-benchmark", "-h", OURS, "-n", "50000", "-P", "16", "-t", "set,get", "-q"],
    );
    let value = "x".repeat(3_000_000);
    let script = format!(
        "import socket\ns=socket.create_connection(('{OURS}',6379))\nv=b'{}'*{}\ns.sendall(b'*3\\r\\n$3\\r\\nSET\\r\\n$1\\r\\nk\\r\\n$%d\\r\\n'%len(v)+v+b'\\r\\n')\nassert s.recv(5)==b'+OK\\r\\n'\ns.sendall(b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n')\nf=s.makefile('rb')\nn=int(f.readline()[1:])\nassert n==len(v) and f.read(n)==v\n",
        "x",
        value.len()
    );
    world.check(Side::Peer, 60, &["python3", "-c", &script]);
    server.assert_running();
    drop(server);
    world.assert_clean();
}

#[test]
fn python_http_server_serves_files_unchanged() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("data", 20_000_003);
    let mut server =
        world.spawn(Side::Ours, "python", &World::corelane(&["python3", "-m", "http.server", "8000"]));
    world.wait_for_port(&mut server, 8000);
    let fetched = world.dir.join("fetched");
    for _ in 0..5 {
        let url = format!("http://{OURS}:8000/data");
        world.check(Side::Peer, 60, &["curl", "-sSf", "-o", &fetched.display().to_string(), &url]);
        assert_eq!(sha256(&file), sha256(&fetched));
    }
    server.assert_running();
}

#[test]
fn iperf3_runs_in_both_directions() {
    let Some(world) = World::new(&["iperf3", "ip"]) else { return };
    let mut server = world.spawn(Side::Ours, "iperf3", &World::corelane(&["iperf3", "-s", "--forceflush"]));
    for (round, direction) in [&[][..], &["-R"], &["--bidir"], &["-P", "4"]].into_iter().enumerate() {
        // It closes its listener after each client and opens another.
        wait_until("iperf3 listens", 20, || {
            server.assert_running();
            server.output().matches("Server listening").count() > round
        });
        let mut line = vec!["iperf3", "-c", OURS, "-t", "2", "-J"];
        line.extend(direction);
        let out = world.check(Side::Peer, 60, &line);
        assert!(out.contains("\"sum_received\"") && !out.contains("\"error\""), "{direction:?}: {out}");
    }
    server.assert_running();
}

#[test]
fn a_server_is_still_reached_over_loopback() {
    let Some(world) = World::new(&["nginx", "curl", "ip"]) else { return };
    let (_server, _) = nginx(&world, 1);
    let body = world.check(Side::Ours, 20, &["curl", "-sSf", "http://127.0.0.1/"]);
    assert_eq!(body, "lanes\n".repeat(100));
}
