//! Linux's own stack under a script: a TAP device in a network namespace of the calling thread, in real time.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::Command;

use base::{Duration, Instant};
use engine::How;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, send, sendto, shutdown, socket_with, sockopt,
};
use sys::fds::Fd;

use crate::md5;
use crate::packet::Family;
use crate::script::{Answer, Call, Opt, Script};
use crate::segment::{Came, SCRIPT_PORT, STACK_PORT, stream_byte};
use crate::target::Target;
use crate::words::{check_stream, fast_open_keys, poll_words, word};

/// The device's name in its namespace.
const DEVICE: &str = "tap0";

/// Settings of the namespace: nothing that is not in a script may send, and Linux's congestion control is the one our
/// engine has.
const SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/tcp_fastopen", "3"),
    ("net/ipv4/tcp_congestion_control", "reno"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    ("net/ipv4/tcp_ecn", "2"),
    ("net/ipv4/tcp_syncookies", "1"),
    ("net/ipv4/tcp_mtu_probing", "0"),
];

/// Likewise for IPv6: it is off where a script is about IPv4, and asks for nothing where it is on.
const SYSCTLS_V6: [(&str, &str, &str); 4] = [
    ("net/ipv6/conf/all/disable_ipv6", "1", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "1", "0"),
    ("net/ipv6/conf/default/accept_ra", "0", "0"),
    ("net/ipv6/conf/default/accept_dad", "0", "0"),
];

/// MSG_FASTOPEN.
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// Linux's stack.
pub struct Linux {
    family: Family,
    tap: Fd,
    came: VecDeque<(Instant, Vec<u8>)>,
    listener: Option<OwnedFd>,
    sock: Option<OwnedFd>,
    /// Connections that calls no longer go to; they stay open.
    others: Vec<OwnedFd>,
    options: Vec<(Opt, u32)>,
    sent: u64,
    read: u64,
}

