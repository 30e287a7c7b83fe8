//! Programs of one host that run on Corelane talk by wires: on loopback, under one keeper or two, between network namespaces, with
//! the kernel's counters as witness that no TCP segment of theirs went through it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::world::{OURS, OURS_V6, PEER, Process, Side, World, program, send_signal, sha256, wait_until};

pub(crate) fn script(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/scripts").join(name);
    path.display().to_string()
}

/// The command line of `corelane run` on `device` (`lo`: for programs of this machine alone) around `words`.
pub(crate) fn corelane(device: &str, words: &[&str]) -> Vec<String> {
    let mut line: Vec<String> =
        [&program().display().to_string(), "run", "--device", device, "--"].map(String::from).to_vec();
    line.extend(words.iter().map(|word| (*word).to_owned()));
    line
}

/// TCP segments that the kernel of `side` received so far.
pub(crate) fn kernel_segments(world: &World, side: Side) -> u64 {
    let counters = world.check(side, 5, &["cat", "/proc/net/snmp"]);
    let mut rows = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let at = names.split_whitespace().position(|name| name == "InSegs").expect("a counter InSegs");
    values.split_whitespace().nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

pub(crate) fn explain(world: &World, side: Side, pid: &str) -> String {
    let output = world.run(side, 10, &[program().display().to_string().as_str(), "explain", pid]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The word after `key` in what `process` printed last of that.
pub(crate) fn said(process: &Process, key: &str) -> Option<String> {
    let output = process.output();
    let line = output.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    Some(line.split_whitespace().next()?.to_owned())
}

/// Starts the echo server with lanes, and waits until they listen.
fn server(world: &World, side: Side, device: &str, words: &[&str]) -> Process {
    let path = script("wire_server.py");
    let mut line = vec!["python3", path.as_str()];
    line.extend(words);
    let mut server = world.spawn(side, "server", &corelane(device, &line));
    let workers = words.get(2).map_or(1, |n| n.parse().expect("a number"));
    wait_until("the lanes listen", 30, || {
        server.assert_running();
        let output = server.output();
        let pids: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("serving ")).collect();
        pids.len() == workers && pids.iter().all(|pid| explain(world, side, pid).contains("listens on port"))
    });
    server
}

fn client_line(device: &str, words: &[&str]) -> Vec<String> {
    let path = script("wire_client.py");
    let mut line = vec!["python3", path.as_str()];
    line.extend(words);
    corelane(device, &line)
}

#[test]
fn loopback_between_two_programs_is_a_wire_and_not_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    for (listens, connects) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), (OURS, OURS)] {
        let server = server(&world, Side::Ours, "lo", &[listens, "7000"]);
        let before = kernel_segments(&world, Side::Ours);
        let line = client_line("lo", &[connects, "7000", "3", "5000000"]);
        let out = world.check(Side::Ours, 120, &line);
        assert!(out.contains("all good"), "{out}");
        assert_eq!(
            kernel_segments(&world, Side::Ours),
            before,
            "{connects}: segments went through the kernel"
        );
        let source = if connects == OURS { OURS } else { "127.0.0.1" };
        assert!(server.output().contains(&format!("from {source} to {connects}")), "{}", server.output());
    }
}

#[test]
fn loopback_of_ipv6_is_a_wire_too() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    for (listens, connects) in
        [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1"), ("::", OURS_V6), (OURS_V6, OURS_V6)]
    {
        let server = server(&world, Side::Ours, "lo", &[listens, "7000"]);
        let before = kernel_segments(&world, Side::Ours);
        let line = client_line("lo", &[connects, "7000", "3", "1000000"]);
        let out = world.check(Side::Ours, 120, &line);
        assert!(out.contains("all good"), "{out}");
        assert_eq!(
            kernel_segments(&world, Side::Ours),
            before,
            "{connects}: segments went through the kernel"
        );
        let shown = if connects.contains(':') { connects.to_owned() } else { format!("::ffff:{connects}") };
        assert!(server.output().contains(&format!("from {shown} to {shown}")), "{}", server.output());
    }
}

#[test]
fn explain_names_the_process_at_the_other_end() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let server = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000"]);
    let client = world.spawn(Side::Ours, "client", &client_line("lo", &["127.0.0.1", "7000", "1", "hold"]));
    wait_until("the client has its answer", 30, || client.output().contains("held"));
    let (client, server) = (said(&client, "client"), said(&server, "serving"));
    let (client, server) = (client.expect("a pid"), server.expect("a pid"));
    let text = explain(&world, Side::Ours, &client);
    assert!(text.contains(&format!("wire to PID {server}")), "{text}");
    let text = explain(&world, Side::Ours, &server);
    assert!(text.contains(&format!("wire      to process {client}")), "{text}");
}

