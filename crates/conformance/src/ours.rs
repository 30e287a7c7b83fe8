//! Our engine under a script: one lane in virtual time, with a port that is two queues.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::{Duration, Instant, IpAddress, LaneId, Port as PortNumber};
use engine::{
    AcceptError, ConnectError, Engine, KeyError, KeyPeer, RecvError, RouteTo, SendError, State, UrgentError,
};
use lane::{Lane, LanePort};
use port::{Port, PortCaps, PortError, PortStats, chain};
use region::{Frames, Owner, Region, RegionShape};
use state::{
    CsumState, Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, PathSettings, RxBatch, RxFrame, SockRef,
    TcpOptions, TxFrame, Usual,
};

use crate::md5;
use crate::packet::{Family, SCRIPT_MAC, STACK_MAC};
use crate::script::{Answer, Call, Opt, Script};
use crate::segment::{SCRIPT_PORT, STACK_PORT, stream_byte};
use crate::target::Target;
use crate::words::{check_stream, errno, fast_open_keys, poll_words, state_name, word};

/// Frames of the region.
const FRAMES: u32 = 4096;
/// Where the stack's ephemeral ports begin here.
const LOCAL_PORT: PortNumber = PortNumber(50_000);

/// Fast open both ways, as for Linux.
const FAST_OPEN: u16 = 3;

/// Packets on their way in and out.
#[derive(Default)]
struct Wire {
    to_stack: VecDeque<Vec<u8>>,
    from_stack: VecDeque<Vec<u8>>,
}

