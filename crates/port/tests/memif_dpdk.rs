//! The memif port against DPDK's: testpmd sends back what it gets, as server and as client.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod rig;

use std::io::Read;
use std::process::{Child, Command, Stdio};

use base::Duration;
use port::Port;
use port::memif::{Connection, MemifPort, MemifSpec, News, Role, WireShape};
use rig::{FAR_MAC, FRAMES, Memory, NEAR_MAC, ones, pattern, setup, udp_head};
use state::{CsumState, RxBatch, TxFrame};
use sys::poll::poll;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running testpmd; ended and waited for when dropped.
struct Testpmd {
    child: Child,
}

impl Testpmd {
    /// `None`, with a line that says so, where it is not installed.
    fn start(role: &str, path: &str, mode: &str) -> Option<Self> {
        let vdev = format!("net_memif0,role={role},id=7,secret=sesame,socket={path},socket-abstract=no");
        let prefix = format!("--file-prefix=corelane-{}-{role}", std::process::id());
        let child = Command::new("dpdk-testpmd")
            // Two threads are the least it takes; they may share a core. No huge pages, no files that outlive it.
            .args([
                "--lcores=0@0,1@(0,1)",
                "--no-huge",
                "-m",
                "64",
                "--no-pci",
                "--no-telemetry",
                "--no-shconf",
            ])
            .args([prefix, format!("--vdev={vdev}")])
            .args(["--", "--auto-start", "--no-mlockall", "--total-num-mbufs=2048"])
            .arg(format!("--forward-mode={mode}"))
            // It ends with its input.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => Some(Self { child }),
            Err(error) => {
                eprintln!("SKIPPED: dpdk-testpmd (Debian: dpdk-dev) cannot be started: {error}");
                None
            }
        }
    }

    /// What it said, once it has ended.
    fn output(&mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let out = self.child.stdout.take().map(|mut o| o.read_to_string(&mut text));
        let err = self.child.stderr.take().map(|mut e| e.read_to_string(&mut text));
        format!("{text}{:?}", (out, err))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct Rig {
    testpmd: Testpmd,
    connection: Connection,
    port: MemifPort,
    memory: Memory,
    path: String,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A testpmd that was killed leaves its socket file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn pause() {
    poll(&mut [], Some(Duration::from_millis(2))).unwrap();
}

/// Connects in `role` to a testpmd in the other one.
fn meet(role: Role, mode: &str) -> Option<Rig> {
    let path = std::env::temp_dir().join(format!("corelane-memif-{}-{mode}-{role:?}", std::process::id()));
    let path = path.to_str().unwrap().to_owned();
    let spec = MemifSpec {
        role,
        path: path.clone(),
        id: 7,
        secret: "sesame".to_owned(),
        shape: WireShape { log2_ring: 6, buffer_bytes: 2048 },
    };
    // The client must find its server listening.
    let (mut connection, mut testpmd) = match role {
        Role::Server => {
            let connection = Connection::open(spec).unwrap();
            (connection, Testpmd::start("client", &path, mode)?)
        }
        Role::Client => {
            let testpmd = Testpmd::start("server", &path, mode)?;
            (Connection::open(spec).unwrap(), testpmd)
        }
    };
    let memory = Memory::new(FRAMES);
    let deadline = sys::clock::now().plus(PATIENCE);
    let wire = loop {
        match connection.advance().unwrap() {
            News::Up(wire) => break wire,
            // A server that listens already may not know its interface yet.
            News::None | News::Down(_)
                if sys::clock::now() < deadline && testpmd.child.try_wait().unwrap().is_none() =>
            {
                pause();
            }
            news => panic!("no wire: {news:?}; testpmd: {}", testpmd.output()),
        }
    };
    let port = wire.into_port(memory.area, setup()).unwrap();
    Some(Rig { testpmd, connection, port, memory, path })
}

impl Rig {
    /// Sends one packet until as many came back as were sent since; gives what came back.
    fn exchange(&mut self, packets: &[TxFrame]) -> Vec<Vec<u8>> {
        let deadline = sys::clock::now().plus(PATIENCE);
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < packets.len() {
            let taken = self.port.tx(&mut self.memory.frames(), &packets[sent..]).unwrap();
            for packet in &packets[sent..sent + taken] {
                self.memory.release_payload(packet);
            }
            sent += taken;
            let mut batch = RxBatch::new();
            self.port.rx(&mut self.memory.frames(), &mut batch).unwrap();
            for packet in batch.items() {
                assert_eq!((packet.csum, packet.gso_size), (CsumState::Unknown, 0), "DPDK promises nothing");
                got.push(self.memory.take(packet));
            }
            assert!(
                sys::clock::now() < deadline,
                "{} of {sent} came back; testpmd: {}",
                got.len(),
                self.testpmd.output()
            );
            if batch.items().is_empty() {
                pause();
            }
        }
        got
    }
}

/// Waits until the newest of some probes has come back: testpmd begins to forward some time after the wire is up, and what was
/// sent before is lost.
fn settle(rig: &mut Rig) {
    let deadline = sys::clock::now().plus(PATIENCE);
    let (mut newest, mut rounds, mut came) = (0_u8, 0, false);
    loop {
        assert!(sys::clock::now() < deadline, "nothing comes back; testpmd: {}", rig.testpmd.output());
        if !came && rounds % 50 == 0 {
            newest += 1;
            let packet = datagram(&mut rig.memory, &[newest]);
            // A client posts its first buffers when it forwards.
            let taken = rig.port.tx(&mut rig.memory.frames(), &[packet]).unwrap();
            rig.memory.release_payload(&packet);
            if taken == 0 {
                rig.memory.frames().release(packet.head);
                newest -= 1;
            }
        }
        rounds += 1;
        pause();
        let mut batch = RxBatch::new();
        rig.port.rx(&mut rig.memory.frames(), &mut batch).unwrap();
        for packet in batch.items() {
            came = true;
            if rig.memory.take(packet).get(42) == Some(&newest) {
                return;
            }
        }
    }
}

fn datagram(memory: &mut Memory, text: &[u8]) -> TxFrame {
    let mut packet = memory.packet(&udp_head(9, 10, text.len()), text);
    (packet.csum_start, packet.csum_offset) = (34, 6);
    packet
}

fn packets_come_back(role: Role) {
    let Some(mut rig) = meet(role, "macswap") else { return };
    assert_eq!(rig.port.caps().super_segment_max, 0, "a foreign peer gets packets only");
    settle(&mut rig);
    // Several times around both rings; the long ones are chains of buffers.
    for round in 0..20_usize {
        let texts: Vec<Vec<u8>> = (0..30)
            .map(|i| pattern(1 + (i * 131 + round * 17) % 1470))
            .chain([pattern(4000 + round)])
            .collect();
        let packets: Vec<TxFrame> = texts.iter().map(|t| datagram(&mut rig.memory, t)).collect();
        let got = rig.exchange(&packets);
        for (bytes, text) in got.iter().zip(&texts) {
            assert_eq!((&bytes[..6], &bytes[6..12]), (&NEAR_MAC[..], &FAR_MAC[..]), "swapped");
            assert_eq!(bytes[14..40], udp_head(9, 10, text.len())[14..40]);
            assert_eq!(&bytes[42..], text);
            let pseudo = [&bytes[26..34], &[0, 17], &bytes[38..40]].concat();
            assert_eq!(ones(&[&pseudo, &bytes[34..]].concat()), 0xffff, "the checksum was completed");
        }
    }
    assert_eq!(rig.memory.free(), FRAMES);
    drop(rig.testpmd.child.stdin.take());
    let deadline = sys::clock::now().plus(PATIENCE);
    let why = loop {
        match rig.connection.advance().unwrap() {
            News::Down(why) => break why,
            News::None => assert!(sys::clock::now() < deadline, "the end of testpmd goes unnoticed"),
            News::Up(_) => panic!("a second wire"),
        }
        pause();
    };
    assert!(!why.is_empty());
    let mut batch = RxBatch::new();
    assert!(rig.port.rx(&mut rig.memory.frames(), &mut batch).is_err(), "the wire has ended");
}

#[test]
fn packets_come_back_from_a_dpdk_server() {
    packets_come_back(Role::Client);
}

#[test]
fn packets_come_back_from_a_dpdk_client() {
    packets_come_back(Role::Server);
}
