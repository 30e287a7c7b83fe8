//! Steering on a real device: what rules name leaves the kernel, what they do not name stays with it. As root only.
#![allow(clippy::unwrap_used)]

mod hosts;

use base::{IpAddress, Port};
use control::proto::Proto;
use control::steer::{Flow, LocalEnd, SteerLane, Steering};
use hosts::{two_hosts, without_children};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use sys::bpf::XdpMode;
use sys::fds::Fd;
use sys::packet;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// A test that waits longer than this for a packet has failed.
const LONG: Option<Duration> = Some(Duration::from_secs(10));

fn lane(number: u8) -> SteerLane {
    SteerLane::new(number).unwrap()
}

fn local(proto: Proto, port: u16) -> LocalEnd {
    LocalEnd { proto, addr: IpAddress::from_v4(HERE), port: Port(port) }
}

fn tap(steering: &Steering, ifindex: u32, number: u8) -> Fd {
    let tap = packet::socket().unwrap();
    steering.filter_socket(&tap, lane(number)).unwrap();
    packet::bind(&tap, ifindex).unwrap();
    tap
}

/// Every frame that waits in `tap`.
fn frames(tap: &Fd) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 70_000];
    while let Ok(bytes) = rustix::io::read(tap, &mut buffer[..]) {
        all.push(buffer[..bytes].to_vec());
    }
    all
}

/// Drops `steering` when no child of another test has copies of its fds.
fn close(steering: Steering) {
    let _alone = without_children();
    drop(steering);
}

fn udp_ports(frame: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (port(34), port(36))
}

fn udp(address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).unwrap();
    socket.set_read_timeout(LONG).unwrap();
    socket
}

/// Has the kernel's socket got nothing?
fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    socket.recv(&mut [0; 10]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_tap_sees_its_lane_and_tcx_keeps_it_from_the_kernel() {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        let (tap_0, tap_1) = (tap(&steering, ifindex, 0), tap(&steering, ifindex, 1));
        steering.attach_packet(ifindex).unwrap();
        steering.add_listener(local(Proto::Udp, 5000), lane(0)).unwrap();
        steering.add_listener(local(Proto::Udp, 5002), lane(1)).unwrap();
        let (taken, open) = (udp(HERE, 5000), udp(HERE, 5001));
        let far = hosts.on_the_other(|| udp(THERE, 6000));
        let send = |port: u16| far.send_to(b"hello", (HERE, port)).unwrap();
        (5000..5003).chain([5001]).for_each(|port| {
            send(port);
        });
        // One device, one queue: when the last packet is here, all are.
        open.recv(&mut [0; 10]).unwrap();
        open.recv(&mut [0; 10]).unwrap();
        assert_eq!(frames(&tap_0).iter().map(|f| udp_ports(f)).collect::<Vec<_>>(), [(6000, 5000)]);
        assert_eq!(frames(&tap_1).iter().map(|f| udp_ports(f)).collect::<Vec<_>>(), [(6000, 5002)]);
        assert!(is_empty(&taken));

        // What this host sends out is nobody's input, even between ends that rules name.
        taken.send_to(b"out", (THERE, 6000)).unwrap();
        far.recv(&mut [0; 10]).unwrap();
        assert!(frames(&tap_0).is_empty());

        steering.remove_lane(lane(0)).unwrap();
        send(5000);
        taken.set_nonblocking(false).unwrap();
        taken.recv(&mut [0; 10]).unwrap();
        assert!(frames(&tap_0).is_empty());

        steering.add_listener(local(Proto::Udp, 5000), lane(0)).unwrap();
        close(steering);
        send(5000);
        taken.recv(&mut [0; 10]).unwrap();
    });
}

#[test]
fn super_packets_of_a_flow_are_steered_whole() {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        let tap = tap(&steering, ifindex, 3);
        packet::set_receive_buffer(&tap, 4 << 20).unwrap();
        steering.attach_packet(ifindex).unwrap();
        let listener = TcpListener::bind((HERE, 5000)).unwrap();
        let mut far = hosts.on_the_other(|| TcpStream::connect((HERE, 5000)).unwrap());
        let (mut near, from) = listener.accept().unwrap();
        let mut warm = vec![0; 200_000];
        far.write_all(&warm).unwrap();
        near.read_exact(&mut warm).unwrap();
        assert!(frames(&tap).is_empty(), "no rule yet");
        let flow = Flow {
            local: local(Proto::Tcp, 5000),
            remote: IpAddress::from_v4(THERE),
            remote_port: Port(from.port()),
        };
        steering.add_flow(flow, lane(3)).unwrap();
        far.write_all(&[1; 60_000]).unwrap();
        // The peer's first window of data passes the device before write returns or in its softirq; a second packet tells us so.
        let (open, probe) = (udp(HERE, 5001), hosts.on_the_other(|| udp(THERE, 6000)));
        probe.send_to(b"x", (HERE, 5001)).unwrap();
        open.recv(&mut [0; 10]).unwrap();
        let got = frames(&tap);
        assert!(!got.is_empty(), "the flow is the lane's now");
        let longest = got.iter().map(Vec::len).max().unwrap();
        assert!(longest > 4000, "super-packets arrive as the peer sent them: {longest}");
        near.set_nonblocking(true).unwrap();
        assert!(near.read(&mut [0; 10]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));

        steering.remove_flow(flow).unwrap();
        near.set_nonblocking(false).unwrap();
        near.set_read_timeout(LONG).unwrap();
        near.read_exact(&mut vec![0; 60_000]).unwrap();
    });
}

