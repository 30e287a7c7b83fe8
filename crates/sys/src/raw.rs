//! The system call instruction, for calls that rustix does not offer.

use core::arch::asm;

use rustix::io::Errno;

/// Makes system call `number` (a `libc::SYS_*` constant); unused arguments are 0. Never touches libc's `errno`.
///
/// # Errors
/// The errno the kernel gave.
///
/// # Safety
/// As the system call's own contract demands: every pointer argument is valid for what the kernel does with it.
#[inline]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's x86-64 convention: it keeps every register but rax, rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's arm64 convention: it keeps every register but x0.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) {
        Err(Errno::from_raw_os_error(-result as i32))
    } else {
        Ok(result as usize)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("system calls are written for x86-64 and arm64 only");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gives_its_result_or_its_errno() {
        // SAFETY: getpid takes no argument.
        let pid = unsafe { syscall(libc::SYS_getpid, [0; 6]) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        // SAFETY: closing a descriptor number that cannot be open touches nothing.
        let bad = unsafe { syscall(libc::SYS_close, [usize::MAX, 0, 0, 0, 0, 0]) };
        assert_eq!(bad, Err(Errno::BADF));
    }
}
