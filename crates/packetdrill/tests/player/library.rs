//! The shared library as packetdrill loads it, and its functions as safe calls.

use std::ffi::{CString, c_int, c_void};
use std::path::Path;

use corelane_packetdrill::Interface;

/// The loaded library and one stack in it.
pub struct Library {
    interface: Interface,
    handle: *mut c_void,
}

// SAFETY: the library takes calls from any thread, as packetdrill makes them.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: given back once.
        unsafe { (self.interface.free)(self.interface.userdata) };
        // SAFETY: opened by `load`; nothing of it is used any more.
        unsafe { libc::dlclose(self.handle) };
    }
}

/// The result of a call and the errno that goes with -1.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub result: i64,
    pub errno: i32,
    /// What came back: bytes read, an option's value, revents, events.
    pub bytes: Vec<u8>,
}

fn answer(result: i64) -> Answer {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Answer { result, errno, bytes: Vec::new() }
}

impl Library {
    pub fn load(path: &Path, flags: &str) -> Result<Self, String> {
        let name = CString::new(path.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: a path; its initialisers are Rust's.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(format!("cannot load {}", path.display()));
        }
        // SAFETY: an open library.
        let init = unsafe { libc::dlsym(handle, c"packetdrill_interface_init".as_ptr()) };
        if init.is_null() {
            return Err("no packetdrill_interface_init".to_owned());
        }
        let init: unsafe extern "C" fn(*const libc::c_char, *mut Interface) =
            // SAFETY: the function of this name has this type.
            unsafe { core::mem::transmute(init) };
        let flags = CString::new(flags).map_err(|e| e.to_string())?;
        let mut interface = core::mem::MaybeUninit::<Interface>::uninit();
        // SAFETY: the structure the function fills.
        unsafe { init(flags.as_ptr(), interface.as_mut_ptr()) };
        // SAFETY: it is filled.
        Ok(Self { interface: unsafe { interface.assume_init() }, handle })
    }

    pub fn now_us(&self) -> i64 {
        let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: room for the time.
        unsafe { (self.interface.gettimeofday)(self.interface.userdata, &raw mut tv, core::ptr::null_mut()) };
        tv.tv_sec * 1_000_000 + tv.tv_usec
    }

    pub fn usleep(&self, us: u32) {
        // SAFETY: no memory involved.
        unsafe { (self.interface.usleep)(self.interface.userdata, us) };
    }

    pub fn inject(&self, packet: &[u8]) -> i32 {
        // SAFETY: the packet is there.
        unsafe { (self.interface.netdev_send)(self.interface.userdata, packet.as_ptr().cast(), packet.len()) }
    }

    /// The next packet that leaves, and when; empty: none.
    pub fn sniff(&self) -> Result<(Vec<u8>, i64), String> {
        let mut packet = vec![0; 70_000];
        let (mut len, mut time) = (packet.len(), 0);
        // SAFETY: room for `len` bytes.
        let result = unsafe {
            (self.interface.netdev_receive)(
                self.interface.userdata,
                packet.as_mut_ptr().cast(),
                &raw mut len,
                &raw mut time,
            )
        };
        if result != 0 {
            return Err("netdev_receive failed".to_owned());
        }
        packet.truncate(len);
        Ok((packet, time))
    }

    pub fn socket(&self, domain: c_int, kind: c_int, protocol: c_int) -> Answer {
        // SAFETY: no memory involved.
        answer(i64::from(unsafe { (self.interface.socket)(self.interface.userdata, domain, kind, protocol) }))
    }

    pub fn bind(&self, fd: c_int, addr: &[u8]) -> Answer {
        let len = addr.len() as u32;
        // SAFETY: the address is there.
        answer(i64::from(unsafe {
            (self.interface.bind)(self.interface.userdata, fd, addr.as_ptr().cast(), len)
        }))
    }

