//! Where the two ends run, and what joins them.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use lane::native::{Config, Link, Memory, Native, Shape, Wait};
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
    /// Packets are copied through shared memory.
    Memif,
}

/// One end of a wire before there is a lane.
pub(super) enum End {
    Memif(MemifParts),
}

/// Connections a lane has room for; half of them may be in TIME-WAIT.
const SOCKETS: u32 = 65_536;
const FRAMES: u32 = 32_768;
/// The hidden word on the command line of a server in a process of its own.
const HELLO: &[u8] = b"memif";

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
        Wire::Memif => {
            let (near, far) = pair(WireShape::default()).map_err(failed("memif"))?;
            Ok((End::Memif(near), End::Memif(far)))
        }
    }
}

/// A lane at `end`.
pub(super) fn lane(end: End) -> Result<Native, Trouble> {
    let End::Memif(parts) = end;
    let shape = Shape { lanes: 1, sockets: SOCKETS, frames: FRAMES };
    let memory = Memory::shared(shape, true).map_err(failed("memory"))?;
    let (own, peer) = if parts.role == Role::Client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    let link = Link::memif(parts, &memory, own, peer).map_err(failed("memif"))?;
    let config =
        Config { wait: Wait::Spin, local_ports: 1024..=65_535, ..Config::new(memory, SOCKETS, vec![link]) };
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
    let End::Memif(parts) = end;
    let (ours, theirs) = sys::fds::pair().map_err(failed("socketpair"))?;
    let program = std::env::current_exe().map_err(failed("own name"))?;
    let child = Command::new(program)
        .arg("native-server")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(failed("a second process"))?;
    sys::fds::send(&ours, HELLO, &parts.fds()).map_err(failed("handing the wire over"))?;
    Ok(child)
}

/// What the second process does: takes its end of the wire from standard input, and serves until it is ended.
pub(crate) fn serve_other_process() -> Result<(), String> {
    let mut hello = [0; 16];
    let received = sys::fds::recv(&std::io::stdin().as_fd(), &mut hello).map_err(|e| e.to_string())?;
    if hello.get(..received.bytes) != Some(HELLO) {
        return Err("no wire on standard input: this is for corelane-bench itself".to_owned());
    }
    let parts = MemifParts::from_fds(Role::Server, WireShape::default(), &mut received.fds.into_iter())
        .ok_or("an end of a wire lacks descriptors")?;
    pin(1).and_then(|()| serve(End::Memif(parts))).map_err(|trouble| format!("{trouble:?}"))
}
