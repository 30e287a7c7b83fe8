//! Urgent data, signals about sockets, MSG_ZEROCOPY and pthread_cancel: what a program sees of them is the same on a lane as on the kernel.

use crate::sockets::{same_on_a_lane, script};
use crate::world::{OURS, PEER, Side, World};

/// The script `name` says the same on a lane as on the kernel, with itself at the other end.
fn same_with_its_peer(name: &str) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let script = script(name);
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script, "serve", "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    same_on_a_lane(&world, &["python3", &script, "ask", PEER, "9000", OURS]);
}

#[test]
fn urgent_data_are_the_same_on_a_lane_as_on_the_kernel() {
    same_with_its_peer("urgent.py");
}

#[test]
fn signals_about_sockets_are_the_same_on_a_lane_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "cc", "ip"]) else { return };
    let library = world.dir.join("signals.so").display().to_string();
    let cc = ["cc", "-O1", "-shared", "-fPIC", "-o", &library, &script("signals.c")];
    world.check(Side::Ours, 60, &cc);
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("urgent.py"), "serve", "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let words = ["python3", &script("signals.py"), &library, PEER, "9000", OURS];
    same_on_a_lane(&world, &words);
}

#[test]
fn zero_copy_sends_are_notified_on_a_lane_as_on_the_kernel() {
    same_with_its_peer("zerocopy.py");
}

#[test]
fn threads_that_sleep_are_cancelled_on_a_lane_as_on_the_kernel() {
    let Some(world) = World::new(&["python3", "cc", "ip"]) else { return };
    let program = world.dir.join("cancel").display().to_string();
    world.check(Side::Ours, 60, &["cc", "-O1", "-pthread", "-o", &program, &script("cancel.c")]);
    // It reads nothing.
    let code =
        "import socket\ns = socket.create_server(('', 9000))\nkept = []\nwhile True: kept.append(s.accept())";
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", "-c", code]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    same_on_a_lane(&world, &[&program, PEER, "9000", OURS]);
}
