//! Pinning threads to cores, and putting them in front of others.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::{Result, raw};

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

/// The kernel's `sched_param`.
#[repr(C)]
struct Priority {
    value: i32,
}

/// Lets the calling thread run in front of all threads of usual priority, whenever it is ready (SCHED_RR, the lowest priority
/// there). Threads that it starts from now on do too, and take turns with it: with SCHED_FIFO one that spins, also in the kernel for something that another of
/// them has (Linux frees a dead process's entries in /proc so), would hold its core for good.
///
/// # Errors
/// EPERM without CAP_SYS_NICE.
pub fn run_first() -> Result<()> {
    let priority = Priority { value: 1 };
    let at = core::ptr::from_ref(&priority) as usize;
    let args = [0, libc::SCHED_RR as usize, at, 0, 0, 0];
    // SAFETY: the kernel reads one live `sched_param`; thread 0 is the caller.
    unsafe { raw::syscall(libc::SYS_sched_setscheduler, args) }.map(|_| ())
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
