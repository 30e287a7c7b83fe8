//! The keeper's socket protocol: requests, replies and letters between keepers. Whatever decodes encodes to the same bytes, so there is one form
//! of each message, and a hostile program cannot make the two sides read different things.

use base::limits::KEEPER_MESSAGE_BYTES;
use control::meet::Letter;
use control::proto::{ProtoError, Reply, Request};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "messages",
    what: "messages between program and keeper, and between keepers",
    longest: KEEPER_MESSAGE_BYTES + 8,
    play,
    seeds,
};

type Buffer = [u8; KEEPER_MESSAGE_BYTES];

fn same(what: &str, bytes: &[u8], out: &Buffer, len: Result<usize, ProtoError>) -> Result<(), String> {
    match len {
        Ok(len) if out.get(..len) == Some(bytes) => Ok(()),
        Ok(_) => Err(format!("a {what} has two forms: {bytes:02x?}")),
        Err(e) => Err(format!("a {what} that was read cannot be written: {e:?} {bytes:02x?}")),
    }
}

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut out = [0; KEEPER_MESSAGE_BYTES];
    if let Ok(request) = Request::decode(bytes) {
        let len = request.encode(&mut out);
        same("request", bytes, &out, len)?;
    }
    if let Ok(reply) = Reply::decode(bytes) {
        let len = reply.encode(&mut out);
        same("reply", bytes, &out, len)?;
    }
    if let Ok(letter) = Letter::decode(bytes) {
        let len = letter.encode(&mut out);
        same("letter", bytes, &out, len)?;
    }
    Ok(())
}

fn seeds() -> Vec<Vec<u8>> {
    // A kind byte and enough zeros; the mutations find the lengths.
    (0..40)
        .flat_map(|kind| {
            [1, 8, 20, 40, 120].map(|len| {
                let mut bytes = vec![0; len];
                if let Some(first) = bytes.first_mut() {
                    *first = kind;
                }
                bytes
            })
        })
        .collect()
}
