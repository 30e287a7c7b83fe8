//! Connections stay open over exec, whoever makes it, and are a lane's still.

use crate::entrust::{of_peer, wait_for_lane};
use crate::sockets::script;
use crate::world::{OURS, PEER, Side, World};

fn goes_to_the_program_that_a_child_execs(wired: bool) {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let exec = script("exec.py");
    let line = World::corelane(&["python3", &exec, "serve", OURS, "9004"]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_for_lane(&world, &server);
    let said = world.check(Side::Peer, 120, &of_peer(wired, &["python3", &exec, "ask", OURS, "9004"]));
    let ways = ["execv", "execve", "execvp", "execl", "execlp", "execle", "popen"];
    assert_eq!(said.lines().collect::<Vec<_>>(), ways.map(|way| format!("{way} True")));
    assert!(server.wait(30).success());
    assert!(server.output().contains("[0, 0, 0, 0, 0, 0, 0]"), "{}", server.output());
    world.assert_clean();
}

#[test]
fn a_connection_goes_to_the_program_that_a_child_execs() {
    goes_to_the_program_that_a_child_execs(false);
}

#[test]
fn a_connection_over_a_wire_goes_to_the_program_that_a_child_execs() {
    goes_to_the_program_that_a_child_execs(true);
}

#[test]
fn a_connection_stays_with_a_process_that_execs_another_program() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let words = ["python3", &script("exec.py"), "client", PEER, "9000"];
    let kernel = world.check(Side::Ours, 60, &words);
    let lane = world.check(Side::Ours, 60, &World::corelane(&words));
    assert_eq!(lane, kernel, "left: the lane, right: the kernel");
    assert!(kernel.contains("b'before' True True"), "{kernel}");
    world.assert_clean();
}
