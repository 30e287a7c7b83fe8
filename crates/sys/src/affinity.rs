//! Pinning threads to cores.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::Result;

/// Lets the calling thread run on `core` only.
///
/// # Errors
/// EINVAL when the core does not exist or is not allowed to this process.
pub fn pin_to(core: usize) -> Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(rustix::io::Errno::INVAL);
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)
}

/// The cores the calling thread may run on, ascending.
///
/// # Errors
/// What sched_getaffinity gives.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// The core the calling thread runs on at this moment.
#[must_use]
pub fn current() -> usize {
    sched_getcpu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_core() {
        let core = *allowed().unwrap().last().unwrap();
        std::thread::spawn(move || {
            pin_to(core).unwrap();
            assert_eq!(current(), core);
            assert_eq!(allowed().unwrap(), [core]);
        })
        .join()
        .unwrap();
    }
}
