//! UDP of a program that has lanes is the kernel's, groups and all, on the same device.

use crate::world::{OURS, PEER, Side, World, wait_until};

const GROUP: &str = "239.77.1.2";
const GROUP_V6: &str = "ff15::77:1";

/// Has a lane; then joins groups, says what the kernel tells the network of them, and answers what comes to each.
const MEMBER: &str = "
import socket, struct, sys
device, group, group6 = sys.argv[1:]
server = socket.create_server(('', 9300))
lane, _ = server.accept()
index = socket.if_nametoindex(device)
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.bind(('', 9301))
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack('=4s4si', socket.inet_aton(group), bytes(4), index))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.bind(('::', 9302))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack('=16sI', socket.inet_pton(socket.AF_INET6, group6), index))
SOL_UDP, UDP_GRO = 17, 104
four.setsockopt(SOL_UDP, UDP_GRO, 1)
told = open('/proc/net/igmp').read() + open('/proc/net/igmp6').read()
hex4 = socket.inet_aton(group)[::-1].hex().upper()
print('told', hex4 in told, socket.inet_pton(socket.AF_INET6, group6).hex() in told, flush=True)
lane.sendall(b'joined')
got = 0
while got < 6000:
    data, ancillary, _, sender = four.recvmsg(65536, 64)
    got += len(data)
four.sendto(b'group', sender)
_, sender = six.recvfrom(100)
six.sendto(b'group', sender)
assert lane.recv(10) == b'over'
print('over', flush=True)
";

/// Sends to both groups, to one of them six datagrams in one go, until it is answered.
const SENDER: &str = "
import socket, sys
device, group, group6, ours = sys.argv[1:]
lane = socket.create_connection((ours, 9300))
assert lane.recv(10) == b'joined'
index = socket.if_nametoindex(device)
SOL_UDP, UDP_SEGMENT = 17, 103
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('10.77.0.1'))
four.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
def ask(sock, data, to):
    sock.settimeout(0.5)
    for _ in range(60):
        sock.sendto(data, to)
        try:
            return sock.recvfrom(100)[0].decode()
        except TimeoutError:
            pass
    return 'silence'
print('four', ask(four, bytes(6000), (group, 9301)))
print('six', ask(six, b'hello', (group6, 9302)))
lane.sendall(b'over')
";

#[test]
fn groups_and_segments_of_udp_are_the_kernels_for_a_program_with_lanes() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let member = ["python3", "-c", MEMBER, "lane0", GROUP, GROUP_V6];
    let mut member = world.spawn(Side::Ours, "member", &World::corelane(&member));
    wait_until("the lane listens", 30, || {
        member.assert_running();
        world.check(Side::Ours, 5, &["ss", "-tlnH"]).contains(":9300")
    });
    let sender = ["python3", "-c", SENDER, "peer0", GROUP, GROUP_V6, OURS];
    assert_eq!(world.check(Side::Peer, 90, &sender), "four group\nsix group\n", "from {PEER}");
    assert!(member.wait(30).success());
    let said = member.output();
    assert!(said.contains("told True True") && said.contains("over"), "{said}");
    world.assert_clean();
}
