//! Deaths of a process between any two of its instructions.
#![allow(unreachable_pub, reason = "shared by tests of several crates")]

/// Does `turn` in a child process that shares the regions' memory, one instruction after the other, and kills it after `steps` of them.
/// True: it was killed before its turn was over.
pub fn kill_after(steps: u64, turn: &mut dyn FnMut()) -> bool {
    // SAFETY: the child does its turn and ends without running what belongs to the parent. Only this thread runs then.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no child");
    if child == 0 {
        // SAFETY: no pointers; the parent traces from here on.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        // SAFETY: stops this process until the parent has it go on.
        unsafe { libc::raise(libc::SIGSTOP) };
        turn();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let wait = || {
        let mut status = 0;
        // SAFETY: a child of ours, and a place for its status.
        let who = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(who, child);
        status
    };
    let mut status = wait();
    for _ in 0..steps {
        if !libc::WIFSTOPPED(status) {
            return false;
        }
        // SAFETY: a stopped child of ours; neither address nor data.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        assert_eq!(stepped, 0, "cannot step the child");
        status = wait();
    }
    if libc::WIFSTOPPED(status) {
        // SAFETY: a child of ours.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait();
        return true;
    }
    false
}
