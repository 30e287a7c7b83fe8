//! The kernel's settings, as /proc/sys shows them.

use engine::Engine;
use region::LaneGuard;
use rustix::fs::{Mode, OFlags};
use state::LaneMem;

use crate::{buffers, fast_open};

/// The new lane behind `guard` does as the kernel of this network namespace is told to.
pub(crate) fn begin(guard: &mut LaneGuard) {
    let area = guard.region().frame_area();
    let Ok(mem) = LaneMem::carve(guard.carver(), &area) else { return };
    let mut engine = Engine::new(mem, sys::clock::now());
    buffers::begin(&mut engine);
    fast_open::begin(&mut engine);
}

/// The text of a short file, without white space around it; `None`: it cannot be read.
pub(crate) fn text_of<'a>(path: &str, room: &'a mut [u8]) -> Option<&'a str> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let n = rustix::io::read(&file, &mut *room).ok()?;
    Some(core::str::from_utf8(room.get(..n)?).ok()?.trim())
}
