//! The same work on smoltcp: two interfaces joined by an in-memory wire, both ends in one thread.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use crate::work::{Cpu, Figure, Loss, Rig, Setting, WARM_ROUNDS, Work};

const SERVER: IpAddress = IpAddress::v4(198, 18, 0, 2);

/// A frame and the part of it in use; buffers go round so that nothing is allocated per packet.
type Frame = (Vec<u8>, usize);

struct Wire {
    mtu: usize,
    checksums: bool,
    rx: VecDeque<Frame>,
    tx: VecDeque<Frame>,
    pool: Vec<Vec<u8>>,
    used: Vec<Vec<u8>>,
}

struct Rx<'a>(Frame, &'a mut Vec<Vec<u8>>);
struct Tx<'a>(&'a mut VecDeque<Frame>, &'a mut Vec<Vec<u8>>, usize);

impl phy::RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let (bytes, len) = self.0;
        let out = f(bytes.get(..len).unwrap_or(&[]));
        self.1.push(bytes);
        out
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = self.1.pop().unwrap_or_else(|| vec![0; self.2]);
        let out = f(bytes.get_mut(..len).unwrap_or(&mut []));
        self.0.push_back((bytes, len));
        out
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        if !self.checksums {
            caps.checksum = ChecksumCapabilities::ignored();
        }
        caps
    }

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame, &mut self.used), Tx(&mut self.tx, &mut self.pool, self.mtu + 14)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx, &mut self.pool, self.mtu + 14))
    }
}

struct End {
    iface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
}

impl End {
    fn new(host: u8, mtu: usize, checksums: bool) -> Self {
        let mut wire = Wire {
            mtu,
            checksums,
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            pool: Vec::new(),
            used: Vec::new(),
        };
        let hardware = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, host]));
        let mut iface = Interface::new(Config::new(hardware), &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|list| {
            list.push(IpCidr::new(IpAddress::v4(198, 18, 0, host), 24)).expect("room for one address");
        });
        Self { iface, wire, sockets: SocketSet::new(Vec::new()) }
    }

    fn socket(&mut self, buffer_bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        self.sockets.add(socket)
    }

    fn get(&mut self, at: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket>(at)
    }
}

/// Two smoltcp hosts.
pub(crate) struct Smoltcp {
    client: End,
    server: End,
    now_us: i64,
    loss: Loss,
    /// Packets carried in this round, both ways.
    carried: usize,
}

impl Smoltcp {
    pub(crate) fn new(setting: &Setting) -> Self {
        let end = |host| End::new(host, setting.mtu, setting.checksums);
        let loss = Loss::new(setting);
        let mut rig = Self { client: end(1), server: end(2), now_us: 0, loss, carried: 0 };
        rig.client_side();
        rig.server_side();
        rig
    }

    fn client_side(&mut self) {
        self.now_us += 5;
        let end = &mut self.client;
        end.iface.poll(Instant::from_micros(self.now_us), &mut end.wire, &mut end.sockets);
        self.carried += carry(&mut self.client.wire, &mut self.server.wire, &mut self.loss);
    }

    fn server_side(&mut self) {
        self.now_us += 5;
        let end = &mut self.server;
        end.iface.poll(Instant::from_micros(self.now_us), &mut end.wire, &mut end.sockets);
        self.carried += carry(&mut self.server.wire, &mut self.client.wire, &mut self.loss);
    }

    /// After a round in which nothing was on the wire (what was lost is waited for), time goes faster.
    fn pass_idle_time(&mut self) {
        if std::mem::take(&mut self.carried) == 0 {
            self.now_us += 1_000;
        }
    }

    fn connect(&mut self, at: SocketHandle, port: u16) {
        let End { iface, sockets, .. } = &mut self.client;
        let socket = sockets.get_mut::<tcp::Socket>(at);
        socket.connect(iface.context(), (SERVER, 80), port).expect("a free socket");
    }
}

/// What `from` sent is what `to` gets, but for what the wire loses; buffers go back to the sender. Gives how many packets
/// there were.
fn carry(from: &mut Wire, to: &mut Wire, loss: &mut Loss) -> usize {
    let count = from.tx.len();
    if loss.none() {
        to.rx.append(&mut from.tx);
    } else {
        for frame in from.tx.drain(..) {
            if loss.next() {
                from.pool.push(frame.0);
            } else {
                to.rx.push_back(frame);
            }
        }
    }
    from.pool.append(&mut to.used);
    count
}

