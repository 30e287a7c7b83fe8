//! Servers that replace their processes while clients connect: no request fails.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::deaths::child;
use crate::entrust::of_peer;
use crate::servers::nginx;
use crate::sockets::script;
use crate::world::{OURS, Process, Side, World, send_signal, wait_until};

/// Reloads of one test; CORELANE_RELOADS sets another number: 100 take a minute.
fn reloads() -> u32 {
    std::env::var("CORELANE_RELOADS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

/// From one reload to the next, if the new workers are there by then.
const PACE: Duration = Duration::from_millis(600);

/// Clients that open a connection for each request, for `seconds`.
fn load(world: &World, seconds: u32, url: &str) -> Process {
    let time = format!("-d{seconds}s");
    world.spawn(
        Side::Peer,
        "wrk",
        &["wrk", "-t1", "-c32", &time, "--timeout", "10s", "-H", "Connection: close", url],
    )
}

/// The load ended without a failed request.
fn assert_no_failure(mut load: Process, seconds: u32) {
    assert!(load.wait(u64::from(seconds) + 30).success());
    let out = load.output();
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    let line = out.lines().find(|l| l.contains(" requests in ")).unwrap_or_default();
    let requests: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(requests > 1000, "{out}");
}

pub(crate) fn pid_in(world: &World, file: &str) -> Option<u32> {
    std::fs::read_to_string(world.dir.join(file)).ok()?.trim().parse().ok()
}

/// The master of nginx, once it has written its number: clients are let in before.
fn nginx_master(world: &World) -> u32 {
    wait_until("nginx says its pid", 20, || pid_in(world, "nginx.pid").is_some());
    pid_in(world, "nginx.pid").expect("a pid")
}

/// The children of `parent`, oldest first.
fn children(world: &World, parent: u32) -> Vec<u32> {
    let out = world.run(Side::Ours, 5, &["pgrep", "-P", &parent.to_string()]);
    String::from_utf8_lossy(&out.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn nginx_reloads_under_load_without_a_failed_request() {
    let Some(world) = World::new(&["nginx", "wrk", "ip", "pgrep"]) else { return };
    let (mut server, url) = nginx(&world, 2);
    let master = nginx_master(&world);
    // The last reload, too, is under load.
    let seconds = (PACE * reloads()).as_secs() as u32 + 1;
    let wrk = load(&world, seconds, &url);
    let mut seen = children(&world, master);
    for _ in 0..reloads() {
        let start = Instant::now();
        send_signal(master, Signal::HUP);
        // Old ones may still be at work when the next reload begins.
        wait_until("there are new workers", 20, || {
            children(&world, master).iter().filter(|child| !seen.contains(child)).count() >= 2
        });
        seen.extend(children(&world, master));
        std::thread::sleep(PACE.saturating_sub(start.elapsed()));
    }
    assert_no_failure(wrk, seconds);
    wait_until("the old workers are gone", 20, || children(&world, master).len() == 2);
    server.assert_running();
    drop(server);
    world.assert_clean();
}

/// A server of `workers` that wait with accepting, and a client with 40 connections to them, over wires or a device.
fn waiting_connections(world: &World, workers: u32, wired: bool) -> (Process, Process) {
    let prefork = script("prefork.py");
    let count = workers.to_string();
    let line = World::corelane(&["python3", &prefork, "serve", OURS, "9003", &count]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_until("the workers listen", 20, || {
        server.assert_running();
        (0..workers).all(|n| pid_in(world, &format!("worker{n}.pid")).is_some())
    });
    let ask = of_peer(wired, &["python3", &prefork, "ask", OURS, "9003", "40"]);
    let client = world.spawn(Side::Peer, "client", &ask);
    wait_until("the client has asked", 20, || world.dir.join("asked").exists());
    (server, client)
}

pub(crate) fn touch(world: &World, file: &str) {
    std::fs::write(world.dir.join(file), "").expect("a file");
}

fn what_waits_goes_to_the_others(wired: bool) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let (server, mut client) = waiting_connections(&world, 3, wired);
    touch(&world, "close0");
    wait_until("a listener is closed", 20, || world.dir.join("closed0").exists());
    send_signal(pid_in(&world, "worker1.pid").expect("a pid"), Signal::KILL);
    touch(&world, "go");
    assert!(client.wait(60).success());
    assert_eq!(client.output().trim(), "40 1", "all answered, by the one that is left");
    drop(server);
    world.assert_clean();
}

#[test]
fn what_waits_at_the_listener_of_a_worker_that_closes_it_or_is_killed_goes_to_the_others() {
    what_waits_goes_to_the_others(false);
}

#[test]
fn what_waits_over_wires_at_the_listener_of_a_worker_that_closes_it_or_is_killed_goes_to_the_others() {
    what_waits_goes_to_the_others(true);
}

#[test]
fn what_waits_at_the_only_worker_that_is_killed_waits_for_the_next_one() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let (server, mut client) = waiting_connections(&world, 1, false);
    send_signal(pid_in(&world, "worker0.pid").expect("a pid"), Signal::KILL);
    touch(&world, "go");
    touch(&world, "respawn");
    assert!(client.wait(60).success());
    assert_eq!(client.output().trim(), "40 1");
    drop(server);
    world.assert_clean();
}

#[test]
fn what_waits_at_a_closed_listener_is_not_forgotten_when_the_steward_is_killed() {
    let Some(world) = World::new(&["python3", "ip", "pgrep"]) else { return };
    let (server, mut client) = waiting_connections(&world, 1, false);
    wait_until("there is a steward", 20, || child(&world, server.id(), true).is_some());
    let steward = child(&world, server.id(), true).expect("a steward");
    // Stopped, so that it does nothing for the listener.
    send_signal(steward, Signal::STOP);
    touch(&world, "close0");
    wait_until("the listener is closed", 20, || world.dir.join("closed0").exists());
    send_signal(steward, Signal::KILL);
    // Nobody accepts, so they wait for as long as anybody could, and not for ever.
    assert!(client.wait(60).success());
    let output = client.output();
    assert_eq!(output.matches("ConnectionResetError").count(), 40, "{output}");
    drop(server);
    world.assert_clean();
}

#[test]
fn nginx_is_replaced_by_a_new_binary_under_load_without_a_failed_request() {
    let Some(world) = World::new(&["nginx", "wrk", "ip", "pgrep"]) else { return };
    let (first, url) = nginx(&world, 2);
    drop(first);
    // In the foreground nginx ignores USR2.
    let conf = std::fs::read_to_string(world.dir.join("nginx.conf")).expect("its configuration");
    let daemon = world.dir.join("daemon.conf");
    std::fs::write(&daemon, conf.replace("daemon off;", "")).expect("a file");
    let line = World::corelane(&["/usr/sbin/nginx", "-c", &daemon.display().to_string()]);
    let mut server = world.spawn(Side::Ours, "daemon", &line);
    world.wait_for_port(&mut server, 80);
    let old = nginx_master(&world);
    let wrk = load(&world, 6, &url);
    std::thread::sleep(Duration::from_secs(1));
    send_signal(old, Signal::USR2);
    wait_until("the new master has workers", 20, || {
        pid_in(&world, "nginx.pid").is_some_and(|new| new != old && children(&world, new).len() >= 2)
    });
    let new = pid_in(&world, "nginx.pid").expect("a pid");
    send_signal(old, Signal::QUIT);
    wait_until("the old master is gone", 20, || !std::path::Path::new(&format!("/proc/{old}")).exists());
    assert_no_failure(wrk, 6);
    let program = crate::world::program().display().to_string();
    let explained =
        world.check(Side::Ours, 10, &[&program, "explain", &children(&world, new)[0].to_string()]);
    assert!(explained.contains("accelerated"), "{explained}");
    send_signal(new, Signal::QUIT);
    assert!(server.wait(30).success());
    world.assert_clean();
}

#[test]
fn haproxy_reloads_under_load_without_a_failed_request() {
    let Some(world) = World::new(&["haproxy", "wrk", "ip", "pgrep"]) else { return };
    let dir = world.dir.display();
    let conf = format!(
        "global\n stats socket {dir}/ha.sock mode 600 level admin expose-fd listeners\n\
         defaults\n mode http\n timeout client 10s\n timeout server 10s\n timeout connect 5s\n\
         frontend f\n bind {OURS}:8081\n http-request return status 200 content-type text/plain string lanes\n"
    );
    std::fs::write(world.dir.join("haproxy.cfg"), conf).expect("a file");
    let conf = world.dir.join("haproxy.cfg").display().to_string();
    let pidfile = world.dir.join("haproxy.pid").display().to_string();
    let line = World::corelane(&["/usr/sbin/haproxy", "-W", "-f", &conf, "-p", &pidfile]);
    let mut server = world.spawn(Side::Ours, "haproxy", &line);
    world.wait_for_port(&mut server, 8081);
    // The worker answers before the master has written it.
    wait_until("the master says its pid", 20, || pid_in(&world, "haproxy.pid").is_some());
    let master = pid_in(&world, "haproxy.pid").expect("a pid");
    let wrk = load(&world, 8, &format!("http://{OURS}:8081/"));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        let before = children(&world, master);
        send_signal(master, Signal::USR2);
        wait_until("the old worker is gone", 20, || {
            let now = children(&world, master);
            !now.is_empty() && before.iter().all(|old| !now.contains(old))
        });
    }
    assert_no_failure(wrk, 8);
    let program = crate::world::program().display().to_string();
    let worker = children(&world, master)[0].to_string();
    let explained = world.check(Side::Ours, 10, &[&program, "explain", &worker]);
    assert!(explained.contains("accelerated"), "{explained}");
    server.assert_running();
}