/// A shell's line that starts the server, waits until its lane listens, as `corelane` tells it, and runs the client.
fn both(corelane: &str, server: &str, client: &str) -> String {
    format!(
        "python3 {server} 127.0.0.1 7000 >/dev/null & S=$!; \
         until {corelane} explain $S 2>/dev/null | grep -q 'listens on port'; do sleep 0.05; done; \
         python3 {client} 127.0.0.1 7000 4 1000000; status=$?; kill $S; exit $status"
    )
}

#[test]
fn programs_under_one_keeper_talk_by_a_wire_too() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let (serve, ask) = (script("wire_server.py"), script("wire_client.py"));
    let shell = both(&program().display().to_string(), &serve, &ask);
    // Both programs end at nearly the same time, in either order, and the keeper soon after them.
    for _ in 0..6 {
        let out = world.check(Side::Ours, 30, &corelane("lo", &["sh", "-c", &shell]));
        assert!(out.contains("all good"), "{out}");
    }
    assert_eq!(kernel_segments(&world, Side::Ours), 0);
}

#[test]
fn a_program_without_a_lane_reaches_the_listener_through_the_kernel() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let _server = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000"]);
    let ask = script("wire_client.py");
    let out = world.check(Side::Ours, 60, &["python3", &ask, "127.0.0.1", "7000", "3", "300000"]);
    assert!(out.contains("all good"), "{out}");
    assert!(kernel_segments(&world, Side::Ours) > 0);
    let refused = world.run(Side::Ours, 30, &client_line("lo", &["127.0.0.1", "7001", "1", "10"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ConnectionRefusedError"));
}

#[test]
fn a_wire_leads_to_the_namespace_behind_a_veth_pair() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let server = server(&world, Side::Ours, "lane0", &["0.0.0.0", "7000"]);
    let line = client_line("peer0", &[OURS, "7000", "3", "5000000"]);
    let out = world.check(Side::Peer, 120, &line);
    assert!(out.contains("all good"), "{out}");
    assert_eq!((kernel_segments(&world, Side::Peer), kernel_segments(&world, Side::Ours)), (0, 0));
    assert!(server.output().contains(&format!("from {PEER} to {OURS}")), "{}", server.output());
    // A kernel client comes by the device, as ever.
    let ask = script("wire_client.py");
    world.check(Side::Peer, 60, &["python3", &ask, OURS, "7000", "1", "100000"]);
}

#[test]
fn ports_that_a_program_without_a_lane_used_are_good_for_wires() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let _server = server(&world, Side::Ours, "lane0", &["0.0.0.0", "7000"]);
    let ask = script("port_client.py");
    let words = ["python3", ask.as_str(), OURS, "7000", PEER, "40000", "4"];
    // By the device; then by a wire, while the server's lane has the first ones in TIME-WAIT; then by the device again.
    assert!(world.check(Side::Peer, 60, &words).contains("all good"));
    let before = kernel_segments(&world, Side::Peer);
    assert!(world.check(Side::Peer, 60, &corelane("peer0", &words)).contains("all good"));
    assert_eq!(kernel_segments(&world, Side::Peer), before, "segments went through the kernel");
    assert!(world.check(Side::Peer, 60, &words).contains("all good"));
}

#[test]
fn connections_reach_every_worker_of_a_listener() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let _server = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000", "3"]);
    let out = world.check(Side::Ours, 60, &client_line("lo", &["127.0.0.1", "7000", "60", "1000"]));
    let pids: BTreeSet<&str> = out.lines().filter_map(|line| line.strip_prefix("pid ")).collect();
    assert_eq!(pids.len(), 3, "{out}");
    assert_eq!(kernel_segments(&world, Side::Ours), 0);
}

#[test]
fn either_end_may_be_killed_and_the_other_hears_of_it() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let hold = client_line("lo", &["127.0.0.1", "7000", "1", "hold"]);
    let first = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000"]);
    let client = world.spawn(Side::Ours, "client", &hold);
    wait_until("the client has its answer", 30, || client.output().contains("held"));
    kill(&said(&first, "serving").expect("a pid"));
    wait_until("the client hears of the server's end", 30, || client.output().contains("ended by"));
    drop((client, first));
    // A new server at the same place, and now the client is killed.
    let second = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000"]);
    let client = world.spawn(Side::Ours, "client", &hold);
    wait_until("the client has its answer", 30, || client.output().contains("held"));
    kill(&said(&client, "client").expect("a pid"));
    let heard = || second.output().contains("end") || second.output().contains("broken");
    wait_until("the server hears of the client's end", 30, heard);
    let out = world.check(Side::Ours, 60, &client_line("lo", &["127.0.0.1", "7000", "2", "100000"]));
    assert!(out.contains("all good"), "{out}");
    assert_eq!(kernel_segments(&world, Side::Ours), 0);
}

fn kill(pid: &str) {
    send_signal(pid.parse().expect("a process id"), Signal::KILL);
}

