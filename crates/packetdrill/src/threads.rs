//! Which threads of this process are asleep: virtual time stands still while one of packetdrill's threads still has something to do.

use std::fs;

/// Does thread `tid` of this process sleep? One that is gone does.
pub(crate) fn is_asleep(tid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/self/task/{tid}/stat")) else { return true };
    // The name in parentheses may hold anything; the state follows the last one.
    let state = stat.rsplit(')').next().map(str::trim_start).and_then(|rest| rest.chars().next());
    !matches!(state, Some('R' | 'D'))
}

/// Do all threads of this process sleep but the calling one?
pub(crate) fn all_others_asleep() -> bool {
    let me = sys::process::tid();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return true };
    let tids = tasks.filter_map(Result::ok).filter_map(|task| task.file_name().to_str()?.parse().ok());
    tids.filter(|tid| *tid != me).all(is_asleep)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_waits_is_asleep_and_one_that_runs_is_not() {
        let (tell, told) = mpsc::channel();
        let (release, wait) = mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            tell.send(sys::process::tid()).unwrap();
            let _ = wait.recv();
        });
        let tid = told.recv().unwrap();
        while !is_asleep(tid) {
            std::thread::yield_now();
        }
        assert!(!is_asleep(sys::process::tid()));
        release.send(()).unwrap();
        waiting.join().unwrap();
        assert!(is_asleep(tid), "it is gone");
    }
}