/// Runs a command; gives what it prints.
fn run(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, rest) = words.split_first().ok_or("an empty command")?;
    let done = Command::new(program).args(rest).output().map_err(|e| format!("{line}: {e}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!("{line}: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

fn failed(what: &str, errno: Errno) -> String {
    format!("{what}: {errno}")
}

impl Linux {
    /// A namespace and a device for `script`. The thread stays in the namespace.
    ///
    /// # Errors
    /// What could not be made; EPERM without root.
    pub fn new(script: &Script) -> Result<Self, String> {
        sys::namespace::enter_new_net().map_err(|e| format!("a network namespace (needs root): {e}"))?;
        for (name, value) in SYSCTLS {
            // What a kernel does not have cannot send either.
            let _ = std::fs::write(format!("/proc/sys/{name}"), value);
        }
        for (name, value) in &script.settings {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value.to_string())
                .map_err(|e| format!("{name}: {e}"))?;
        }
        for (name, v4, v6) in SYSCTLS_V6 {
            let _ = std::fs::write(
                format!("/proc/sys/{name}"),
                if script.family == Family::V6 { v6 } else { v4 },
            );
        }
        let tap = sys::tun::open_plain_tap(DEVICE).map_err(|e| failed("a TAP device", e))?;
        run("ip link set lo up")?;
        run(&format!("ip link set {DEVICE} address 02:00:00:00:00:01 mtu {} up", script.mtu))?;
        let (ours, peer) = (std_addr(script.family.stack()), std_addr(script.family.script()));
        let prefix = if script.family == Family::V6 { "64 nodad" } else { "24" };
        run(&format!("ip addr add {ours}/{prefix} dev {DEVICE}"))?;
        run(&format!("ip neigh replace {peer} lladdr 02:00:00:00:00:02 nud permanent dev {DEVICE}"))?;
        wait_until(&format!("{DEVICE} does not come up"), || {
            Ok(sys::links::flags(DEVICE).map_err(|e| failed(DEVICE, e))? & sys::links::FLAG_RUNNING != 0)
        })?;
        if script.family == Family::V6 {
            // The kernel takes a new IPv6 address for its own in a work queue, some time after `ip` is done.
            let local = format!("ip -6 route show table local {ours}");
            wait_until(&format!("{ours} does not become a local address"), || {
                Ok(!run(&local)?.trim().is_empty())
            })?;
        }
        Ok(Self {
            family: script.family,
            tap,
            came: VecDeque::new(),
            listener: None,
            sock: None,
            others: Vec::new(),
            options: Vec::new(),
            sent: 0,
            read: 0,
        })
    }

    /// Takes what is in the device's queue.
    fn drain(&mut self) -> Result<(), String> {
        let mut bytes = vec![0; 70_000];
        loop {
            match rustix::io::read(&self.tap, &mut bytes) {
                Ok(len) => {
                    let frame = bytes.get(..len).unwrap_or_default();
                    if Came::parse(frame, self.family).is_some() {
                        self.came.push_back((sys::clock::now(), frame.to_vec()));
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(failed("reading from the TAP device", errno)),
            }
        }
    }

    fn socket(&self) -> Result<OwnedFd, String> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = match self.family {
            Family::V4 => AddressFamily::INET,
            Family::V6 => AddressFamily::INET6,
        };
        let sock = socket_with(family, SocketType::STREAM, flags, None).map_err(|e| failed("a socket", e))?;
        sockopt::set_socket_reuseaddr(&sock, true).map_err(|e| failed("SO_REUSEADDR", e))?;
        for (option, value) in &self.options {
            set(&sock, self.family, *option, *value).map_err(|e| failed("an option", e))?;
        }
        Ok(sock)
    }

    fn listen(&mut self, backlog: u32) -> Result<Answer, String> {
        let sock = self.socket()?;
        let addr = SocketAddr::new(std_addr(self.family.stack()), STACK_PORT);
        let done = bind(&sock, &addr).and_then(|()| listen(&sock, backlog as i32));
        self.listener = Some(sock);
        Ok(answer(done))
    }

    fn connect(&mut self) -> Result<Answer, String> {
        let sock = self.socket()?;
        let done = connect(&sock, &SocketAddr::new(std_addr(self.family.script()), SCRIPT_PORT));
        self.others.extend(self.sock.replace(sock));
        (self.sent, self.read) = (0, 0);
        Ok(match done {
            Err(Errno::INPROGRESS) => Answer::Ok,
            done => answer(done),
        })
    }

    /// What a call with MSG_FASTOPEN does.
    fn send_first(&mut self, len: usize) -> Result<Answer, String> {
        let sock = self.socket()?;
        let data: Vec<u8> = (0..len as u64).map(stream_byte).collect();
        let to = SocketAddr::new(std_addr(self.family.script()), SCRIPT_PORT);
        let done = sendto(&sock, &data, FAST_OPEN, &to);
        self.others.extend(self.sock.replace(sock));
        (self.sent, self.read) = (0, 0);
        Ok(match done {
            Ok(n) => {
                self.sent = n as u64;
                Answer::Number(n)
            }
            Err(errno) => answer(Err(errno)),
        })
    }

    fn accept(&mut self) -> Result<Answer, String> {
        let Some(listener) = &self.listener else { return Ok(word("EBADF")) };
        // The stack takes the last step of a handshake in its own time.
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(sock) => {
                self.others.extend(self.sock.replace(sock));
                (self.sent, self.read) = (0, 0);
                Ok(Answer::Ok)
            }
            Err(errno) => Ok(answer(Err(errno))),
        }
    }

    fn send(&mut self, len: usize, flags: SendFlags) -> Result<Answer, String> {
        let Some(sock) = &self.sock else { return Ok(word("EBADF")) };
        let data: Vec<u8> = (self.sent..self.sent + len as u64).map(stream_byte).collect();
        Ok(match send(sock, &data, flags | SendFlags::NOSIGNAL) {
            Ok(n) => {
                self.sent += n as u64;
                Answer::Number(n)
            }
            Err(errno) => answer(Err(errno)),
        })
    }

    fn recv(&mut self, len: usize) -> Result<Answer, String> {
        let Some(sock) = &self.sock else { return Ok(word("EBADF")) };
        let mut data = vec![0; len];
        Ok(match recv(sock, data.as_mut_slice(), RecvFlags::empty()) {
            Ok((n, _)) => {
                check_stream(self.read, data.get(..n).unwrap_or_default())?;
                self.read += n as u64;
                Answer::Number(n)
            }
            Err(errno) => answer(Err(errno)),
        })
    }

    fn recv_urgent(&self, peek: bool) -> Result<Answer, String> {
        let Some(sock) = &self.sock else { return Ok(word("EBADF")) };
        let mut byte = [0; 1];
        let flags = if peek { RecvFlags::OOB | RecvFlags::PEEK } else { RecvFlags::OOB };
        Ok(match recv(sock, byte.as_mut_slice(), flags) {
            Ok((0, _)) => word("end"),
            Ok(_) => Answer::Number(byte[0].into()),
            Err(errno) => answer(Err(errno)),
        })
    }

    fn on_sock(&mut self, call: &Call) -> Result<Answer, String> {
        let Some(sock) = &self.sock else { return Ok(word("EBADF")) };
        Ok(match call {
            Call::Shutdown(how) => answer(shutdown(
                sock,
                match how {
                    How::Read => Shutdown::Read,
                    How::Write => Shutdown::Write,
                    How::Both => Shutdown::Both,
                },
            )),
            Call::TakeError => match sockopt::socket_error(sock).map_err(|e| failed("SO_ERROR", e))? {
                Ok(()) => Answer::Number(0),
                Err(errno) => answer(Err(errno)),
            },
            Call::Connected => match sockopt::socket_error(sock).map_err(|e| failed("SO_ERROR", e))? {
                Ok(()) if poll_bits(sock)? & 4 == 0 => word("EINPROGRESS"),
                done => answer(done),
            },
            Call::Poll => word(&poll_words(poll_bits(sock)?)),
            Call::State => word(&state(self.family)?),
            Call::AtMark => {
                Answer::Number(sys::urgent::at_mark(sock).map_err(|e| failed("SIOCATMARK", e))?.into())
            }
            Call::Unread => {
                let unread = rustix::io::ioctl_fionread(sock).map_err(|e| failed("SIOCINQ", e))?;
                Answer::Number(unread as usize)
            }
            _ => word("EBADF"),
        })
    }
}

fn std_addr(addr: base::IpAddress) -> IpAddr {
    addr.as_v4().map_or_else(|| IpAddr::V6(addr.as_v6()), IpAddr::V4)
}

/// Waits for `condition`, ten seconds at most; `otherwise` says what did not happen.
fn wait_until(otherwise: &str, condition: impl Fn() -> Result<bool, String>) -> Result<(), String> {
    let deadline = sys::clock::now().plus(Duration::from_secs(10));
    while !condition()? {
        if sys::clock::now() > deadline {
            return Err(otherwise.to_owned());
        }
        pause(Duration::from_micros(1000))?;
    }
    Ok(())
}

/// Sleeps for `time`.
fn pause(time: Duration) -> Result<(), String> {
    match poll(&mut [], Some(&timespec(time))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(failed("sleeping", errno)),
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: (time.0 / 1_000_000_000) as i64, tv_nsec: (time.0 % 1_000_000_000) as i64 }
}

fn set(sock: &OwnedFd, family: Family, option: Opt, value: u32) -> rustix::io::Result<()> {
    let seconds = std::time::Duration::from_secs(value.into());
    match option {
        Opt::NoDelay => sockopt::set_tcp_nodelay(sock, value != 0),
        Opt::Cork => sockopt::set_tcp_cork(sock, value != 0),
        Opt::KeepAlive => sockopt::set_socket_keepalive(sock, value != 0),
        Opt::KeepIdle => sockopt::set_tcp_keepidle(sock, seconds),
        Opt::KeepInterval => sockopt::set_tcp_keepintvl(sock, seconds),
        Opt::KeepCount => sockopt::set_tcp_keepcnt(sock, value),
        Opt::Linger => sockopt::set_socket_linger(sock, Some(seconds)),
        Opt::UserTimeout => sockopt::set_tcp_user_timeout(sock, value),
        // Linux doubles it, for its own book-keeping (socket(7)).
        Opt::RcvBuf => sockopt::set_socket_recv_buffer_size(sock, value as usize),
        Opt::SndBuf => sockopt::set_socket_send_buffer_size(sock, value as usize),
        Opt::Ttl => sockopt::set_ip_ttl(sock, value),
        Opt::MaxPacingRate => sys::pacing::set_max(sock, value.into()),
        Opt::FastOpen => sys::fast_open::set_max(sock, value),
        Opt::FastOpenConnect => sys::fast_open::set_connect(sock, value != 0),
        Opt::UrgentInline => sockopt::set_socket_oobinline(sock, value != 0),
        Opt::RecvErr => sys::reports::set_told(sock, family == Family::V6, value != 0),
        Opt::FastOpenBare => sys::fast_open::set_no_cookie(sock, value != 0),
        Opt::Md5 => sys::md5::set_key(sock, std_addr(family.script()), &md5::key(value)),
        Opt::FastOpenKey => match fast_open_keys(value).as_slice() {
            [key] => sys::fast_open::set_keys(sock, *key, None),
            [key, backup, ..] => sys::fast_open::set_keys(sock, *key, Some(*backup)),
            [] => Ok(()),
        },
    }
}

fn poll_bits(sock: &OwnedFd) -> Result<u32, String> {
    let asked = PollFlags::IN | PollFlags::PRI | PollFlags::OUT | PollFlags::RDHUP;
    let mut fds = [PollFd::new(sock, asked)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(|e| failed("poll", e))?;
    let [fd] = fds;
    Ok(u32::from(fd.revents().bits()))
}

/// The state of the youngest connection of this namespace that is no listener, from /proc.
fn state(family: Family) -> Result<String, String> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/tcp",
        Family::V6 => "/proc/thread-self/net/tcp6",
    };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let states = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
    Ok(match states.filter(|s| *s != "0A").last() {
        Some("01") => "ESTABLISHED",
        Some("02") => "SYN-SENT",
        Some("03") => "SYN-RECEIVED",
        Some("04") => "FIN-WAIT-1",
        Some("05") => "FIN-WAIT-2",
        Some("06") => "TIME-WAIT",
        Some("08") => "CLOSE-WAIT",
        Some("09") => "LAST-ACK",
        Some("0B") => "CLOSING",
        Some(_) | None => "CLOSED",
    }
    .to_owned())
}