struct WirePort {
    wire: Arc<Mutex<Wire>>,
    mtu: u16,
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port for WirePort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        let mut got = 0;
        while batch.room() > 0 {
            let Some(bytes) = lock(&self.wire).to_stack.pop_front() else { break };
            let Some(head) = chain::of_bytes(frames, &bytes) else { continue };
            let len = bytes.len() as u32;
            let csum = CsumState::Unknown;
            batch.push(RxFrame { head, len, gso_size: 0, port: 0, local_peer: false, csum });
            got += 1;
        }
        Ok(got)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        for packet in packets {
            let mut bytes = Vec::new();
            chain::read_tx(frames, packet, &mut bytes);
            frames.release(packet.head);
            lock(&self.wire).from_stack.push_back(bytes);
        }
        Ok(packets.len())
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // What is on the wire is copied.
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn caps(&self) -> PortCaps {
        PortCaps { mtu: self.mtu, super_segment_max: 0, local_peer: false, own_address: true }
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// Our stack.
pub struct Ours {
    family: Family,
    lane: Lane,
    wire: Arc<Mutex<Wire>>,
    now: Instant,
    came: VecDeque<(Instant, Vec<u8>)>,
    listener: Option<SockRef>,
    sock: Option<SockRef>,
    options: TcpOptions,
    fast: FastOpen,
    /// Number of the key that sockets are made with.
    md5: Option<u32>,
    sent: u64,
    read: u64,
}

/// How a program writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Plain,
    More,
    Urgent,
}

/// What scripts set of fast open.
#[derive(Default)]
struct FastOpen {
    max: u32,
    keys: Vec<[u8; 16]>,
    connect: bool,
}

impl Ours {
    /// A stack for `script`.
    ///
    /// # Errors
    /// No memory.
    pub fn new(script: &Script) -> Result<Self, String> {
        let shape =
            LaneShape { udp_socks: 4, hops: 4, reassemblies: 2, ..LaneShape::for_connections(128, 64) };
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: FRAMES };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape))
            .map_err(|e| format!("no memory for a region: {e}"))?;
        let region = Region::format(words, &region_shape, LAYOUT_VERSION, [11, 13])
            .map_err(|e| format!("no region: {e:?}"))?;
        let now = Instant(0).plus(Duration::from_secs(1000));
        let owner = Owner { pid: std::process::id(), tid: 1 };
        let mut guard = region.lane(LaneId(0)).and_then(|l| l.try_lock(owner)).ok_or("the lane is locked")?;
        LaneMem::format(&mut guard, &shape, [5, 7], now).map_err(|e| format!("no lane: {e:?}"))?;
        drop(guard);
        let wire = Arc::new(Mutex::new(Wire::default()));
        let port = Box::new(WirePort { wire: Arc::clone(&wire), mtu: script.mtu });
        let port = LanePort { port, ifindex: 0, mac: STACK_MAC, wire: None };
        let lane = Lane::new(region, LaneId(0), vec![port], None).ok_or("the region has no lane")?;
        let mut session = lane.enter(now).map_err(|_| "the lane is poisoned")?;
        session.set_addresses(0, &[script.family.stack()]);
        let probing = script.setting("tcp_mtu_probing").unwrap_or(0);
        let path = PathSettings { when: probing as u16, ..PathSettings::DEFAULT };
        let usual = Usual {
            cookies: script.setting("tcp_syncookies").map_or(0, engine::cookies),
            half_open_max: script.setting("tcp_max_syn_backlog").map_or(0, engine::half_open_max),
            resets_overflow: u8::from(script.setting("tcp_abort_on_overflow").is_some_and(|on| on != 0)),
            ..Usual::NONE
        };
        session.engine(|e| {
            e.set_fast_open(FAST_OPEN);
            e.set_path_search(&path);
            e.set_usual(&usual);
        });
        drop(session);
        Ok(Self {
            family: script.family,
            lane,
            wire,
            now,
            came: VecDeque::new(),
            listener: None,
            sock: None,
            options: TcpOptions::default(),
            fast: FastOpen::default(),
            md5: None,
            sent: 0,
            read: 0,
        })
    }

    /// Does what is due now, and takes what the stack sends.
    fn step(&mut self) -> Result<(), String> {
        let mut session = self.lane.enter(self.now).map_err(|_| "the lane is poisoned")?;
        session.step();
        drop(session);
        let now = self.now;
        self.came.extend(lock(&self.wire).from_stack.drain(..).map(|bytes| (now, bytes)));
        Ok(())
    }

    fn with<R: Default>(&mut self, f: impl FnOnce(&mut Engine<'_>) -> R) -> Result<R, String> {
        let mut session = self.lane.enter(self.now).map_err(|_| "the lane is poisoned")?;
        let result = session.engine(f);
        drop(session);
        self.step()?;
        Ok(result)
    }

    fn connect(&mut self) -> Result<Answer, String> {
        let local = Endpoint { addr: self.family.stack(), port: LOCAL_PORT };
        let remote = Endpoint { addr: self.family.script(), port: PortNumber(SCRIPT_PORT) };
        let route = RouteTo {
            port: 0,
            next_hop: self.family.script(),
            local_mac: STACK_MAC,
            mac: Some(SCRIPT_MAC),
            mtu: 0,
        };
        let options = self.options;
        let fast = self.fast.connect;
        let (peer, key) = (KeyPeer { addr: remote.addr, prefix: 128 }, md5::key(self.md5.unwrap_or(0)));
        let connected = self.with(|e| {
            let begun = if fast {
                e.tcp_connect_fast(local, remote, &route, &options).map(|(sock, _)| sock)
            } else {
                e.tcp_connect(local, remote, &route, &options)
            };
            if let Ok(sock) = begun
                && !key.is_empty()
            {
                let _ = e.tcp_set_md5_key(sock, peer, &key);
            }
            Some(begun)
        })?;
        Ok(match connected {
            Some(Ok(sock)) => {
                self.sock = Some(sock);
                (self.sent, self.read) = (0, 0);
                Answer::Ok
            }
            Some(Err(ConnectError::Invalid)) => word("EINVAL"),
            Some(Err(ConnectError::InUse)) => word("EADDRINUSE"),
            Some(Err(ConnectError::NoRoom)) => word("ENOBUFS"),
            Some(Err(ConnectError::HostUnreachable)) => word("EHOSTUNREACH"),
            None => return Err("the lane is poisoned".into()),
        })
    }

    fn accept(&mut self) -> Result<Answer, String> {
        let Some(listener) = self.listener else { return Ok(word("EBADF")) };
        Ok(match self.with(|e| Some(e.tcp_accept(listener)))? {
            Some(Ok(accepted)) => {
                self.sock = Some(accepted.sock);
                (self.sent, self.read) = (0, 0);
                Answer::Ok
            }
            Some(Err(AcceptError::WouldBlock)) => word("EAGAIN"),
            Some(Err(AcceptError::Gone)) | None => word("EINVAL"),
        })
    }

    /// What a call with MSG_FASTOPEN does.
    fn send_first(&mut self, len: usize) -> Result<Answer, String> {
        let before = core::mem::replace(&mut self.fast.connect, true);
        let begun = self.connect()?;
        self.fast.connect = before;
        match (begun, self.sock) {
            (Answer::Ok, Some(sock)) => Ok(match self.send(sock, len, Sending::Plain)? {
                Answer::Word(errno) if errno == "EAGAIN" => word("EINPROGRESS"),
                other => other,
            }),
            (failed, _) => Ok(failed),
        }
    }

    fn send(&mut self, sock: SockRef, len: usize, how: Sending) -> Result<Answer, String> {
        let from = self.sent;
        let data: Vec<u8> = (from..from + len as u64).map(stream_byte).collect();
        let result = self.with(|e| {
            Some(match how {
                Sending::Urgent => e.tcp_send_urgent(sock, &data, false),
                Sending::Plain | Sending::More => e.tcp_send(sock, &data, how == Sending::More),
            })
        })?;
        Ok(match result.ok_or("the lane is poisoned")? {
            Ok(n) => {
                self.sent += n as u64;
                Answer::Number(n)
            }
            Err(SendError::WouldBlock) => word("EAGAIN"),
            Err(SendError::NotConnected) => word("ENOTCONN"),
            Err(SendError::Pipe) => word("EPIPE"),
            Err(SendError::Failed(error)) => word(errno(error)),
            Err(SendError::Gone) => word("EBADF"),
        })
    }

    fn recv(&mut self, sock: SockRef, len: usize) -> Result<Answer, String> {
        let mut data = vec![0; len];
        let result = self.with(|e| Some(e.tcp_recv(sock, &mut data, false)))?;
        Ok(match result.ok_or("the lane is poisoned")? {
            Ok(n) => {
                check_stream(self.read, data.get(..n).unwrap_or_default())?;
                self.read += n as u64;
                Answer::Number(n)
            }
            Err(RecvError::WouldBlock) => word("EAGAIN"),
            Err(RecvError::NotConnected) => word("ENOTCONN"),
            Err(RecvError::Failed(error)) => word(errno(error)),
            Err(RecvError::Gone) => word("EBADF"),
        })
    }

    fn recv_urgent(&mut self, sock: SockRef, peek: bool) -> Result<Answer, String> {
        let result = self.with(|e| Some(e.tcp_recv_urgent(sock, peek)))?;
        Ok(match result.ok_or("the lane is poisoned")? {
            Ok(byte) => byte.map_or_else(|| word("end"), |byte| Answer::Number(byte.into())),
            Err(UrgentError::Nothing) => word("EINVAL"),
            Err(UrgentError::NotYet) => word("EAGAIN"),
            Err(UrgentError::NotConnected) => word("ENOTCONN"),
            Err(UrgentError::Gone) => word("EBADF"),
        })
    }

    fn set(&mut self, option: Opt, value: u32) -> Result<Answer, String> {
        match option {
            Opt::FastOpen => self.fast.max = value,
            Opt::FastOpenKey => self.fast.keys = fast_open_keys(value),
            Opt::FastOpenConnect => self.fast.connect = value != 0,
            Opt::Md5 => return self.set_md5(value),
            _ => return self.set_option(option, value),
        }
        self.tell_fast_open().map(|()| Answer::Ok)
    }

    fn set_md5(&mut self, value: u32) -> Result<Answer, String> {
        self.md5 = Some(value);
        match self.sock.or(self.listener) {
            Some(sock) => self.tell_md5(sock, value),
            None => Ok(Answer::Ok),
        }
    }

    fn tell_md5(&mut self, sock: SockRef, number: u32) -> Result<Answer, String> {
        let (peer, key) = (KeyPeer { addr: self.family.script(), prefix: 128 }, md5::key(number));
        Ok(match self.with(|e| Some(e.tcp_set_md5_key(sock, peer, &key)))?.ok_or("the lane is poisoned")? {
            Ok(()) => Answer::Ok,
            Err(KeyError::NoSuchKey) => word("ENOENT"),
            Err(KeyError::NoRoom) => word("ENOMEM"),
            Err(KeyError::Invalid) => word("EINVAL"),
            Err(KeyError::Gone) => word("EBADF"),
            Err(KeyError::Exists | KeyError::InUse | KeyError::OtherKind) => word("EKEYREJECTED"),
        })
    }

    fn tell_fast_open(&mut self) -> Result<(), String> {
        let Some(listener) = self.listener else { return Ok(()) };
        let (max, keys) = (self.fast.max, self.fast.keys.clone());
        self.with(|e| e.tcp_set_fast_open(listener, max, &keys)).map(|_| ())
    }

    fn set_option(&mut self, option: Opt, value: u32) -> Result<Answer, String> {
        let at = self.sock.or(self.listener);
        if let Some(options) = at.map(|s| self.with(|e| e.tcp_options(s))).transpose()?.flatten() {
            self.options = options;
        }
        let o = &mut self.options;
        match option {
            Opt::NoDelay => o.nodelay = value as u8,
            Opt::Cork => o.cork = value as u8,
            Opt::KeepAlive => o.keepalive = value as u8,
            Opt::KeepIdle => o.keep_idle_s = value as u16,
            Opt::KeepInterval => o.keep_interval_s = value as u16,
            Opt::KeepCount => o.keep_probes = value as u8,
            Opt::Linger => (o.linger, o.linger_s) = (1, value as u16),
            Opt::UserTimeout => o.user_timeout_ms = value,
            Opt::RcvBuf => o.rcv_buf_bytes = value,
            Opt::SndBuf => o.snd_buf_bytes = value,
            Opt::Ttl => o.ttl = value as u8,
            Opt::MaxPacingRate => o.set_max_pacing_rate(value.into()),
            Opt::FastOpenBare => o.fast_open_bare = value as u8,
            Opt::UrgentInline => o.set_urgent_inline(value != 0),
            Opt::RecvErr => o.set_tells_errors(value != 0),
            Opt::FastOpen | Opt::FastOpenKey | Opt::FastOpenConnect | Opt::Md5 => {
                return Ok(word("ENOPROTOOPT"));
            }
        }
        let options = self.options;
        match at {
            Some(sock) if !self.with(|e| e.set_tcp_options(sock, &options))? => Ok(word("EBADF")),
            Some(_) | None => Ok(Answer::Ok),
        }
    }

    fn on_sock(&mut self, call: &Call, sock: SockRef) -> Result<Answer, String> {
        Ok(match call {
            Call::Send(len) => self.send(sock, *len, Sending::Plain)?,
            Call::SendMore(len) => self.send(sock, *len, Sending::More)?,
            Call::SendUrgent(len) => self.send(sock, *len, Sending::Urgent)?,
            Call::Recv(len) => self.recv(sock, *len)?,
            Call::RecvPast(len) => {
                self.read += 1;
                self.recv(sock, *len)?
            }
            Call::RecvUrgent { peek } => self.recv_urgent(sock, *peek)?,
            Call::AtMark => Answer::Number(self.with(|e| e.tcp_at_mark(sock))?.into()),
            Call::Close => {
                self.with(|e| e.close(sock))?;
                self.sock = None;
                Answer::Ok
            }
            Call::Shutdown(how) => {
                let how = *how;
                match self.with(|e| Some(e.shutdown(sock, how)))? {
                    Some(Ok(())) => Answer::Ok,
                    Some(Err(_)) | None => word("ENOTCONN"),
                }
            }
            Call::TakeError => match self.with(|e| e.take_error(sock))? {
                Some(error) => word(errno(error)),
                None => Answer::Number(0),
            },
            Call::Connected => {
                let state = self.with(|e| e.tcp_info(sock).map(|i| i.state))?;
                match (state, self.with(|e| e.take_error(sock))?) {
                    (_, Some(error)) => word(errno(error)),
                    (Some(State::SynSent | State::SynRcvd), None) => word("EINPROGRESS"),
                    (_, None) => Answer::Ok,
                }
            }
            Call::Poll => word(&poll_words(self.with(|e| e.ready(sock).0)?)),
            Call::State => word(state_name(self.with(|e| e.tcp_info(sock).map(|i| i.state))?)),
            Call::Unread => Answer::Number(self.with(|e| e.unread_bytes(sock))? as usize),
            Call::Listen(_)
            | Call::Connect
            | Call::SendFirst(_)
            | Call::Accept
            | Call::CloseListener
            | Call::Set(..) => word("EBADF"),
        })
    }
}