    pub fn connect(&self, fd: c_int, addr: &[u8]) -> Answer {
        let len = addr.len() as u32;
        // SAFETY: the address is there.
        answer(i64::from(unsafe {
            (self.interface.connect)(self.interface.userdata, fd, addr.as_ptr().cast(), len)
        }))
    }

    pub fn accept(&self, fd: c_int) -> Answer {
        let (mut addr, mut len) = ([0_u8; 128], 128);
        // SAFETY: room for the address.
        let mut a = answer(i64::from(unsafe {
            (self.interface.accept)(self.interface.userdata, fd, addr.as_mut_ptr().cast(), &raw mut len)
        }));
        a.bytes = addr[..(len as usize).min(128)].to_vec();
        a
    }

    /// Calls that take descriptors and numbers only.
    pub fn plain(&self, name: &str, a: i64, b: i64, c: i64) -> Answer {
        let ud = self.interface.userdata;
        let (x, y) = (a as c_int, b as c_int);
        // SAFETY: no memory involved.
        answer(
            unsafe {
                match name {
                    "listen" => (self.interface.listen)(ud, x, y),
                    "close" => (self.interface.close)(ud, x),
                    "shutdown" => (self.interface.shutdown)(ud, x, y),
                    "fcntl" => (self.interface.fcntl)(ud, x, y, c),
                    "epoll_create" => (self.interface.epoll_create)(ud, x),
                    other => panic!("no such call: {other}"),
                }
            }
            .into(),
        )
    }

    pub fn recv(&self, fd: c_int, len: usize, flags: c_int) -> Answer {
        let mut bytes = vec![0xaa_u8; len];
        // SAFETY: room for `len` bytes.
        let mut a = answer(unsafe {
            (self.interface.recv)(self.interface.userdata, fd, bytes.as_mut_ptr().cast(), len, flags)
        } as i64);
        bytes.truncate(a.result.max(0) as usize);
        a.bytes = bytes;
        a
    }

    pub fn send(&self, fd: c_int, bytes: &[u8], flags: c_int, to: &[u8]) -> Answer {
        let at: *const u8 = if to.is_empty() { core::ptr::null() } else { to.as_ptr() };
        // SAFETY: bytes and address are there.
        answer(unsafe {
            (self.interface.sendto)(
                self.interface.userdata,
                fd,
                bytes.as_ptr().cast(),
                bytes.len(),
                flags,
                at.cast(),
                to.len() as u32,
            )
        } as i64)
    }

    fn vectors(lens: &[usize], store: &mut Vec<Vec<u8>>) -> Vec<libc::iovec> {
        *store = lens.iter().map(|len| vec![0; *len]).collect();
        store
            .iter_mut()
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
            .collect()
    }

    pub fn readv(&self, fd: c_int, lens: &[usize]) -> Answer {
        let mut store = Vec::new();
        let list = Self::vectors(lens, &mut store);
        // SAFETY: the vectors are there.
        let mut a = answer(unsafe {
            (self.interface.readv)(self.interface.userdata, fd, list.as_ptr(), list.len() as c_int)
        } as i64);
        a.bytes = store.concat();
        a
    }

    pub fn writev(&self, fd: c_int, lens: &[usize]) -> Answer {
        let mut store = Vec::new();
        let list = Self::vectors(lens, &mut store);
        // SAFETY: the vectors are there.
        answer(unsafe {
            (self.interface.writev)(self.interface.userdata, fd, list.as_ptr(), list.len() as c_int)
        } as i64)
    }

    /// `sendmsg` or `recvmsg`; of the latter the flags of the message come back as bytes.
    pub fn message(&self, receive: bool, fd: c_int, lens: &[usize], flags: c_int) -> Answer {
        let mut store = Vec::new();
        let mut list = Self::vectors(lens, &mut store);
        // SAFETY: all zero is a message without anything.
        let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = list.as_mut_ptr();
        message.msg_iovlen = list.len();
        let ud = self.interface.userdata;
        // SAFETY: the vectors are there.
        let mut a = answer(unsafe {
            if receive {
                (self.interface.recvmsg)(ud, fd, &raw mut message, flags)
            } else {
                (self.interface.sendmsg)(ud, fd, &raw const message, flags)
            }
        } as i64);
        a.bytes = message.msg_flags.to_ne_bytes().to_vec();
        a
    }

