//! System calls of another program, told to a supervisor before they are made: seccomp(2) user notification
//! (seccomp_unotify(2); Linux 5.14 for the atomic hand-over of descriptors).
//!
//! Invariant: what a [`Call`] says of its thread is true only while [`Supervisor::is_waiting`] says so; a thread that was killed or took a signal is told of
//! again, or never, and its number may belong to another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::io::Errno;

use crate::fds::Fd;
use crate::seccomp::{self, ARCH, AT_ARCH, AT_NUMBER, Instruction, JUMP_IF_EQUAL, LOAD_WORD, RETURN, plain};
use crate::{Result, raw};

const JUMP_IF_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
const AT_ARGUMENTS: u32 = 16;

/// In the number of a call of the x32 kind.
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The low halves of two arguments decide besides the number.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Tell of every such call.
    Always(i64),
    /// Tell of socket(2) calls for TCP over IPv4 or IPv6.
    TcpSocket,
    /// Tell when argument `.1` has any of the bits `.2`.
    WithBits(i64, u8, u32),
    /// The call gives ENOSYS and nobody is told.
    Absent(i64),
}

/// A filter made of rules, ready to be installed between fork and exec, where nothing may allocate.
pub struct Filter {
    instructions: Vec<Instruction>,
}

impl Filter {
    /// Calls that no rule names are made as ever; so are those of another architecture.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut all = vec![
            plain(LOAD_WORD, AT_ARCH),
            Instruction { code: JUMP_IF_EQUAL, if_true: 1, if_false: 0, value: ARCH },
            plain(RETURN, ALLOW),
            plain(LOAD_WORD, AT_NUMBER),
            Instruction { code: JUMP_IF_ANY_BIT, if_true: 0, if_false: 1, value: X32 },
            plain(RETURN, ALLOW),
        ];
        for rule in rules {
            let (number, body) = rule.parts();
            // Over the rule's own instructions, which end with a return.
            let skip = body.len() as u8;
            all.push(Instruction { code: JUMP_IF_EQUAL, if_true: 0, if_false: skip, value: number as u32 });
            all.extend(body);
        }
        all.push(plain(RETURN, ALLOW));
        Self { instructions: all }
    }

    /// From now on the calling thread, and whatever it starts, is under the filter. Gives the supervisor's descriptor, CLOEXEC. Allocates nothing.
    ///
    /// # Errors
    /// EACCES without PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN; EBUSY when another supervisor is there; ENOSYS, EINVAL on a kernel without it.
    pub fn install(&self) -> Result<RawFd> {
        let fd = seccomp::install(&self.instructions, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize)?;
        RawFd::try_from(fd).map_err(|_| Errno::BADF)
    }
}

impl Rule {
    fn parts(self) -> (i64, Vec<Instruction>) {
        let argument = |n: u8| plain(LOAD_WORD, AT_ARGUMENTS + 8 * u32::from(n));
        let equal = |value: i32, if_true, if_false| Instruction {
            code: JUMP_IF_EQUAL,
            if_true,
            if_false,
            value: value as u32,
        };
        match self {
            Rule::Always(number) => (number, vec![plain(RETURN, NOTIFY)]),
            Rule::Absent(number) => (number, vec![plain(RETURN, NO_SUCH_CALL)]),
            Rule::WithBits(number, n, bits) => (
                number,
                vec![
                    argument(n),
                    Instruction { code: JUMP_IF_ANY_BIT, if_true: 0, if_false: 1, value: bits },
                    plain(RETURN, NOTIFY),
                    plain(RETURN, ALLOW),
                ],
            ),
            Rule::TcpSocket => (
                libc::SYS_socket,
                vec![
                    argument(0),
                    equal(libc::AF_INET, 1, 0),
                    equal(libc::AF_INET6, 0, 7),
                    argument(1),
                    plain(AND, 0xf),
                    equal(libc::SOCK_STREAM, 0, 4),
                    argument(2),
                    equal(0, 1, 0),
                    equal(libc::IPPROTO_TCP, 0, 1),
                    plain(RETURN, NOTIFY),
                    plain(RETURN, ALLOW),
                ],
            ),
        }
    }
}

/// A system call that waits for its supervisor's answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Names it in the answer.
    pub id: u64,
    /// Thread that makes it; 0: of another PID namespace.
    pub tid: u32,
    /// `libc::SYS_*`.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Who is told of the calls.
#[derive(Debug)]
pub struct Supervisor {
    fd: Fd,
}

impl AsFd for Supervisor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Supervisor {
    /// Over the descriptor that [`Filter::install`] gave, brought here from the process that called it.
    #[must_use]
    pub fn new(fd: Fd) -> Self {
        Self { fd }
    }

    fn ioctl<T>(&self, request: libc::Ioctl, what: &mut T) -> Result<usize> {
        let fd = self.fd.as_fd().as_raw_fd() as usize;
        let at = std::ptr::from_mut(what) as usize;
        // SAFETY: each request here is called with the structure it is made for, writable and alive.
        unsafe { raw::syscall(libc::SYS_ioctl, [fd, request as usize, at, 0, 0, 0]) }
    }