fn lanes_without_a_socket_leave_their_packets_to_the_kernel(mode: XdpMode) {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        steering.attach_xdp(ifindex, mode, 1).unwrap();
        assert!(steering.attach_xdp(ifindex, mode, 1).is_err());
        steering.add_listener(local(Proto::Udp, 5000), lane(0)).unwrap();
        let near = udp(HERE, 5000);
        let far = hosts.on_the_other(|| udp(THERE, 6000));
        far.send_to(b"hello", (HERE, 5000)).unwrap();
        near.recv(&mut [0; 10]).unwrap();
        // With a socket that nobody bound the packet is the lane's, and lost; the next port is still the kernel's.
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::XDP, rustix::net::SocketType::RAW, None).unwrap();
        steering.set_socket(ifindex, 0, lane(0), &socket).unwrap();
        let open = udp(HERE, 5001);
        far.send_to(b"hello", (HERE, 5000)).unwrap();
        far.send_to(b"hello", (HERE, 5001)).unwrap();
        open.recv(&mut [0; 10]).unwrap();
        assert!(is_empty(&near));
        steering.clear_socket(ifindex, 0, lane(0)).unwrap();
        assert!(steering.set_socket(ifindex, 1, lane(0), &socket).is_err(), "the device has one queue");
        steering.detach(ifindex).unwrap();
        steering.attach_packet(ifindex).unwrap();
    });
}

#[test]
fn generic_xdp_takes_only_lanes_with_a_socket() {
    lanes_without_a_socket_leave_their_packets_to_the_kernel(XdpMode::Generic);
}

#[test]
fn native_xdp_takes_only_lanes_with_a_socket() {
    lanes_without_a_socket_leave_their_packets_to_the_kernel(XdpMode::Native);
}

#[test]
fn lanes_without_an_xdp_socket_have_packet_sockets_beside_it() {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        assert!(steering.attach_packet_beside(ifindex).is_err(), "there is no XDP program");
        steering.attach_xdp(ifindex, XdpMode::Generic, 1).unwrap();
        let family = rustix::net::AddressFamily::XDP;
        let socket = rustix::net::socket(family, rustix::net::SocketType::RAW, None).unwrap();
        steering.set_socket(ifindex, 0, lane(0), &socket).unwrap();
        assert_eq!(steering.attachments().count(), 1);
        steering.attach_packet_beside(ifindex).unwrap();
        steering.attach_packet_beside(ifindex).unwrap();
        assert_eq!(steering.attachments().count(), 2);
        let taps = [tap(&steering, ifindex, 0), tap(&steering, ifindex, 1)];
        for proto in [Proto::Udp, Proto::Tcp] {
            steering.add_listener(local(proto, 5000), lane(0)).unwrap();
            steering.add_listener(local(proto, 5001), lane(1)).unwrap();
        }
        let near = [udp(HERE, 5000), udp(HERE, 5001)];
        let listeners = [5000, 5001].map(|port| TcpListener::bind((HERE, port)).unwrap());
        let (open, far) = (udp(HERE, 5002), hosts.on_the_other(|| udp(THERE, 6000)));
        for port in [5000, 5001, 5002] {
            far.send_to(b"hello", (HERE, port)).unwrap();
        }
        open.recv(&mut [0; 10]).unwrap();
        assert!(near.iter().all(is_empty));
        let [first, second] = &taps;
        assert!(frames(first).is_empty(), "the XDP program has taken it");
        assert_eq!(frames(second).iter().map(|f| udp_ports(f)).collect::<Vec<_>>(), [(6000, 5001)]);
        // So it is with SYNs, which both programs pin.
        for listener in &listeners {
            let to = listener.local_addr().unwrap();
            let nobody = hosts.on_the_other(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
            assert_eq!(nobody.map_err(|error| error.kind()).unwrap_err(), ErrorKind::TimedOut);
        }
        assert!(frames(first).is_empty());
        assert_eq!(frames(second).len(), 1);
    });
}

