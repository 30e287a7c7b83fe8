//! Servers that hand each connection to a forked child.

use crate::sockets::script;
use crate::world::{OURS, Side, World, wait_until};

#[test]
fn a_forked_child_waits_for_its_parents_connection_in_every_way() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    let forked = script("forked.py");
    let line = World::corelane(&["python3", &forked, "serve", OURS, "9005"]);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let said = world.check(Side::Peer, 200, &["python3", &forked, "ask", OURS, "9005"]);
    let ways = ["recv", "poll", "select", "epoll", "epoll-of-parent", "back-to-parent", "stolen"];
    let all = "[True, True, True, True, True, True]";
    assert_eq!(said.lines().collect::<Vec<_>>(), ways.map(|way| format!("{way} {all}")));
    assert!(server.wait(30).success());
    assert!(server.output().contains("[0, 0, 0, 0, 0, 0, 0]"), "{}", server.output());
    world.assert_clean();
}
