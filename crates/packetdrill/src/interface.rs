//! The structure of functions that packetdrill's public header `packetdrill.h` describes, and the function that fills it. Packets are IP
//! packets without a link header there, and times microseconds.

use core::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::panic::catch_unwind;

use libc::{epoll_event, iovec, msghdr, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval};

use crate::abi;
use crate::flags::Flags;
use crate::machine::Machine;
use crate::raw;
use crate::world::World;

/// What stands for one stack: a [`World`], or null.
pub(crate) type Userdata = *mut c_void;

/// `struct packetdrill_interface`: the order of its members is packetdrill's.
#[repr(C)]
#[allow(missing_docs)]
pub struct Interface {
    pub userdata: Userdata,
    pub free: unsafe extern "C" fn(Userdata),
    pub socket: unsafe extern "C" fn(Userdata, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(Userdata, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: unsafe extern "C" fn(Userdata, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(Userdata, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(Userdata, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(Userdata, c_int, *mut c_void, size_t) -> ssize_t,
    pub readv: unsafe extern "C" fn(Userdata, c_int, *const iovec, c_int) -> ssize_t,
    pub recv: unsafe extern "C" fn(Userdata, c_int, *mut c_void, size_t, c_int) -> ssize_t,
    pub recvfrom: unsafe extern "C" fn(
        Userdata,
        c_int,
        *mut c_void,
        size_t,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub recvmsg: unsafe extern "C" fn(Userdata, c_int, *mut msghdr, c_int) -> ssize_t,
    pub write: unsafe extern "C" fn(Userdata, c_int, *const c_void, size_t) -> ssize_t,
    pub writev: unsafe extern "C" fn(Userdata, c_int, *const iovec, c_int) -> ssize_t,
    pub send: unsafe extern "C" fn(Userdata, c_int, *const c_void, size_t, c_int) -> ssize_t,
    pub sendto: unsafe extern "C" fn(
        Userdata,
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    pub sendmsg: unsafe extern "C" fn(Userdata, c_int, *const msghdr, c_int) -> ssize_t,
    pub fcntl: unsafe extern "C" fn(Userdata, c_int, c_int, c_long) -> c_int,
    pub ioctl: unsafe extern "C" fn(Userdata, c_int, c_ulong, *mut c_void) -> c_int,
    pub close: unsafe extern "C" fn(Userdata, c_int) -> c_int,
    pub shutdown: unsafe extern "C" fn(Userdata, c_int, c_int) -> c_int,
    pub getsockopt: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub setsockopt: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(Userdata, *mut pollfd, c_ulong, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(Userdata, *const c_void, size_t) -> c_int,
    pub netdev_receive: unsafe extern "C" fn(Userdata, *mut c_void, *mut size_t, *mut c_longlong) -> c_int,
    pub usleep: unsafe extern "C" fn(Userdata, c_uint) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(Userdata, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: unsafe extern "C" fn(Userdata, c_int) -> c_int,
    pub epoll_ctl: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub epoll_wait: unsafe extern "C" fn(Userdata, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub pipe: unsafe extern "C" fn(Userdata, *mut c_int) -> c_int,
    pub splice: unsafe extern "C" fn(
        Userdata,
        c_int,
        *mut c_longlong,
        c_int,
        *mut c_longlong,
        size_t,
        c_uint,
    ) -> ssize_t,
}

const _: () = assert!(size_of::<Interface>() == 33 * size_of::<usize>());

/// What packetdrill looks up: makes a stack as `flags` say (docs/packetdrill.md), and fills `interface`. Without memory `userdata` is
/// null and every call fails with EBADF.
///
/// # Safety
/// `flags` is null or ends with NUL; `interface` is packetdrill's structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, interface: *mut Interface) {
    let text = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: the caller's promise.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    let made = catch_unwind(|| {
        let (flags, unknown) = Flags::parse(&text);
        for word in unknown {
            eprintln!("corelane: --so_flags: `{word}` says nothing; see docs/packetdrill.md");
        }
        Machine::new(flags).map(|machine| Box::into_raw(Box::new(World::new(machine))))
    });
    let userdata: Userdata = match made {
        Ok(Ok(world)) => world.cast(),
        Ok(Err(why)) => {
            eprintln!("corelane: no stack: {why}");
            core::ptr::null_mut()
        }
        Err(_) => core::ptr::null_mut(),
    };
    // SAFETY: the caller's promise.
    unsafe { raw::store_value(interface, functions(userdata)) };
}

const fn functions(userdata: Userdata) -> Interface {
    Interface {
        userdata,
        free: abi::free,
        socket: abi::socket,
        bind: abi::bind,
        listen: abi::listen,
        accept: abi::accept,
        connect: abi::connect,
        read: abi::read,
        readv: abi::readv,
        recv: abi::recv,
        recvfrom: abi::recvfrom,
        recvmsg: abi::recvmsg,
        write: abi::write,
        writev: abi::writev,
        send: abi::send,
        sendto: abi::sendto,
        sendmsg: abi::sendmsg,
        fcntl: abi::fcntl,
        ioctl: abi::ioctl,
        close: abi::close,
        shutdown: abi::shutdown,
        getsockopt: abi::getsockopt,
        setsockopt: abi::setsockopt,
        poll: abi::poll,
        netdev_send: abi::netdev_send,
        netdev_receive: abi::netdev_receive,
        usleep: abi::usleep,
        gettimeofday: abi::gettimeofday,
        epoll_create: abi::epoll_create,
        epoll_ctl: abi::epoll_ctl,
        epoll_wait: abi::epoll_wait,
        pipe: abi::pipe,
        splice: abi::splice,
    }
}