impl Rig for Smoltcp {
    fn short_connections(mut self, concurrent: usize, count: u64) -> Figure {
        const BYTES: usize = 64;
        let clients: Vec<_> = (0..concurrent).map(|_| self.client.socket(2048)).collect();
        let servers: Vec<_> = (0..2 * concurrent).map(|_| self.server.socket(2048)).collect();
        for at in &servers {
            self.server.get(*at).listen(80).expect("a free socket");
        }
        let mut states = vec![0u8; concurrent];
        let (request, mut buffer) = ([7u8; BYTES], [0u8; 2048]);
        let (mut port, mut done, mut started) = (1024u16, 0u64, 0u64);
        let cpu = Cpu::now();
        while done < count {
            for (state, at) in states.iter_mut().zip(&clients) {
                let socket = self.client.get(*at);
                match *state {
                    0 if started < count => {
                        port = if port >= 65_000 { 1024 } else { port + 1 };
                        started += 1;
                        self.connect(*at, port);
                        *state = 1;
                    }
                    1 if socket.may_send() => {
                        socket.send_slice(&request).expect("room");
                        *state = 2;
                    }
                    2 if socket.recv_queue() >= BYTES => {
                        socket.recv_slice(&mut buffer).expect("data");
                        socket.close();
                        *state = 3;
                    }
                    3 if !socket.is_open() => {
                        done += 1;
                        *state = 0;
                    }
                    _ => {}
                }
            }
            self.client_side();
            self.server_side();
            for at in &servers {
                let socket = self.server.get(*at);
                if socket.can_recv() && socket.recv_queue() >= BYTES {
                    let n = socket.recv_slice(&mut buffer).expect("data");
                    socket.send_slice(&buffer[..n]).expect("room");
                }
                match socket.state() {
                    tcp::State::CloseWait => socket.close(),
                    tcp::State::Closed => socket.listen(80).expect("a free socket"),
                    _ => {}
                }
            }
            self.server_side();
        }
        cpu.figure(done)
    }

    fn request_response(mut self, connections: usize, count: u64) -> Figure {
        const BYTES: usize = 64;
        let clients: Vec<_> = (0..connections).map(|_| self.client.socket(2048)).collect();
        let servers: Vec<_> = (0..connections).map(|_| self.server.socket(2048)).collect();
        for at in &servers {
            self.server.get(*at).listen(80).expect("a free socket");
        }
        for (n, at) in clients.iter().enumerate() {
            self.connect(*at, 1024 + n as u16);
            if n % 64 == 63 || n + 1 == connections {
                for _ in 0..4 {
                    self.client_side();
                    self.server_side();
                }
            }
        }
        let (request, mut buffer) = ([7u8; BYTES], [0u8; BYTES]);
        let active = Work::active(connections);
        let (mut done, mut first, mut cpu) = (0, 0, Cpu::now());
        // What is touched for the first time, at the first exchanges of each connection, does not count.
        for count in [WARM_ROUNDS * connections as u64, count] {
            (done, cpu) = (0, Cpu::now());
            while done < count {
                let turn: Vec<usize> = (first..first + active).map(|n| n % connections).collect();
                first = (first + active) % connections;
                for n in &turn {
                    self.client.get(clients[*n]).send_slice(&request).expect("room");
                }
                let mut answers = 0;
                while answers < active {
                    self.client_side();
                    self.server_side();
                    // Which listening socket took which connection is its own choice when the wire loses some.
                    for n in if self.loss.none() { 0..active } else { 0..connections } {
                        let at = if self.loss.none() { turn[n] } else { n };
                        let socket = self.server.get(servers[at]);
                        if socket.can_recv() {
                            let n = socket.recv_slice(&mut buffer).expect("data");
                            socket.send_slice(&buffer[..n]).expect("room");
                        }
                    }
                    self.server_side();
                    self.client_side();
                    for n in &turn {
                        let socket = self.client.get(clients[*n]);
                        if socket.can_recv() {
                            assert_eq!(socket.recv_slice(&mut buffer).expect("data"), BYTES);
                            answers += 1;
                        }
                    }
                    self.pass_idle_time();
                }
                done += answers as u64;
            }
        }
        cpu.figure(done)
    }

    fn bulk(mut self, bytes: u64) -> Figure {
        let (client, server) = (self.client.socket(1 << 20), self.server.socket(1 << 20));
        self.server.get(server).listen(80).expect("a free socket");
        self.connect(client, 1024);
        for _ in 0..8 {
            self.client_side();
            self.server_side();
        }
        let (data, mut buffer) = (vec![7u8; 65_536], vec![0u8; 65_536]);
        let (mut sent, mut got) = (0u64, 0u64);
        let cpu = Cpu::now();
        while got < bytes {
            let socket = self.client.get(client);
            while sent < bytes && socket.can_send() {
                let want = data.len().min((bytes - sent) as usize);
                sent += socket.send_slice(&data[..want]).expect("room") as u64;
            }
            self.client_side();
            self.server_side();
            let socket = self.server.get(server);
            while socket.can_recv() {
                got += socket.recv_slice(&mut buffer).expect("data") as u64;
            }
            self.server_side();
            self.pass_idle_time();
        }
        cpu.figure(got)
    }
}
