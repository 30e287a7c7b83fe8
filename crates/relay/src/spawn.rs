//! Starting the program under the filter.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sys::fds::Fd;
use sys::notify::{Filter, Rule, Supervisor};
use sys::raw;

use crate::Failure;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub file: PathBuf,
    /// Its arguments, from its own name on.
    pub args: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// Calls the relay answers, or at least looks at.
pub(crate) const RULES: [Rule; 14] = [
    Rule::TcpSocket,
    Rule::Always(libc::SYS_bind),
    Rule::Always(libc::SYS_listen),
    Rule::Always(libc::SYS_connect),
    Rule::Always(libc::SYS_accept),
    Rule::Always(libc::SYS_accept4),
    Rule::Always(libc::SYS_getsockname),
    Rule::Always(libc::SYS_getpeername),
    Rule::Always(libc::SYS_setsockopt),
    Rule::Always(libc::SYS_getsockopt),
    Rule::Always(libc::SYS_shutdown),
    Rule::WithBits(libc::SYS_sendto, 3, (libc::MSG_FASTOPEN | libc::MSG_OOB) as u32),
    Rule::WithBits(libc::SYS_sendmsg, 2, (libc::MSG_FASTOPEN | libc::MSG_OOB) as u32),
    Rule::Absent(libc::SYS_io_uring_setup),
];

/// Pointers as execve(2) wants them, over strings that stay alive.
struct Vector {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Vector {
    fn new(strings: impl Iterator<Item = Vec<u8>>) -> Result<Self, Errno> {
        let strings: Vec<CString> =
            strings.map(|s| CString::new(s).map_err(|_| Errno::INVAL)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(Self { _strings: strings, pointers })
    }
}

/// Everything the child needs, made before the fork.
struct Plan {
    file: CString,
    args: Vector,
    environment: Vector,
    filter: Filter,
    /// The child writes its descriptor's number, or the errno of what failed, here.
    told: Fd,
    /// It reads from here when the descriptor has been fetched.
    go: Fd,
}

/// What is not to be had where programs cannot be carried.
pub(crate) const NOTIFICATION: &str = "seccomp user notification";
pub(crate) const FETCHING: &str = "fetching the descriptor of its system calls";

/// What the child says: a descriptor, or what failed.
const SUPERVISED: u8 = 1;
const REFUSED: u8 = 2;
const NOT_EXECUTED: u8 = 3;

/// Starts `program`; gives its number and what tells of its calls.
pub(crate) fn start(program: &Program) -> Result<(Pid, Supervisor), Failure> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map(|(r, w)| (Fd::from(r), Fd::from(w)));
    let (hear, told) = pipe().map_err(Failure::in_("a pipe"))?;
    let (go, say_go) = pipe().map_err(Failure::in_("a pipe"))?;
    let words = Failure::in_("its arguments");
    let pair = |(name, value): &(OsString, OsString)| {
        [name.clone().into_vec(), value.clone().into_vec()].join(&b'=')
    };
    let plan = Plan {
        file: CString::new(program.file.clone().into_os_string().into_vec())
            .map_err(|_| words(Errno::INVAL))?,
        args: Vector::new(program.args.iter().map(|a| a.clone().into_vec())).map_err(&words)?,
        environment: Vector::new(program.environment.iter().map(pair)).map_err(&words)?,
        filter: Filter::new(&RULES),
        told,
        go,
    };
    // SAFETY: this process has one thread; the child runs `child` only, which allocates nothing and does not return.
    let number = unsafe { libc::fork() };
    if number == 0 {
        child(&plan);
    }
    drop(plan);
    let pid =
        Pid::from_raw(number).filter(|_| number > 0).ok_or_else(|| Failure::in_("fork")(Errno::AGAIN))?;
    let fetched = fetch(pid, &hear, &say_go);
    if fetched.is_err() {
        // It ends by itself, or has.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
    fetched.map(|supervisor| (pid, supervisor))
}

fn fetch(pid: Pid, hear: &Fd, go: &Fd) -> Result<Supervisor, Failure> {
    let gone = || Failure { what: "starting it", errno: Errno::SRCH };
    let (kind, number) = hear_word(hear).ok_or_else(gone)?;
    if kind != SUPERVISED {
        return Err(Failure { what: NOTIFICATION, errno: Errno::from_raw_os_error(number) });
    }
    let fd = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()))
        .map_err(Failure::in_(FETCHING))?;
    rustix::io::write(go, &[1]).map_err(Failure::in_("starting it"))?;
    // The pipe closes when it is executed; whoever waits here is told of no call meanwhile, and none is made.
    match hear_word(hear) {
        None => Ok(Supervisor::new(Fd::from(fd))),
        Some((_, number)) => Err(Failure { what: "executing it", errno: Errno::from_raw_os_error(number) }),
    }
}

fn hear_word(from: &Fd) -> Option<(u8, i32)> {
    let mut word = [0_u8; 5];
    let mut used = 0;
    while let Some(room) = word.get_mut(used..).filter(|room| !room.is_empty()) {
        match rustix::io::read(from, room) {
            Ok(0) => return None,
            Ok(n) => used += n,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let [kind, a, b, c, d] = word;
    Some((kind, i32::from_ne_bytes([a, b, c, d])))
}

/// Between fork and exec: system calls only, on memory made before.
fn child(plan: &Plan) -> ! {
    let say = |kind: u8, number: i32| {
        let [a, b, c, d] = number.to_ne_bytes();
        // The parent sees the pipe close if this fails.
        let _ = rustix::io::write(&plan.told, &[kind, a, b, c, d]);
    };
    match prepare(plan) {
        Err(errno) => say(REFUSED, errno.raw_os_error()),
        Ok(fd) => {
            say(SUPERVISED, fd);
            let mut word = [0];
            if rustix::io::read(&plan.go, &mut word) == Ok(1) {
                let args = plan.args.pointers.as_ptr() as usize;
                let environment = plan.environment.pointers.as_ptr() as usize;
                let call = [plan.file.as_ptr() as usize, args, environment, 0, 0, 0];
                // SAFETY: strings and vectors end with a null and are alive; on success this does not return. Not libc's function: that is the
                // preload library's, whose preparations are for programs that have it.
                let failed = unsafe { raw::syscall(libc::SYS_execve, call) };
                say(NOT_EXECUTED, failed.err().map_or(0, Errno::raw_os_error));
            }
        }
    }
    // SAFETY: ends this process; nothing of the parent's is run.
    unsafe { libc::_exit(126) }
}

fn prepare(plan: &Plan) -> Result<i32, Errno> {
    // Nobody would answer its calls if the relay were gone.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // SAFETY: the set is initialised by zeroes, which is the empty one in the kernel's form; the default action needs no memory.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let none = 0_u64;
    let arguments = [libc::SIG_SETMASK as usize, &raw const none as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: a kernel signal set of eight bytes, only read.
    unsafe { raw::syscall(libc::SYS_rt_sigprocmask, arguments) }?;
    match plan.filter.install() {
        Err(Errno::ACCESS) => {
            rustix::thread::set_no_new_privs(true)?;
            plan.filter.install()
        }
        done => done,
    }
}
