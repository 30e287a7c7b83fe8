//! A connection that leaves a lane for the kernel.

use base::Instant;
use engine::{Engine, Stopped};
use state::SockRef;

use crate::lane::{Lane, Poisoned};

/// Steps before the connection stops, and after it has gone, when the ports go on giving full batches.
const STEPS: usize = 64;

/// Hands connection `name` of `lane` over. `take` makes the kernel go on with what it is given: where the connection stopped, and its bytes, first
/// those not read, then those queued to be sent; it is called while the lane is held, and from then on its segments go to the kernel. `None` from it:
/// the lane keeps the connection. What came in between is dropped in silence, and its peer sends it again.
///
/// # Errors
/// [`Poisoned`].
pub fn entrust<R>(
    lane: &Lane,
    name: SockRef,
    now: Instant,
    take: impl FnOnce(&Stopped, &[u8]) -> Option<R>,
) -> Result<Option<R>, Poisoned> {
    let mut session = lane.enter(now)?;
    for _ in 0..STEPS {
        if !session.step().more {
            break;
        }
    }
    let stopped = session.engine(|engine| {
        let at = engine.tcp_stopped(name)?;
        Some((at, bytes_of(engine, name, &at)))
    });
    let Some((at, bytes)) = stopped else { return Ok(None) };
    let Some(taken) = take(&at, &bytes) else { return Ok(None) };
    session.engine(|engine| engine.tcp_entrust(name));
    for _ in 0..STEPS {
        if !session.step().more {
            break;
        }
    }
    Ok(Some(taken))
}

fn bytes_of(engine: &mut Engine<'_>, name: SockRef, at: &Stopped) -> Vec<u8> {
    let queued = at.snd_end.since(at.snd_una) as usize;
    let mut bytes = Vec::with_capacity(at.unread_bytes as usize + queued);
    engine.tcp_copy_all(name, |piece| bytes.extend_from_slice(piece));
    bytes
}
