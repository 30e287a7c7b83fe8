//! Where the two ends run, and what joins them.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use base::{FrameIdx, LaneId};
use lane::native::{Config, Link, Memory, Native, Shape, Wait};
use port::lend::{self, LendParts};
use port::memif::{MemifParts, Role, WireShape, pair};

use super::parts::{CLIENT, SERVER, Server};
use super::run;
use crate::rows::Trouble;

/// Where the server runs; the client is in the calling thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In another thread, on another core.
    Threads,
    /// In another process, on another core.
    Processes,
    /// In the same thread, in turns.
    OneThread,
}

/// What joins the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wire {
    /// Packets of at most so many bytes are copied through shared memory.
    Memif(u16),
    /// Both lanes lie in one region, and lend each other their frames.
    Lend,
}

impl Wire {
    /// As ids of rows have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memif(_) => "memif",
            Self::Lend => "lend",
        }
    }
}

/// One end of a wire before there is a lane.
pub(super) enum End {
    Memif(MemifParts, u16),
    Lend(LendParts, Memory),
}

/// Connections a lane has room for; half of them may be in TIME-WAIT.
const SOCKETS: u32 = 65_536;
const FRAMES: u32 = 32_768;
/// What the server in a process of its own is told of its end.
const MEMIF: &[u8] = b"memif";
const LEND: &[u8] = b"lend ";

/// The server in its own process ends with this.
pub(super) struct ServerHandle(Option<Child>);

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It ends by itself at the latest when its socket to us closes and it starts; a failure leaves nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Trouble {
    move |error| Trouble::failed(what, error)
}

/// Both ends of a new wire, the client's first.
pub(super) fn two_ends(wire: Wire) -> Result<(End, End), Trouble> {
    match wire {
        Wire::Memif(mtu) => {
            let (near, far) = pair(WireShape::default()).map_err(failed("memif"))?;
            Ok((End::Memif(near, mtu), End::Memif(far, mtu)))
        }
        Wire::Lend => {
            let memory = memory(2)?;
            let lanes = (LaneId(0), LaneId(1));
            let (near, far) = lend::pair(memory.region(), lanes).map_err(failed("lending wire"))?;
            Ok((End::Lend(near, memory.clone()), End::Lend(far, memory)))
        }
    }
}

fn memory(lanes: u16) -> Result<Memory, Trouble> {
    let shape = Shape { lanes, sockets: SOCKETS, frames: FRAMES };
    Memory::shared(shape, true).map_err(failed("memory"))
}

/// A lane at `end`.
pub(super) fn lane(end: End) -> Result<Native, Trouble> {
    let ends = |client| if client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    let (number, memory, link) = match end {
        End::Memif(parts, mtu) => {
            // Each end has memory of its own, whose only lane it is.
            let ((own, peer), memory) = (ends(parts.role == Role::Client), memory(1)?);
            let link = Link::memif_of_mtu(parts, &memory, (own, peer), mtu).map_err(failed("memif"))?;
            (0, memory, link)
        }
        End::Lend(parts, memory) => {
            let number = 1 - parts.peer.0;
            let (own, peer) = ends(number == 0);
            let link = Link::lend(parts, &memory, own, peer).map_err(failed("lending wire"))?;
            (number, memory, link)
        }
    };
    let config = Config {
        lane: LaneId(number),
        wait: Wait::Spin,
        local_ports: 1024..=65_535,
        ..Config::new(memory, SOCKETS, vec![link])
    };
    Native::new(config).map_err(failed("lane"))
}

/// Pins the caller to the first or second core it may run on.
fn pin(which: usize) -> Result<(), Trouble> {
    let cores = sys::affinity::allowed().map_err(failed("affinity"))?;
    let core = cores.get(which).ok_or_else(|| Trouble::Skipped("needs two cores".to_owned()))?;
    sys::affinity::pin_to(*core).map_err(failed("affinity"))
}

/// Starts the server, and gives the client's lane, with the caller pinned.
pub(super) fn start(place: Place, wire: Wire) -> Result<(Native, ServerHandle), Trouble> {
    let (near, far) = two_ends(wire)?;
    let child = match place {
        Place::Processes => Some(spawn(&far)?),
        Place::Threads | Place::OneThread => {
            std::thread::spawn(move || {
                if let Err(trouble) = pin(1).and_then(|()| serve(far)) {
                    eprintln!("server: {trouble:?}");
                }
            });
            None
        }
    };
    let handle = ServerHandle(child);
    pin(0)?;
    Ok((lane(near)?, handle))
}

fn serve(end: End) -> Result<(), Trouble> {
    run(&mut lane(end)?, &mut Server::new())
}

/// This program again, as the server at `end`.
fn spawn(end: &End) -> Result<Child, Trouble> {
    let (ours, theirs) = sys::fds::pair().map_err(failed("socketpair"))?;
    let program = std::env::current_exe().map_err(failed("own name"))?;
    let child = Command::new(program)
        .arg("native-server")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(failed("a second process"))?;
    match end {
        End::Memif(parts, mtu) => sys::fds::send(&ours, &[MEMIF, &mtu.to_le_bytes()].concat(), &parts.fds()),
        End::Lend(parts, memory) => {
            let shelves = parts.shelves.map(|cell| cell.0.to_le_bytes());
            let hello = [LEND, shelves.as_flattened()].concat();
            sys::fds::send(&ours, &hello, memory.fd().as_slice())
        }
    }
    .map_err(failed("handing the wire over"))?;
    Ok(child)
}

/// What the second process does: takes its end of the wire from standard input, and serves until it is ended.
pub(crate) fn serve_other_process() -> Result<(), String> {
    let mut hello = [0; 64];
    let received = sys::fds::recv(&std::io::stdin().as_fd(), &mut hello).map_err(|e| e.to_string())?;
    let said = hello.get(..received.bytes).unwrap_or(&[]);
    let mut fds = received.fds.into_iter();
    let end = match said.split_at_checked(LEND.len()) {
        Some((MEMIF, &[low, high])) => {
            let parts = MemifParts::from_fds(Role::Server, WireShape::default(), &mut fds);
            parts
                .map(|parts| End::Memif(parts, u16::from_le_bytes([low, high])))
                .ok_or("an end of a wire lacks descriptors")?
        }
        Some((LEND, numbers)) => {
            let memory = Memory::open(fds.next().ok_or("no memory came")?).map_err(|e| e.to_string())?;
            let mut shelves = [FrameIdx::NONE; 4];
            for (cell, number) in shelves.iter_mut().zip(numbers.as_chunks().0) {
                *cell = FrameIdx(u32::from_le_bytes(*number));
            }
            End::Lend(LendParts { shelves, peer: LaneId(0) }, memory)
        }
        _ => return Err("no wire on standard input: this is for corelane-bench itself".to_owned()),
    };
    pin(1).and_then(|()| serve(end)).map_err(|trouble| format!("{trouble:?}"))
}
