//! Signals about sockets (fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC), sent by whoever let in what they tell of, once it holds the lane no more.

use engine::{Engine, Raised};
use state::Ready;
use sys::Errno;
use sys::owner::{Owner, SIGIO, SIGURG, Words, band};

/// Takes what is to be signalled.
#[cold]
pub(crate) fn take(engine: &mut Engine<'_>, into: &mut Vec<Raised>) {
    let me = sys::process::pid();
    into.extend(core::iter::from_fn(|| engine.poll_signal(me)));
}

/// Sends it. The caller holds no lane: signals may end the process.
#[cold]
pub(crate) fn send(all: &[Raised]) {
    for raised in all {
        let owner = Owner::of_word(raised.to.owner);
        if raised.ready.any(Ready::ALARM) {
            // socket(7): SIGURG does not depend on F_SETSIG. Who is gone, or another's, is sent nothing.
            let _ = owner.send(raised.to.identity, Words { signal: SIGURG, fd: 0, band: 0 });
        }
        let Some(fd) = raised.to.async_fd.checked_sub(1) else { continue };
        for told in bands(raised.ready, raised.to.signal != 0).into_iter().flatten() {
            let plain = Words { signal: SIGIO, fd: 0, band: 0 };
            if raised.to.signal == 0 {
                let _ = owner.send(raised.to.identity, plain);
                continue;
            }
            let words = Words { signal: raised.to.signal as i32, fd: fd as i32, band: told };
            if owner.send(raised.to.identity, words) == Err(Errno::AGAIN) {
                // fcntl(2): SIGIO when no more signals can be queued.
                let _ = owner.send(raised.to.identity, plain);
            }
        }
    }
}

/// The bands of the signals that tell of `ready`, in the order in which Linux tells. An error is all that is told of its connection.
fn bands(ready: Ready, queued: bool) -> [Option<i64>; 4] {
    // Of urgent data SIGURG tells, unless F_SETSIG asks for more.
    let urgent = (queued && ready.any(Ready::ALARM)).then_some(band::PRI);
    if ready.any(Ready::ERR) {
        return [urgent, Some(band::ERR), None, None];
    }
    let told = |of, band| ready.any(of).then_some(band);
    [urgent, told(Ready::HUP, band::HUP), told(Ready::IN, band::IN), told(Ready::OUT, band::OUT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_happening_has_its_band() {
        assert_eq!(bands(Ready::IN | Ready::PRI | Ready::ALARM, true), [Some(0x82), None, Some(0x41), None]);
        assert_eq!(bands(Ready::IN | Ready::PRI | Ready::ALARM, false), [None, None, Some(0x41), None]);
        assert_eq!(bands(Ready::OUT, true), [None, None, None, Some(0x304)]);
        assert_eq!(
            bands(Ready::IN | Ready::OUT | Ready::ERR | Ready::HUP, true),
            [None, Some(8), None, None]
        );
        assert_eq!(bands(Ready::IN | Ready::RDHUP | Ready::HUP, true), [None, Some(0x18), Some(0x41), None]);
    }
}