    /// The next call. Waits for one: look with poll(2) first.
    ///
    /// # Errors
    /// ENOENT when its thread is gone meanwhile, EINTR.
    pub fn next(&self) -> Result<Call> {
        let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
        let mut told = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut told)?;
        Ok(Call { id: told.id, tid: told.pid, number: i64::from(told.data.nr), args: told.data.args })
    }

    /// Does the thread still wait in this call?
    #[must_use]
    pub fn is_waiting(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
    }

    /// The call gives this.
    ///
    /// # Errors
    /// ENOENT when the thread waits no more.
    pub fn answer(&self, id: u64, result: Result<i64>) -> Result<()> {
        let (val, error) = match result {
            Ok(val) => (val, 0),
            Err(errno) => (0, -errno.raw_os_error()),
        };
        let mut answer = libc::seccomp_notif_resp { id, val, error, flags: 0 };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer).map(drop)
    }

    /// The kernel makes the call as it stands.
    ///
    /// # Errors
    /// As [`Supervisor::answer`].
    pub fn go_on(&self, id: u64) -> Result<()> {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer).map(drop)
    }

    /// The call gives a new descriptor for what `fd` is open on, the lowest that is free there.
    ///
    /// # Errors
    /// ENOENT when the thread waits no more, EMFILE when it has no room.
    pub fn answer_with_fd(&self, id: u64, fd: &impl AsFd, cloexec: bool) -> Result<()> {
        let mut added = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_fd().as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut added).map(drop)
    }
}

/// Reads memory of the process of thread `tid` into `into`; gives how much could be read.
///
/// # Errors
/// EPERM, ESRCH, EFAULT (process_vm_readv(2)).
pub fn read_memory(tid: u32, at: u64, into: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
    let arguments = [tid as usize, &raw const local as usize, 1, &raw const remote as usize, 1, 0];
    // SAFETY: `into` is writable for its length; the other process's memory is only read.
    unsafe { raw::syscall(libc::SYS_process_vm_readv, arguments) }
}

/// Writes `from` into memory of the process of thread `tid`, all of it or an error.
///
/// # Errors
/// EPERM, ESRCH, EFAULT (process_vm_writev(2)).
pub fn write_memory(tid: u32, at: u64, from: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: from.as_ptr() as *mut libc::c_void, iov_len: from.len() };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: from.len() };
    let arguments = [tid as usize, &raw const local as usize, 1, &raw const remote as usize, 1, 0];
    // SAFETY: `from` is only read; the other process gets what its own call asked for.
    let written = unsafe { raw::syscall(libc::SYS_process_vm_writev, arguments) }?;
    if written == from.len() { Ok(()) } else { Err(Errno::FAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says to a call, by a small interpreter of the few instructions there are.
    fn verdict(filter: &Filter, arch: u32, number: i64, args: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            AT_NUMBER => number as u32,
            AT_ARCH => arch,
            _ => args[((at - AT_ARGUMENTS) / 8) as usize] as u32,
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let now = filter.instructions[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { now.if_true } else { now.if_false });
            match now.code {
                LOAD_WORD => value = word(now.value),
                AND => value &= now.value,
                JUMP_IF_EQUAL => at += jump(value == now.value),
                JUMP_IF_ANY_BIT => at += jump(value & now.value != 0),
                RETURN => return now.value,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_filter_tells_of_what_its_rules_name_and_of_nothing_else() {
        let filter = Filter::new(&[
            Rule::TcpSocket,
            Rule::Always(libc::SYS_listen),
            Rule::WithBits(libc::SYS_sendto, 3, libc::MSG_FASTOPEN as u32),
            Rule::Absent(libc::SYS_io_uring_setup),
        ]);
        let socket = |domain: i32, kind: i32, protocol: i32| {
            let args = [domain as u64, kind as u64, protocol as u64, 0, 0, 0];
            verdict(&filter, ARCH, libc::SYS_socket, args)
        };
        let stream = libc::SOCK_STREAM;
        assert_eq!(socket(libc::AF_INET, stream, 0), NOTIFY);
        assert_eq!(
            socket(libc::AF_INET6, stream | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP),
            NOTIFY
        );
        assert_eq!(socket(libc::AF_INET, libc::SOCK_DGRAM, 0), ALLOW);
        assert_eq!(socket(libc::AF_UNIX, stream, 0), ALLOW);
        assert_eq!(socket(libc::AF_INET, stream, libc::IPPROTO_MPTCP), ALLOW);
        assert_eq!(verdict(&filter, ARCH, libc::SYS_listen, [3, 5, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(verdict(&filter, 0x4000_0003, libc::SYS_listen, [3, 5, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(&filter, ARCH, libc::SYS_read, [3, 5, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(&filter, ARCH, libc::SYS_read | i64::from(X32), [0; 6]), ALLOW);
        let flags = |flags: i32| verdict(&filter, ARCH, libc::SYS_sendto, [3, 0, 0, flags as u64, 0, 0]);
        assert_eq!(flags(libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL), NOTIFY);
        assert_eq!(flags(libc::MSG_NOSIGNAL), ALLOW);
        assert_eq!(verdict(&filter, ARCH, libc::SYS_io_uring_setup, [0; 6]), NO_SUCH_CALL);
    }

    #[test]
    fn memory_of_a_process_is_read_and_written() {
        let me = crate::process::tid();
        let here = *b"some bytes";
        let mut got = [0; 10];
        assert_eq!(read_memory(me, here.as_ptr() as u64, &mut got), Ok(10));
        assert_eq!(&got, b"some bytes");
        let mut there = [0_u8; 4];
        write_memory(me, there.as_mut_ptr() as u64, b"more").unwrap();
        assert_eq!(std::hint::black_box(&there), b"more");
        assert_eq!(write_memory(me, 8, b"more"), Err(Errno::FAULT));
    }
}