impl Target for Ours {
    fn name(&self) -> &'static str {
        "Corelane"
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn wait(&mut self, at: Instant, for_packet: bool) -> Result<(), String> {
        for _ in 0..1_000_000 {
            self.step()?;
            if for_packet && !self.came.is_empty() {
                return Ok(());
            }
            if self.now >= at {
                return Ok(());
            }
            let next = self.lane.enter(self.now).map_err(|_| "the lane is poisoned")?.deadline();
            self.now = next.max(self.now).min(at);
        }
        Err("the engine does not come to rest: its deadline does not move".into())
    }

    fn take_packet(&mut self) -> Option<(Instant, Vec<u8>)> {
        self.came.pop_front()
    }

    fn inject(&mut self, frame: &[u8]) -> Result<(), String> {
        lock(&self.wire).to_stack.push_back(frame.to_vec());
        self.step()
    }

    fn call(&mut self, call: &Call) -> Result<Answer, String> {
        match (call, self.sock) {
            (Call::Listen(backlog), _) => {
                let local = Endpoint { addr: IpAddress::ANY, port: PortNumber(STACK_PORT) };
                let (backlog, options) = (*backlog, self.options);
                let made = self.with(|e| e.tcp_listen(local, backlog, &options).ok())?;
                self.listener = made;
                self.tell_fast_open()?;
                if let (Some(listener), Some(number)) = (made, self.md5) {
                    self.tell_md5(listener, number)?;
                }
                Ok(if made.is_some() { Answer::Ok } else { word("EADDRINUSE") })
            }
            (Call::CloseListener, _) => match self.listener.take() {
                Some(listener) => self.with(|e| e.close(listener)).map(|()| Answer::Ok),
                None => Ok(word("EBADF")),
            },
            (Call::Connect, _) => self.connect(),
            (Call::SendFirst(len), _) => self.send_first(*len),
            (Call::Accept, _) => self.accept(),
            (Call::Set(option, value), _) => self.set(*option, *value),
            (Call::Poll, None) => match self.listener {
                Some(listener) => Ok(word(&poll_words(self.with(|e| e.ready(listener).0)?))),
                None => Ok(word("EBADF")),
            },
            (_, Some(sock)) => self.on_sock(call, sock),
            (_, None) => Ok(word("EBADF")),
        }
    }

    fn slack_us(&self, after_us: u64) -> (u64, u64) {
        // Time is exact here; timers have the grain of the wheel.
        (5_000 + after_us / 100, 1_000)
    }
}
