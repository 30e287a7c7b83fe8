//! Linux as client and as server, with each of its congestion controls and several MTUs, over a wire that loses packets both ways (the fault
//! middleware): what is sent arrives, byte for byte.

use std::path::Path;

use crate::world::{DEVICE, OURS, PEER, Process, Side, World};

/// One packet of a hundred is lost, each way.
const LOSS: &str = "drop=10000";
/// Bytes up and down, of each transfer.
const BYTES: [&str; 2] = ["3000001", "3000017"];
/// Linux's congestion controls, those that the machine has.
const CONTROLS: [&str; 3] = ["cubic", "reno", "bbr"];

fn script() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/scripts/transfer.py").display().to_string()
}

/// Sets Linux's congestion control on the kernel's side. False: this kernel does not have it.
fn control(world: &World, name: &str) -> bool {
    let set = format!("net.ipv4.tcp_congestion_control={name}");
    world.run(Side::Peer, 5, &["sysctl", "-q", "-w", &set]).status.success()
}

fn lossy(world: &World, name: &str, seed: u64, words: &[&str]) -> Process {
    let mut command = world.command(Side::Ours, &World::corelane(words));
    command.env("CORELANE_FAULT", format!("{LOSS},seed={seed}"));
    world.spawn_command(name, command)
}

/// Transfers both ways, with Linux as client and as server.
fn transfers(mtu: &str) {
    let Some(world) = World::new(&["python3", "ip", "sysctl"]) else { return };
    world.check(Side::Ours, 5, &["ip", "link", "set", DEVICE, "mtu", mtu]);
    world.check(Side::Peer, 5, &["ip", "link", "set", "peer0", "mtu", mtu]);
    let script = script();
    let mut ours = lossy(&world, "ours", 1, &["python3", &script, "serve", "9000"]);
    let mut theirs = world.spawn(Side::Peer, "theirs", &["python3", &script, "serve", "9001"]);
    world.wait_for_port(&mut ours, 9000);
    world.wait_for_port_from(Side::Peer, PEER, &mut theirs, 9001);
    let [up, down] = BYTES;
    for (n, name) in CONTROLS.iter().enumerate() {
        if !control(&world, name) {
            eprintln!("skipped: this kernel has no {name}");
            continue;
        }
        let fetch = |address, port| ["python3", &script, "fetch", address, port, "-", up, down];
        world.check(Side::Peer, 120, &fetch(OURS, "9000"));
        let mut client = lossy(&world, "client", 7 + n as u64, &fetch(PEER, "9001"));
        let status = client.wait(120);
        assert!(status.success(), "Corelane's client against {name}, MTU {mtu}: {status}");
    }
    ours.assert_running();
    theirs.assert_running();
}

#[test]
fn transfers_with_linux_over_loss_are_unchanged_at_mtu_1500() {
    transfers("1500");
}

#[test]
fn transfers_with_linux_over_loss_are_unchanged_at_mtu_9000() {
    transfers("9000");
}

#[test]
fn transfers_with_linux_over_loss_are_unchanged_at_mtu_65535() {
    transfers("65535");
}

#[test]
fn each_congestion_control_of_ours_serves_linux_over_loss() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let script = script();
    let mut ours = lossy(&world, "ours", 3, &["python3", &script, "serve", "9000"]);
    world.wait_for_port(&mut ours, 9000);
    let [up, down] = BYTES;
    for name in ["cubic", "reno", "bbr"] {
        world.check(Side::Peer, 120, &["python3", &script, "fetch", OURS, "9000", name, up, down]);
    }
    ours.assert_running();
}