#[test]
fn the_end_of_a_keeper_is_the_end_of_its_wires_only() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let server = server(&world, Side::Ours, "lo", &["127.0.0.1", "7000"]);
    let mut client =
        world.spawn(Side::Ours, "client", &client_line("lo", &["127.0.0.1", "7000", "1", "hold"]));
    wait_until("the client has its answer", 30, || client.output().contains("held"));
    client.signal(Signal::KILL);
    client.wait(20);
    wait_until("both ends hear of it", 30, || {
        let served = server.output().contains("end") || server.output().contains("broken");
        served && client.output().contains("ended by reset")
    });
    let out = world.check(Side::Ours, 60, &client_line("lo", &["127.0.0.1", "7000", "2", "100000"]));
    assert!(out.contains("all good"), "{out}");
    assert_eq!(kernel_segments(&world, Side::Ours), 0);
}

#[test]
fn redis_and_its_benchmark_talk_by_a_wire() {
    let Some(world) = World::new(&["redis-server", "redis-benchmark", "ip"]) else { return };
    let words = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--port", "6379"];
    let mut server = world.spawn(Side::Ours, "redis", &corelane("lo", &words));
    wait_until("redis answers", 30, || {
        server.assert_running();
        let ping = corelane("lo", &["redis-cli", "ping"]);
        String::from_utf8_lossy(&world.run(Side::Ours, 20, &ping).stdout).contains("PONG")
    });
    let before = kernel_segments(&world, Side::Ours);
    let words =
        ["redis-benchmark", "-n", "20000", "-c", "50", "-d", "3000", "-t", "set,get,lrange_100", "--csv"];
    let out = world.check(Side::Ours, 120, &corelane("lo", &words));
    assert!(out.contains("SET") && out.contains("LRANGE_100"), "{out}");
    assert_eq!(kernel_segments(&world, Side::Ours), before);
}

#[test]
fn nginx_with_two_workers_serves_by_wires() {
    let Some(world) = World::new(&["nginx", "wrk", "curl", "ip"]) else { return };
    let file = world.random_file("data", 30_000_001);
    let dir = world.dir.display();
    let conf = format!(
        "worker_processes 2; daemon off; pid {dir}/wire.pid; error_log {dir}/wire-error.log; \
         events {{ worker_connections 512; }} \
         http {{ access_log off; client_body_temp_path {dir}/t; proxy_temp_path {dir}/t; fastcgi_temp_path {dir}/t; \
         uwsgi_temp_path {dir}/t; scgi_temp_path {dir}/t; server {{ listen 127.0.0.1:8080; root {dir}; \
         location /small {{ return 200 'hello'; }} }} }}"
    );
    std::fs::write(world.dir.join("wire.conf"), conf).expect("a file");
    std::fs::set_permissions(&world.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let words = ["/usr/sbin/nginx", "-c", &format!("{dir}/wire.conf")];
    let mut server = world.spawn(Side::Ours, "nginx", &corelane("lo", &words));
    wait_until("nginx listens", 30, || {
        server.assert_running();
        let pids = world.run(Side::Ours, 5, &["pgrep", "-f", "nginx: worker"]);
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        let lanes = pids.lines().filter(|pid| explain(&world, Side::Ours, pid).contains("listens on port"));
        lanes.count() >= 2
    });
    let before = kernel_segments(&world, Side::Ours);
    for header in ["Connection: keep-alive", "Connection: close"] {
        let words = ["wrk", "-t1", "-c32", "-d1s", "-H", header, "http://127.0.0.1:8080/small"];
        let out = world.check(Side::Ours, 60, &corelane("lo", &words));
        assert!(!out.contains("Socket errors") && out.contains(" requests in "), "{header}: {out}");
    }
    let fetched = world.dir.join("fetched");
    let words = ["curl", "-sSf", "-o", &fetched.display().to_string(), "http://127.0.0.1:8080/data"];
    world.check(Side::Ours, 60, &corelane("lo", &words));
    assert_eq!(sha256(&file), sha256(&fetched));
    assert_eq!(kernel_segments(&world, Side::Ours), before);
}

#[test]
fn wires_need_no_privileges() {
    let Some(world) = World::new(&["python3", "ip", "setpriv"]) else { return };
    let built = program();
    for name in ["corelane", "libcorelane_preload.so"] {
        std::fs::copy(built.with_file_name(name), world.dir.join(name)).expect("a copy");
    }
    std::fs::set_permissions(&world.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let (serve, ask) = (world.dir.join("serve.py"), world.dir.join("ask.py"));
    std::fs::copy(script("wire_server.py"), &serve).expect("a copy");
    std::fs::copy(script("wire_client.py"), &ask).expect("a copy");
    let copy = world.dir.join("corelane").display().to_string();
    let shell = both(&copy, &serve.display().to_string(), &ask.display().to_string());
    let mut line = vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copy.as_str()];
    line.extend(["run", "--device", "lo", "--", "sh", "-c", shell.as_str()]);
    let out = world.check(Side::Ours, 60, &line);
    assert!(out.contains("all good"), "{out}");
    assert_eq!(kernel_segments(&world, Side::Ours), 0);
}
