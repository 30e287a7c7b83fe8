//! Servers that hand each connection to a forked child, and servers that do much in signal handlers.

use crate::sockets::script;
use crate::world::{OURS, PEER, Side, World, wait_until};

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

#[test]
fn signal_handlers_use_sockets_and_fork_while_the_program_is_in_calls_on_others() {
    let Some(world) = World::new(&["python3", "cc", "ip"]) else { return };
    let program = world.dir.join("handlers").display().to_string();
    world.check(Side::Ours, 60, &["cc", "-O1", "-w", "-o", &program, &script("handlers.c")]);
    let ways = ["recv", "poll", "select", "pselect", "epoll"];
    let count = ways.len().to_string();
    let mut server = world.spawn(Side::Ours, "server", &World::corelane(&[&program, OURS, "9006", &count]));
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let client = script("handlers.py");
    let mut words = vec!["python3", &client, OURS, "9006"];
    words.extend(ways);
    let said = world.check(Side::Peer, 200, &words);
    assert_eq!(said.lines().collect::<Vec<_>>(), ways.map(|way| format!("{way} True 15 True True")));
    assert!(server.wait(30).success());
    world.assert_clean();
}

/// On each fork other threads are likely to have one of the library's locks.
#[test]
fn children_of_a_program_whose_other_threads_are_in_calls_use_sockets() {
    let Some(world) = World::new(&["python3", "cc", "ip"]) else { return };
    let program = world.dir.join("fork_hammer").display().to_string();
    world.check(Side::Ours, 60, &["cc", "-O1", "-pthread", "-o", &program, &script("fork_hammer.c")]);
    let mut peer = world.spawn(Side::Peer, "peer", &["python3", &script("peer.py"), "9000"]);
    world.wait_for_port_from(Side::Ours, PEER, &mut peer, 9000);
    let said = world.check(Side::Ours, 120, &World::corelane(&[&program, PEER, "9000", "150"]));
    assert_eq!(said.trim(), "150 of 150 children");
    world.assert_clean();
}
