//! `syscall`: libuv closes by it, and others make calls by it that their C library has no function for. Those that concern descriptors are
//! what the functions of their names are here.

use core::ffi::{c_int, c_long, c_ulong, c_void};

use super::{data, epoll, fds, options, socket};
use crate::interpose::plain;
use crate::{entrust, table};

/// The arguments behind the number, as a pointer, a size or a small number.
struct Args([c_long; 6]);

impl Args {
    fn word(&self, n: usize) -> c_long {
        self.0.get(n).copied().unwrap_or(0)
    }

    fn int(&self, n: usize) -> c_int {
        self.word(n) as c_int
    }

    fn size(&self, n: usize) -> usize {
        self.word(n) as usize
    }

    fn at<T>(&self, n: usize) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.size(n))
    }
}

#[allow(clippy::too_many_arguments)] // as in C
pub(crate) unsafe fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let args = Args([a, b, c, d, e, f]);
    if !table::is_foreign(args.int(0)) {
        // SAFETY: the C caller's promise for the call of that number.
        if let Some(done) = unsafe { on_ours(number, &args) } {
            return done;
        }
    }
    if number == libc::SYS_sendmsg {
        // SAFETY: as above.
        unsafe { entrust::sending(args.at(1)) };
    }
    // SAFETY: as above.
    unsafe { plain::syscall(number, a, b, c, d, e, f) }
}

/// The calls whose first argument is a descriptor of ours. `None`: the kernel's.
///
/// # Safety
/// As the system call's.
unsafe fn on_ours(number: c_long, args: &Args) -> Option<c_long> {
    let fd = args.int(0);
    let small = |result: c_int| Some(c_long::from(result));
    let (n, flags) = (args.size(2), args.int(3));
    match number {
        // SAFETY: the caller's promise.
        libc::SYS_close => small(unsafe { fds::close(fd) }),
        // SAFETY: the caller's promise.
        libc::SYS_dup => small(unsafe { fds::dup(fd) }),
        // SAFETY: the caller's promise.
        libc::SYS_dup3 => small(unsafe { fds::dup3(fd, args.int(1), args.int(2)) }),
        // SAFETY: the caller's promise.
        libc::SYS_fcntl => small(unsafe { fds::fcntl(fd, args.int(1), args.word(2) as c_ulong) }),
        // SAFETY: the caller's promise.
        libc::SYS_ioctl => small(unsafe { fds::ioctl(fd, args.word(1) as c_ulong, args.at::<c_void>(2)) }),
        // SAFETY: the caller's promise.
        libc::SYS_read => Some(unsafe { data::read(fd, args.at(1), n) } as c_long),
        // SAFETY: the caller's promise.
        libc::SYS_write => Some(unsafe { data::write(fd, args.at(1), n) } as c_long),
        // SAFETY: the caller's promise.
        libc::SYS_readv => Some(unsafe { data::readv(fd, args.at(1), args.int(2)) } as c_long),
        // SAFETY: the caller's promise.
        libc::SYS_writev => Some(unsafe { data::writev(fd, args.at(1), args.int(2)) } as c_long),
        libc::SYS_recvfrom => {
            // SAFETY: the caller's promise.
            Some(unsafe { data::recvfrom(fd, args.at(1), n, flags, args.at(4), args.at(5)) } as c_long)
        }
        libc::SYS_sendto => {
            // SAFETY: the caller's promise.
            Some(unsafe { data::sendto(fd, args.at(1), n, flags, args.at(4), args.int(5) as u32) } as c_long)
        }
        // SAFETY: the caller's promise.
        libc::SYS_recvmsg => Some(unsafe { data::recvmsg(fd, args.at(1), args.int(2)) } as c_long),
        // SAFETY: the caller's promise.
        libc::SYS_sendmsg => Some(unsafe { data::sendmsg(fd, args.at(1), args.int(2)) } as c_long),
        // SAFETY: the caller's promise.
        libc::SYS_shutdown => small(unsafe { socket::shutdown(fd, args.int(1)) }),
        // SAFETY: the caller's promise.
        libc::SYS_bind => small(unsafe { socket::bind(fd, args.at(1), args.int(2) as u32) }),
        // SAFETY: the caller's promise.
        libc::SYS_listen => small(unsafe { socket::listen(fd, args.int(1)) }),
        // SAFETY: the caller's promise.
        libc::SYS_connect => small(unsafe { socket::connect(fd, args.at(1), args.int(2) as u32) }),
        // SAFETY: the caller's promise.
        libc::SYS_accept => small(unsafe { socket::accept(fd, args.at(1), args.at(2)) }),
        // SAFETY: the caller's promise.
        libc::SYS_accept4 => small(unsafe { socket::accept4(fd, args.at(1), args.at(2), flags) }),
        // SAFETY: the caller's promise.
        libc::SYS_getsockname => small(unsafe { socket::getsockname(fd, args.at(1), args.at(2)) }),
        // SAFETY: the caller's promise.
        libc::SYS_getpeername => small(unsafe { socket::getpeername(fd, args.at(1), args.at(2)) }),
        // SAFETY: the caller's promise.
        libc::SYS_getsockopt => {
            // SAFETY: the caller's promise.
            small(unsafe { options::getsockopt(fd, args.int(1), args.int(2), args.at(3), args.at(4)) })
        }
        // SAFETY: the caller's promise.
        libc::SYS_setsockopt => small(unsafe {
            options::setsockopt(fd, args.int(1), args.int(2), args.at(3), args.int(4) as u32)
        }),
        // SAFETY: the caller's promise.
        libc::SYS_epoll_ctl => small(unsafe { epoll::epoll_ctl(fd, args.int(1), args.int(2), args.at(3)) }),
        // SAFETY: the caller's promise.
        libc::SYS_epoll_pwait => {
            // SAFETY: the caller's promise.
            small(unsafe { epoll::epoll_pwait(fd, args.at(1), args.int(2), flags, args.at(4)) })
        }
        _ => None,
    }
}
