//! Giving up system calls for good: a seccomp filter (seccomp(2), mode filter) with a list of what stays.

use rustix::io::Errno;

use crate::{Result, raw};

// Classic BPF (linux/filter.h), on struct seccomp_data: the number at 0, the architecture at 4.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const REFUSE_WITH_EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const KILL_PROCESS: u32 = 0x8000_0000;

const SET_MODE_FILTER: usize = 1;
/// Most calls in a list: a jump in the filter spans at most 255 instructions.
const CALLS_MAX: usize = 200;

#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    at: *const Instruction,
}

/// From now on this thread, and what it starts, can make only these system calls (`libc::SYS_*`); any other gives EPERM,
/// one of another architecture ends the process. Needs PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN.
///
/// # Errors
/// E2BIG for more than 200 calls; EACCES without the precondition; ENOSYS.
pub fn keep_only(calls: &[i64]) -> Result<()> {
    if calls.len() > CALLS_MAX {
        return Err(Errno::TOOBIG);
    }
    let plain = |code, value| Instruction { code, if_true: 0, if_false: 0, value };
    let mut filter = vec![
        plain(LOAD_WORD, AT_ARCH),
        Instruction { code: JUMP_IF_EQUAL, if_true: 1, if_false: 0, value: ARCH },
        plain(RETURN, KILL_PROCESS),
        plain(LOAD_WORD, AT_NUMBER),
    ];
    for (at, call) in calls.iter().enumerate() {
        // Over the remaining comparisons and the refusal.
        let to_allow = (calls.len() - at) as u8;
        let value = u32::try_from(*call).map_err(|_| Errno::INVAL)?;
        filter.push(Instruction { code: JUMP_IF_EQUAL, if_true: to_allow, if_false: 0, value });
    }
    filter.push(plain(RETURN, REFUSE_WITH_EPERM));
    filter.push(plain(RETURN, ALLOW));
    let program = Program { len: filter.len() as u16, at: filter.as_ptr() };
    let at = core::ptr::from_ref(&program) as usize;
    // SAFETY: `program` describes the live vector of instructions, which the kernel copies.
    unsafe { raw::syscall(libc::SYS_seccomp, [SET_MODE_FILTER, 0, at, 0, 0, 0]) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_not_kept_is_refused_and_the_others_work() {
        let outcome = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let end = [libc::SYS_exit, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_rt_sigprocmask];
            let work = [libc::SYS_futex, libc::SYS_gettid, libc::SYS_mmap, libc::SYS_sigaltstack];
            keep_only(&[end, work].concat()).unwrap();
            let refused = crate::fds::event().err();
            (refused, crate::process::tid() > 0)
        });
        assert_eq!(outcome.join().unwrap(), (Some(Errno::PERM), true));
        assert_eq!(keep_only(&[0; CALLS_MAX + 1]), Err(Errno::TOOBIG));
    }
}
