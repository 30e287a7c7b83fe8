//! Where the C library is about to use a descriptor by paths that do not come through us: stdio, and `posix_spawn`. A lane's connection goes over to
//! the kernel first.
//!
//! Left out: descriptors that a spawned program gets without being named in its file actions.

use core::ffi::{c_char, c_int, c_void};

use libc::FILE;

use crate::boundary::{Next, guard};
use crate::entrust;
use crate::interpose::plain;
use crate::reason::Reason;

pub(crate) unsafe fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    entrust::descriptor(fd, Reason::Stdio);
    // SAFETY: the C caller's promise.
    unsafe { plain::fdopen(fd, mode) }
}

pub(crate) unsafe fn vdprintf(fd: c_int, format: *const c_char, list: *mut c_void) -> c_int {
    entrust::descriptor(fd, Reason::Stdio);
    // SAFETY: the C caller's promise.
    unsafe { plain::vdprintf(fd, format, list) }
}

pub(crate) unsafe fn __vdprintf_chk(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    list: *mut c_void,
) -> c_int {
    entrust::descriptor(fd, Reason::Stdio);
    // SAFETY: the C caller's promise.
    unsafe { plain::__vdprintf_chk(fd, flag, format, list) }
}

/// What the spawned program gets as `to` must be of use to it, whether it has this library or not.
pub(crate) unsafe fn posix_spawn_file_actions_adddup2(actions: *mut c_void, fd: c_int, to: c_int) -> c_int {
    entrust::descriptor(fd, Reason::Execed);
    // SAFETY: the C caller's promise.
    unsafe { plain::posix_spawn_file_actions_adddup2(actions, fd, to) }
}

// `dprintf` takes a list of any length, which stable Rust cannot define: the registers of its arguments are kept over a call of ours (System V ABI,
// AMD64, 3.2.3), and the next library's function goes on with them.
#[cfg(all(target_arch = "x86_64", not(test)))]
macro_rules! before {
    ($($name:ident => $hook:ident;)*) => {
        $(
            extern "C" fn $hook(fd: c_int) -> *mut c_void {
                static NEXT: Next = match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => Next::new(name),
                    Err(_) => Next::new(c""),
                };
                guard((), || entrust::descriptor(fd, Reason::Stdio));
                NEXT.get()
            }

            #[doc = concat!("`", stringify!($name), "` as the program calls it.")]
            ///
            /// # Safety
            /// As the C function's.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            #[allow(unreachable_pub)] // exported by name
            pub unsafe extern "C" fn $name() {
                core::arch::naked_asm!(
                    "push rdi",
                    "push rsi",
                    "push rdx",
                    "push rcx",
                    "push r8",
                    "push r9",
                    "push rax",
                    "sub rsp, 128",
                    "movups [rsp], xmm0",
                    "movups [rsp + 16], xmm1",
                    "movups [rsp + 32], xmm2",
                    "movups [rsp + 48], xmm3",
                    "movups [rsp + 64], xmm4",
                    "movups [rsp + 80], xmm5",
                    "movups [rsp + 96], xmm6",
                    "movups [rsp + 112], xmm7",
                    "call {hook}",
                    "mov r11, rax",
                    "movups xmm0, [rsp]",
                    "movups xmm1, [rsp + 16]",
                    "movups xmm2, [rsp + 32]",
                    "movups xmm3, [rsp + 48]",
                    "movups xmm4, [rsp + 64]",
                    "movups xmm5, [rsp + 80]",
                    "movups xmm6, [rsp + 96]",
                    "movups xmm7, [rsp + 112]",
                    "add rsp, 128",
                    "pop rax",
                    "pop r9",
                    "pop r8",
                    "pop rcx",
                    "pop rdx",
                    "pop rsi",
                    "pop rdi",
                    "jmp r11",
                    hook = sym $hook,
                )
            }
        )*
    };
}
#[cfg(all(target_arch = "x86_64", not(test)))]
before! {
    dprintf => before_dprintf;
    __dprintf_chk => before_dprintf_chk;
}
