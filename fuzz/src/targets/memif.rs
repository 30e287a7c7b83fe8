//! The control socket of a wire to another program: whatever it says, we answer, refuse or hang up.

use std::sync::atomic::{AtomicU32, Ordering};

use port::memif::{Connection, MemifSpec, Role, WireShape};
use sys::fds;

use super::Target;
use crate::input::Input;

pub(super) const TARGET: Target = Target {
    name: "memif",
    what: "messages on the control socket of a memif wire, as its client",
    longest: 2048,
    play,
    seeds,
};

/// Bytes of one message (memif.h).
const MESSAGE_BYTES: usize = 128;
static NUMBER: AtomicU32 = AtomicU32::new(0);

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = format!("@corelane-fuzz-{}-{number}", std::process::id());
    let shape = WireShape { log2_ring: 4, ..WireShape::default() };
    let spec = MemifSpec { role: Role::Server, path: path.clone(), id: 0, secret: String::new(), shape };
    let mut server = Connection::open(spec).map_err(|e| format!("no listener: {e}"))?;
    let client = fds::connect_path(&path).map_err(|e| format!("no connection: {e}"))?;
    let _ = server.advance();
    while !input.is_empty() {
        let head = input.byte();
        let mut message = input.take(usize::from(head & 0x7f)).to_vec();
        if head & 0x80 == 0 {
            message.resize(MESSAGE_BYTES, 0);
        }
        if fds::send(&client, &message, &[]).is_err() {
            break;
        }
        let _ = server.advance();
        let mut answer = [0; MESSAGE_BYTES];
        let _ = fds::recv_now(&client, &mut answer).is_ok();
    }
    drop(client);
    let _ = server.advance();
    Ok(())
}

fn seeds() -> Vec<Vec<u8>> {
    let message = |body: &[u8]| [&[body.len() as u8], body].concat();
    let init = message(&[3, 0, 0, 2, 0, 0, 0, 0, 0]);
    let region = message(&[4, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
    let ring = message(&[5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]);
    let connect = message(b"\x06\0x\0");
    let bye = message(&[8, 0, 0, 0, 0, 0, b'x']);
    vec![[init.clone(), region, ring, connect].concat(), [init, bye].concat(), vec![0x85, 1, 2, 3, 4, 5]]
}
