//! Giving up system calls for good: a seccomp filter (seccomp(2), mode filter) with a list of what stays.

use rustix::io::Errno;

use crate::Result;
use crate::seccomp::{
    ARCH, AT_ARCH, AT_NUMBER, Instruction, JUMP_IF_EQUAL, LOAD_WORD, RETURN, install, plain,
};

const ALLOW: u32 = 0x7fff_0000;
const REFUSE_WITH_EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Most calls in a list: a jump in the filter spans at most 255 instructions.
const CALLS_MAX: usize = 200;

/// From now on this thread, and what it starts, can make only these system calls (`libc::SYS_*`); any other gives EPERM,
/// one of another architecture ends the process. Needs PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN.
///
/// # Errors
/// E2BIG for more than 200 calls; EACCES without the precondition; ENOSYS.
pub fn keep_only(calls: &[i64]) -> Result<()> {
    if calls.len() > CALLS_MAX {
        return Err(Errno::TOOBIG);
    }
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
    install(&filter, 0).map(drop)
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
