//! The TAP port against the kernel at the other end of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use std::net::UdpSocket;

use port::Port;
use port::tap::{TapPort, open};
use rig::{FAR, FRAMES, Memory, NEAR, Rig, pattern, receive_ipv4, run, setup, udp_head};
use state::CsumState;

/// The kernel has [`FAR`] on the device, we are [`NEAR`] behind it.
fn tap(memory: &Memory) -> TapPort {
    let fd = open("tap0").unwrap();
    rig::wait_running("tap0");
    run("ip link set tap0 address 02:00:00:00:00:02");
    run("ip addr add 10.99.0.2/24 dev tap0");
    run("ip neigh replace 10.99.0.1 lladdr 02:00:00:00:00:01 dev tap0");
    TapPort::from_fd(fd, memory.area, setup())
}

fn kernel_socket() -> UdpSocket {
    let socket = UdpSocket::bind((FAR, 4000)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn datagrams_go_both_ways_with_unfinished_checksums() {
    let Some(_rig) = Rig::new() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = tap(&memory);
    let udp = kernel_socket();
    udp.send_to(&pattern(900), (NEAR, 5000)).unwrap();
    let packets = receive_ipv4(&mut port, &mut memory, 17, 1);
    assert_eq!((packets[0].csum, packets[0].gso_size), (CsumState::Unfinished, 0));
    assert_eq!(memory.take(&packets[0])[42..], pattern(900));

    let mut packet = memory.packet(&udp_head(5000, 4000, 700), &pattern(700));
    (packet.csum_start, packet.csum_offset) = (34, 6);
    assert_eq!(port.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
    memory.release_payload(&packet);
    let mut got = [0; 2000];
    assert_eq!(udp.recv(&mut got).unwrap(), 700);
    assert_eq!(got[..700], pattern(700));
    assert_eq!(memory.free(), FRAMES);
    assert_eq!((port.stats().tx_packets, port.stats().tx_dropped), (1, 0));
}

#[test]
fn a_super_datagram_is_cut_by_the_kernel() {
    let Some(_rig) = Rig::new() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = tap(&memory);
    let udp = kernel_socket();
    rig::the_kernel_cuts_a_super_datagram(&mut port, &mut memory, &udp);
}

#[test]
fn a_device_that_goes_away_is_an_error() {
    let Some(_rig) = Rig::new() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = tap(&memory);
    run("ip link set tap0 down");
    let packet = memory.packet(&udp_head(1, 2, 4), b"gone");
    assert!(port.tx(&mut memory.frames(), &[packet]).is_err());
}
