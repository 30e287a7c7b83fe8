//! Filters of seccomp(2): classic BPF (linux/filter.h) over struct seccomp_data, which has the call's number at 0, the architecture at 4, arguments of 8
//! bytes from 16 on.

use crate::{Result, raw};

pub(crate) const LOAD_WORD: u16 = 0x20;
pub(crate) const JUMP_IF_EQUAL: u16 = 0x15;
pub(crate) const RETURN: u16 = 0x06;
pub(crate) const AT_NUMBER: u32 = 0;
pub(crate) const AT_ARCH: u32 = 4;

#[cfg(target_arch = "x86_64")]
pub(crate) const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCH: u32 = 0xc000_00b7;

/// One instruction.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    at: *const Instruction,
}

/// An instruction that does not jump.
pub(crate) fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, value }
}

/// From now on the calling thread, and whatever it starts, is under `filter`. Gives what the call gives for `flags`. Allocates nothing.
///
/// # Errors
/// EACCES without PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN; those of the flags; ENOSYS, EINVAL on a kernel without it.
pub(crate) fn install(filter: &[Instruction], flags: usize) -> Result<usize> {
    let program = Program { len: filter.len() as u16, at: filter.as_ptr() };
    let at = core::ptr::from_ref(&program) as usize;
    // SAFETY: `program` describes the live slice of instructions, which the kernel copies.
    unsafe { raw::syscall(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, flags, at, 0, 0, 0]) }
}
