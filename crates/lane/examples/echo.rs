//! Echo server and client, each a native lane on a thread of its own, joined by a memif wire: prints how long an exchange
//! takes.
//!
//! `cargo run --release -p corelane-lane --example echo -- [EXCHANGES] [CONNECTIONS]`

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};

use lane::native::{Config, Event, Link, Memory, Native, Ready, RecvError, Shape, SockRef, Wait};
use port::memif::{MemifParts, WireShape, pair};

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const MESSAGE: [u8; 64] = [7; 64];

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let exchanges = numbers.next().transpose()?.unwrap_or(1_000_000);
    let connections = numbers.next().transpose()?.unwrap_or(1);
    let (near, far) = pair(WireShape::default())?;
    let server = std::thread::spawn(move || {
        if let Err(error) = open(far, SERVER, CLIENT).and_then(|lane| serve(lane, connections)) {
            eprintln!("server: {error}");
        }
    });
    let mut lane = open(near, CLIENT, SERVER)?;
    let begin = std::time::Instant::now();
    ask(&mut lane, exchanges, connections)?;
    let each = begin.elapsed().as_nanos() as u64 / exchanges.max(1);
    println!("{exchanges} exchanges on {connections} connections: {each} ns each");
    drop(lane);
    server.join().map_err(|_| "the server panicked")?;
    Ok(())
}

/// A lane with memory of its own at one end of a wire.
fn open(parts: MemifParts, addr: Ipv4Addr, peer: Ipv4Addr) -> Result<Native, Box<dyn Error>> {
    let memory = Memory::anonymous(Shape { lanes: 1, sockets: 4096, frames: 8192 })?;
    let link = Link::memif(parts, &memory, addr, peer)?;
    Ok(Native::new(Config { wait: Wait::Spin, ..Config::new(memory, 4096, vec![link]) })?)
}

/// Answers everything with itself until as many as `connections` have come and gone.
fn serve(mut lane: Native, connections: u64) -> Result<(), Box<dyn Error>> {
    let listener = lane.listen(SocketAddrV4::new(SERVER, 7), 4096, 0).map_err(|e| format!("{e:?}"))?;
    let mut events = [Event::NONE; 64];
    let mut gone = 0;
    while gone < connections {
        let count = lane.wait(&mut events, None);
        for event in events.iter().take(count) {
            if event.sock == listener {
                lane.accept(listener, |_| 1);
            } else if answer(&mut lane, event.sock)? {
                gone += 1;
            }
        }
    }
    Ok(())
}

/// Answers what `sock` has; true: the peer has finished, and the socket is closed.
fn answer(lane: &mut Native, sock: SockRef) -> Result<bool, Box<dyn Error>> {
    let mut bytes = [0; 4096];
    match lane.recv(sock, &mut bytes) {
        Ok(0) => {
            lane.close(sock);
            Ok(true)
        }
        Ok(n) => {
            lane.send(sock, bytes.get(..n).unwrap_or(&[])).map_err(|e| format!("{e:?}"))?;
            Ok(false)
        }
        Err(RecvError::WouldBlock) => Ok(false),
        Err(error) => Err(format!("{error:?}").into()),
    }
}

fn ask(lane: &mut Native, exchanges: u64, connections: u64) -> Result<(), Box<dyn Error>> {
    for token in 0..connections {
        lane.connect(SocketAddrV4::new(SERVER, 7), token)?;
    }
    let mut events = [Event::NONE; 64];
    let (mut asked, mut done) = (0, 0);
    while done < exchanges {
        let count = lane.wait(&mut events, None);
        for event in events.iter().take(count) {
            let answered = event.ready.any(Ready::IN) && {
                let mut bytes = [0; 64];
                let n = lane.recv(event.sock, &mut bytes).map_err(|e| format!("{e:?}"))?;
                n == bytes.len()
            };
            done += u64::from(answered);
            // The first event of a connection is that it stands.
            if asked < exchanges && (answered || event.ready == Ready::OUT) {
                lane.send(event.sock, &MESSAGE).map_err(|e| format!("{e:?}"))?;
                asked += 1;
            }
        }
    }
    Ok(())
}