#[test]
fn super_packets_are_classified_by_xdp_as_well() {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        steering.attach_xdp(ifindex, XdpMode::Generic, 1).unwrap();
        let family = rustix::net::AddressFamily::XDP;
        let socket = rustix::net::socket(family, rustix::net::SocketType::RAW, None).unwrap();
        steering.set_socket(ifindex, 0, lane(0), &socket).unwrap();
        let listener = TcpListener::bind((HERE, 5000)).unwrap();
        let mut far = hosts.on_the_other(|| TcpStream::connect((HERE, 5000)).unwrap());
        let (mut near, from) = listener.accept().unwrap();
        let mut warm = vec![0; 200_000];
        far.write_all(&warm).unwrap();
        near.read_exact(&mut warm).unwrap();
        let remote = IpAddress::from_v4(THERE);
        let flow = Flow { local: local(Proto::Tcp, 5000), remote, remote_port: Port(from.port()) };
        steering.add_flow(flow, lane(0)).unwrap();
        far.write_all(&[1; 60_000]).unwrap();
        let (open, probe) = (udp(HERE, 5001), hosts.on_the_other(|| udp(THERE, 6000)));
        probe.send_to(b"x", (HERE, 5001)).unwrap();
        open.recv(&mut [0; 10]).unwrap();
        near.set_nonblocking(true).unwrap();
        assert!(near.read(&mut [0; 10]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        steering.remove_flow(flow).unwrap();
        near.set_nonblocking(false).unwrap();
        near.set_read_timeout(LONG).unwrap();
        near.read_exact(&mut vec![0; 60_000]).unwrap();
    });
}

#[test]
fn a_foreign_xdp_program_is_an_error_and_stays() {
    two_hosts(|_| {
        let ifindex = sys::links::index("near").unwrap();
        let mut first = Steering::new(1).unwrap();
        first.attach_xdp(ifindex, XdpMode::Generic, 1).unwrap();
        let mut second = Steering::new(2).unwrap();
        let error = second.attach_xdp(ifindex, XdpMode::Generic, 1).unwrap_err();
        assert!(error.to_string().contains("XDP"), "{error}");
        close(first);
        second.attach_xdp(ifindex, XdpMode::Generic, 1).unwrap();
    });
}

/// An ICMP error of `kind` and `code` to `HERE` about a datagram from `HERE`'s `port` to `THERE`'s 6000.
fn icmp_error(kind: u8, code: u8, port: u16) -> Vec<u8> {
    let mut quoted = vec![0x45, 0, 0, 33, 0, 1, 0x40, 0, 64, 17, 0, 0];
    quoted.extend(HERE.octets());
    quoted.extend(THERE.octets());
    quoted.extend(port.to_be_bytes());
    quoted.extend(6000_u16.to_be_bytes());
    quoted.extend([0, 13, 0, 0]);
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0];
    message.extend(quoted);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    message
}

#[test]
fn an_icmp_error_goes_to_the_lane_of_the_flow_that_it_quotes() {
    two_hosts(|hosts| {
        let ifindex = sys::links::index("near").unwrap();
        let mut steering = Steering::new(7).unwrap();
        let (tap_0, tap_1) = (tap(&steering, ifindex, 0), tap(&steering, ifindex, 1));
        steering.attach_packet(ifindex).unwrap();
        steering.add_listener(local(Proto::Udp, 5000), lane(0)).unwrap();
        let flow = Flow {
            local: local(Proto::Udp, 5001),
            remote: IpAddress::from_v4(THERE),
            remote_port: Port(6000),
        };
        steering.add_flow(flow, lane(1)).unwrap();
        // The kernel's own socket hears of its own datagrams, as before.
        let own = udp(HERE, 5002);
        own.connect((THERE, 6000)).unwrap();
        let raw = hosts.on_the_other(|| {
            use rustix::net::{AddressFamily, SocketType, ipproto, socket};
            socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap()
        });
        let to = std::net::SocketAddr::from((HERE, 0));
        let send = |kind: u8, code: u8, port: u16| {
            let message = icmp_error(kind, code, port);
            rustix::net::sendto(&raw, &message, rustix::net::SendFlags::empty(), &to).unwrap();
        };
        // Errors of all kinds; an echo request, and a redirect, quote nothing that counts.
        for (kind, code) in [(3, 4), (3, 3), (11, 0), (12, 0), (8, 0), (5, 1)] {
            send(kind, code, 5000);
            send(kind, code, 5001);
            send(kind, code, 4999);
        }
        send(3, 3, 5002);
        let error = own.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let kinds = |tap: &Fd, port: u16| -> Vec<u8> {
            let got = frames(tap);
            assert!(got.iter().all(|f| f[62..64] == port.to_be_bytes()), "{got:02x?}");
            got.iter().map(|f| f[34]).collect()
        };
        assert_eq!(kinds(&tap_0, 5000), [3, 3, 11, 12]);
        assert_eq!(kinds(&tap_1, 5001), [3, 3, 11, 12]);
    });
}
