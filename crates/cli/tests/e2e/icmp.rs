//! ICMP errors on an address that the kernel has too: a path that is too narrow, and connections that nobody takes.

use std::process::{Command, Stdio};

use crate::six::settled_segments;
use crate::sockets::script;
use crate::wires::kernel_segments;
use crate::world::{OURS, PEER, Side, World, sha256, wait_until};

/// A host behind the peer, which is its router.
const FAR: &str = "10.78.0.2";

/// A third namespace, removed on drop.
struct Far<'w> {
    world: &'w World,
    name: String,
}

impl<'w> Far<'w> {
    /// The router's device towards it is `far0`; that takes packets of `mtu` bytes.
    fn new(world: &'w World, mtu: u32) -> Self {
        let far = Self { world, name: format!("cle2e-{}-far", std::process::id()) };
        let router = world.namespace(Side::Peer);
        host(&["ip", "netns", "add", &far.name]);
        let pair = ["type", "veth", "peer", "name", "far1", "netns", &far.name];
        host(&[&["ip", "link", "add", "far0", "netns", router][..], &pair].concat());
        far.router(&["ip", "address", "add", "10.78.0.1/24", "dev", "far0"]);
        far.router(&["ip", "link", "set", "far0", "mtu", &mtu.to_string(), "up"]);
        far.router(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
        far.run(&["ip", "link", "set", "lo", "up"]);
        far.run(&["ip", "address", "add", &format!("{FAR}/24"), "dev", "far1"]);
        far.run(&["ip", "link", "set", "far1", "up"]);
        far.run(&["ip", "route", "add", "default", "via", "10.78.0.1"]);
        world.check(Side::Ours, 5, &["ip", "route", "add", "10.78.0.0/24", "via", PEER]);
        wait_until("the wire has carrier", 20, || {
            world.check(Side::Peer, 5, &["ip", "link", "show", "far0"]).contains("LOWER_UP")
        });
        far
    }

    fn router(&self, words: &[&str]) {
        self.world.check(Side::Peer, 5, words);
    }

    fn run(&self, words: &[&str]) {
        host(&[&["ip", "netns", "exec", &self.name], words].concat());
    }
}

impl Drop for Far<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Runs a command outside of all namespaces.
fn host(words: &[&str]) {
    let mut command = Command::new("timeout");
    command.arg("90").args(words).stdin(Stdio::null());
    let output = command.output().expect("timeout (package coreutils)");
    assert!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_router_with_a_narrow_link_is_heard_on_an_address_shared_with_the_kernel() {
    let Some(world) = World::new(&["python3", "ip", "curl", "sysctl"]) else { return };
    let far = Far::new(&world, 1280);
    // Nothing but what the router says helps.
    world.check(Side::Ours, 5, &["sysctl", "-q", "-w", "net.ipv4.tcp_mtu_probing=0"]);
    let file = world.random_file("data", 8 << 20);
    let serve = ["python3", "-m", "http.server", "--bind", OURS, "8000"];
    let mut server = world.spawn(Side::Ours, "python", &World::corelane(&serve));
    world.wait_for_port(&mut server, 8000);
    let before = settled_segments(&world);
    let fetched = world.dir.join("fetched").display().to_string();
    for round in 0..2 {
        far.run(&["curl", "-sSf", "--max-time", "60", "-o", &fetched, &format!("http://{OURS}:8000/data")]);
        assert_eq!(sha256(&file), sha256(fetched.as_ref()), "round {round}");
        // It becomes narrower still.
        far.router(&["ip", "link", "set", "far0", "mtu", "900"]);
    }
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    server.assert_running();
    drop(server);
    let told = world.check(Side::Peer, 5, &["cat", "/proc/net/snmp"]);
    let sent = icmp_out(&told, "OutDestUnreachs");
    // Each connection needs to be told once, and a few times more for what was on its way.
    assert!((2..2000).contains(&sent), "{sent} errors were sent");
    world.assert_clean();
}

/// A figure of the Icmp lines of /proc/net/snmp.
fn icmp_out(snmp: &str, name: &str) -> u64 {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, figures) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let at = names.split_whitespace().position(|word| word == name).expect("such a figure");
    figures.split_whitespace().nth(at).and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn connections_that_a_router_refuses_fail_as_the_kernels_do() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.check(Side::Ours, 5, &["ip", "route", "add", "10.79.0.0/24", "via", PEER]);
    world.check(Side::Peer, 5, &["ip", "route", "add", "blackhole", "10.79.0.0/24"]);
    let refuse = script("refuse.py");
    let mut router = world.spawn(Side::Peer, "router", &["python3", &refuse, "router", "peer0"]);
    wait_until("the router listens", 20, || {
        router.assert_running();
        world.dir.join("ready").exists()
    });
    let ask = ["python3", &refuse, "ask"];
    let kernel = world.check(Side::Ours, 60, &ask);
    let lane = world.check(Side::Ours, 60, &World::corelane(&ask));
    assert_eq!(lane, kernel, "left: the lane, right: the kernel");
    assert_eq!(kernel.lines().count(), 7, "{kernel}");
    assert!(kernel.contains("ECONNREFUSED") && kernel.contains("EHOSTUNREACH"), "{kernel}");
    world.assert_clean();
}