    pub fn ioctl(&self, fd: c_int, request: u64) -> Answer {
        let mut value: c_int = 0;
        let at = (&raw mut value).cast();
        // SAFETY: room for an int.
        let mut a =
            answer(unsafe { (self.interface.ioctl)(self.interface.userdata, fd, request, at) }.into());
        a.bytes = value.to_ne_bytes().to_vec();
        a
    }

    pub fn getsockopt(&self, fd: c_int, level: c_int, name: c_int, room: usize) -> Answer {
        let mut value = vec![0_u8; room];
        let mut len = room as u32;
        // SAFETY: room for the value.
        let mut a = answer(
            unsafe {
                (self.interface.getsockopt)(
                    self.interface.userdata,
                    fd,
                    level,
                    name,
                    value.as_mut_ptr().cast(),
                    &raw mut len,
                )
            }
            .into(),
        );
        value.truncate(len as usize);
        a.bytes = value;
        a
    }

    pub fn setsockopt(&self, fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Answer {
        let len = value.len() as u32;
        // SAFETY: the value is there.
        answer(
            unsafe {
                (self.interface.setsockopt)(
                    self.interface.userdata,
                    fd,
                    level,
                    name,
                    value.as_ptr().cast(),
                    len,
                )
            }
            .into(),
        )
    }

    /// `poll`; revents come back as bytes.
    pub fn poll(&self, rows: &[(c_int, i16)], timeout: c_int) -> Answer {
        let mut list: Vec<libc::pollfd> =
            rows.iter().map(|(fd, events)| libc::pollfd { fd: *fd, events: *events, revents: 0 }).collect();
        // SAFETY: the rows are there.
        let mut a = answer(
            unsafe {
                (self.interface.poll)(self.interface.userdata, list.as_mut_ptr(), list.len() as u64, timeout)
            }
            .into(),
        );
        a.bytes = list.iter().flat_map(|row| row.revents.to_ne_bytes()).collect();
        a
    }

    pub fn epoll_ctl(&self, set: c_int, op: c_int, fd: c_int, events: u32, data: u64) -> Answer {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: the event is there.
        answer(
            unsafe { (self.interface.epoll_ctl)(self.interface.userdata, set, op, fd, &raw mut event) }
                .into(),
        )
    }

    /// `epoll_wait`; the first event comes back as (events, data) in bytes.
    pub fn epoll_wait(&self, set: c_int, most: c_int, timeout: c_int) -> Answer {
        let mut list = vec![libc::epoll_event { events: 0, u64: 0 }; most.max(1) as usize];
        // SAFETY: room for `most` events.
        let mut a = answer(
            unsafe {
                (self.interface.epoll_wait)(self.interface.userdata, set, list.as_mut_ptr(), most, timeout)
            }
            .into(),
        );
        let (events, data) = (list[0].events, list[0].u64);
        a.bytes = events.to_ne_bytes().into_iter().chain(data.to_ne_bytes()).collect();
        a
    }

    pub fn pipe(&self) -> Answer {
        let mut ends = [0; 2];
        // SAFETY: room for two.
        let mut a =
            answer(unsafe { (self.interface.pipe)(self.interface.userdata, ends.as_mut_ptr()) }.into());
        a.bytes = ends.iter().flat_map(|fd: &c_int| fd.to_ne_bytes()).collect();
        a
    }

    pub fn splice(&self, from: c_int, to: c_int, len: usize, flags: u32) -> Answer {
        let (mut a, mut b) = (0, 0);
        // SAFETY: offsets as packetdrill gives them.
        answer(unsafe {
            (self.interface.splice)(self.interface.userdata, from, &raw mut a, to, &raw mut b, len, flags)
        } as i64)
    }
}