/// An outcome as scripts name it.
fn answer(done: rustix::io::Result<()>) -> Answer {
    let Err(errno) = done else { return Answer::Ok };
    let names = [
        (Errno::AGAIN, "EAGAIN"),
        (Errno::PIPE, "EPIPE"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::INVAL, "EINVAL"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::ISCONN, "EISCONN"),
        (Errno::BADF, "EBADF"),
        (Errno::INPROGRESS, "EINPROGRESS"),
        (Errno::ALREADY, "EALREADY"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::NOPROTOOPT, "ENOPROTOOPT"),
        (Errno::HOSTDOWN, "EHOSTDOWN"),
        (Errno::NONET, "ENONET"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PROTO, "EPROTO"),
    ];
    match names.iter().find(|(e, _)| *e == errno) {
        Some((_, name)) => word(name),
        None => Answer::Word(errno.to_string()),
    }
}

impl Target for Linux {
    fn name(&self) -> &'static str {
        "Linux"
    }

    fn now(&self) -> Instant {
        sys::clock::now()
    }

    fn wait(&mut self, at: Instant, for_packet: bool) -> Result<(), String> {
        loop {
            self.drain()?;
            let now = self.now();
            if now >= at || (for_packet && !self.came.is_empty()) {
                return Ok(());
            }
            let mut fds = [PollFd::new(&self.tap, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(Duration(at.0 - now.0)))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("poll", errno)),
            }
        }
    }

    fn take_packet(&mut self) -> Option<(Instant, Vec<u8>)> {
        self.came.pop_front()
    }

    fn inject(&mut self, frame: &[u8]) -> Result<(), String> {
        // Taken in by the kernel before write returns: a TAP device without NAPI hands it to the stack at once.
        rustix::io::write(&self.tap, frame).map_err(|e| failed("writing to the TAP device", e))?;
        self.drain()
    }

    fn call(&mut self, call: &Call) -> Result<Answer, String> {
        let answer = match call {
            Call::Listen(backlog) => self.listen(*backlog),
            Call::CloseListener => Ok(self.listener.take().map_or_else(|| word("EBADF"), |_| Answer::Ok)),
            Call::Connect => self.connect(),
            Call::SendFirst(len) => self.send_first(*len),
            Call::Accept => self.accept(),
            Call::Send(len) => self.send(*len, SendFlags::empty()),
            Call::SendMore(len) => self.send(*len, SendFlags::MORE),
            Call::SendUrgent(len) => self.send(*len, SendFlags::OOB),
            Call::Recv(len) => self.recv(*len),
            Call::RecvPast(len) => {
                self.read += 1;
                self.recv(*len)
            }
            Call::RecvUrgent { peek } => self.recv_urgent(*peek),
            Call::Close => Ok(self.sock.take().map_or_else(|| word("EBADF"), |_| Answer::Ok)),
            Call::Set(option, value) => {
                self.options.push((*option, *value));
                match self.sock.as_ref().or(self.listener.as_ref()) {
                    Some(sock) => Ok(self::answer(set(sock, self.family, *option, *value))),
                    None => Ok(Answer::Ok),
                }
            }
            Call::Poll if self.sock.is_none() => match &self.listener {
                Some(listener) => Ok(word(&poll_words(poll_bits(listener)?))),
                None => Ok(word("EBADF")),
            },
            Call::Shutdown(_)
            | Call::TakeError
            | Call::Connected
            | Call::Poll
            | Call::State
            | Call::AtMark
            | Call::Unread => self.on_sock(call),
        };
        self.drain()?;
        answer
    }

    fn slack_us(&self, after_us: u64) -> (u64, u64) {
        // The machine may be busy; that a packet comes early is what cannot be excused by that.
        (400_000 + after_us / 2, 12_000 + after_us / 10)
    }
}
