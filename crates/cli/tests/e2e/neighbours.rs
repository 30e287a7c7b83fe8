//! What is on the link changes while connections live: a neighbour gets another Ethernet address, a device goes down and comes up.

use crate::world::{DEVICE, OURS, PEER, Process, Side, World, wait_until};

/// Behind the peer, which is the gateway to it.
const FAR: &str = "10.99.0.1";
/// The peer, by another address.
const SECOND_GATEWAY: &str = "10.77.0.99";

/// Answers what it gets on every connection.
const ECHO: &str = "
import socket, sys, threading
def serve(c):
    while b := c.recv(100): c.sendall(b)
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()";

/// Asks all the time on one connection, and counts the right answers.
const ASK: &str = "
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=(sys.argv[3], 0))
n = 0
while True:
    s.sendall(b'%08d' % n)
    d = b''
    while len(d) < 8:
        b = s.recv(8 - len(d))
        assert b, 'the end'
        d += b
    assert int(d) == n, d
    n += 1
    print(n, flush=True)
    time.sleep(0.005)";

/// Both ends of Corelane's have a connection to the kernel: one that it accepted, from next door and from behind a gateway, and one that it opened.
struct Talk {
    world: World,
    servers: [Process; 2],
    clients: Vec<Process>,
}

fn answers(client: &Process) -> u64 {
    client.output().lines().rev().find_map(|line| line.parse().ok()).unwrap_or(0)
}

impl Talk {
    fn begin() -> Option<Self> {
        let world = World::new(&["python3", "ip", "bash"])?;
        world.check(Side::Peer, 5, &["ip", "address", "add", FAR, "dev", "lo"]);
        world.check(Side::Ours, 5, &["ip", "route", "add", FAR, "via", PEER]);
        // The peer says where it is, and the kernel believes it also twice a second.
        let notify = "echo 1 > /proc/sys/net/ipv4/conf/peer0/arp_notify";
        world.check(Side::Peer, 5, &["bash", "-c", notify]);
        let believe = format!("echo 0 > /proc/sys/net/ipv4/neigh/{DEVICE}/locktime");
        world.check(Side::Ours, 5, &["bash", "-c", &believe]);
        let mut ours =
            world.spawn(Side::Ours, "server", &World::corelane(&["python3", "-c", ECHO, OURS, "9000"]));
        world.wait_for_port(&mut ours, 9000);
        let mut theirs = world.spawn(Side::Peer, "kernel", &["python3", "-c", ECHO, PEER, "9001"]);
        world.wait_for_port_from(Side::Ours, PEER, &mut theirs, 9001);
        let accepted =
            |name, from| world.spawn(Side::Peer, name, &["python3", "-c", ASK, OURS, "9000", from]);
        let opens = World::corelane(&["python3", "-c", ASK, PEER, "9001", OURS]);
        let clients =
            vec![accepted("near", PEER), accepted("far", FAR), world.spawn(Side::Ours, "opens", &opens)];
        let mut talk = Self { world, servers: [ours, theirs], clients };
        talk.goes_on();
        let held = talk.world.check(Side::Ours, 5, &["ss", "-Htn", "state", "established"]);
        assert_eq!(held.trim(), "", "the kernel has none of them");
        Some(talk)
    }

    /// The kernel's word for it, which nothing on the wire changes.
    fn set_neighbour(&self, address: &str, mac: &str) {
        let words = ["ip", "neighbour", "replace", address, "lladdr", mac, "dev", DEVICE, "nud", "permanent"];
        self.world.check(Side::Ours, 5, &words);
    }

    fn goes_on(&mut self) {
        self.these_go_on(0..self.clients.len());
    }

    fn these_go_on(&mut self, which: std::ops::Range<usize>) {
        let Self { servers, clients, .. } = self;
        let clients = &mut clients[which];
        let before: Vec<_> = clients.iter().map(answers).collect();
        wait_until("the connections go on", 30, || {
            servers.iter_mut().for_each(Process::assert_running);
            clients.iter_mut().for_each(Process::assert_running);
            clients.iter().zip(&before).all(|(client, before)| answers(client) > before + 20)
        });
    }
}

#[test]
fn connections_follow_a_neighbour_to_another_ethernet_address() {
    let Some(mut talk) = Talk::begin() else { return };
    for address in ["02:00:00:00:77:01", "02:00:00:00:77:02"] {
        talk.world.check(Side::Peer, 5, &["ip", "link", "set", "peer0", "address", address]);
        talk.goes_on();
    }
}

#[test]
fn connections_outlive_their_device_going_down_and_up_at_either_end() {
    let Some(mut talk) = Talk::begin() else { return };
    for (side, device) in [(Side::Peer, "peer0"), (Side::Ours, DEVICE)] {
        talk.world.check(side, 5, &["ip", "link", "set", device, "down"]);
        talk.world.check(side, 5, &["ip", "link", "set", device, "up"]);
        if matches!(side, Side::Ours) {
            // It went with the device.
            talk.world.check(side, 5, &["ip", "route", "replace", FAR, "via", PEER]);
        }
        talk.goes_on();
    }
}

#[test]
fn connections_go_by_another_gateway_when_the_route_is_changed() {
    let Some(mut talk) = Talk::begin() else { return };
    let right = talk.world.check(Side::Peer, 5, &["cat", "/sys/class/net/peer0/address"]);
    // Whatever goes over this gateway goes nowhere.
    talk.set_neighbour(PEER, "02:00:00:00:77:77");
    talk.set_neighbour(SECOND_GATEWAY, right.trim());
    talk.world.check(Side::Ours, 5, &["ip", "route", "replace", FAR, "via", SECOND_GATEWAY]);
    talk.these_go_on(1..2);
    talk.set_neighbour(PEER, right.trim());
    talk.goes_on();
}
