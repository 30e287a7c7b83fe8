//! Server and client as programs that know nothing of Corelane: sockets of the standard library, epoll through mio. They run on
//! the kernel or under `corelane run`.
//!
//! The server says `ready` when it listens, and with the end of its input it ends. The client prints one line of JSON.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Bytes of a message.
const MESSAGE: usize = 64;
/// Bytes a stream is written and read in.
const PIECE: usize = 256 << 10;
const LISTENER: Token = Token(usize::MAX);
/// How often a server looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);
/// Nothing for so long means that something is stuck. On paths with loss a SYN may be sent four times, over 15 s (RFC 6298).
const STUCK: Duration = Duration::from_secs(20);

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Connect, a message, its answer, close.
    Conn,
    /// Messages and answers on lasting connections.
    Rr,
    /// One stream to the server.
    Bulk,
    /// Gets of a memcached that has nothing, on lasting connections.
    Memcached,
}

impl Kind {
    /// What is asked, and the length of the answer.
    fn message(self) -> (&'static [u8], usize) {
        match self {
            Self::Conn | Self::Rr | Self::Bulk => (&[7; MESSAGE], MESSAGE),
            Self::Memcached => (b"get corelane\r\n", b"END\r\n".len()),
        }
    }
}

/// `peer-server`.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// Where to listen
    address: SocketAddr,
    /// Take what comes instead of answering it
    #[arg(long)]
    sink: bool,
    /// Never sleep once somebody has connected
    #[arg(long)]
    spin: bool,
}

/// `peer-client`.
#[derive(Args)]
pub(crate) struct ClientArgs {
    kind: Kind,
    /// The server
    address: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Operations; of a stream, bytes
    #[arg(long)]
    count: u64,
    /// Never sleep
    #[arg(long)]
    spin: bool,
}

/// What the client found.
#[derive(Default, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// CPU time of the client's process over these seconds.
    pub(crate) cpu_seconds: f64,
    /// Percentiles of the time of one operation, us: 50, 90, 99, 99.9, 99.99.
    pub(crate) percentiles_us: Vec<f64>,
}

/// The percentiles in [`Found`].
pub(crate) const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

type Failure = Box<dyn std::error::Error>;

fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn wait_time(spin: bool) -> Option<Duration> {
    Some(if spin { Duration::ZERO } else { STUCK })
}

/// As many sockets as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, connecting fails and says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Serves until its input ends.
pub(crate) fn serve(args: &ServerArgs) -> Result<(), Failure> {
    raise_file_limit();
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(512));
    let mut listener = TcpListener::bind(args.address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let over = Arc::new(AtomicBool::new(false));
    let word = Arc::clone(&over);
    std::thread::spawn(move || {
        // Whatever comes, it is over.
        let _ = std::io::stdin().read(&mut [0]);
        word.store(true, Ordering::Relaxed);
    });
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut unused: Vec<usize> = Vec::new();
    let mut buffer = vec![0; if args.sink { PIECE } else { 4096 }];
    // The first look gives the listener to whoever carries it.
    poll.poll(&mut events, Some(Duration::ZERO))?;
    println!("ready");
    while !over.load(Ordering::Relaxed) {
        // Sooner it would only be in the way of the keeper, which has to have heard of the listener before.
        let spins = args.spin && !streams.is_empty();
        match poll.poll(&mut events, Some(if spins { Duration::ZERO } else { LOOK })) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => loop {
                    let mut stream = match listener.accept() {
                        Ok((stream, _)) => stream,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return Err(e.into()),
                    };
                    stream.set_nodelay(true)?;
                    let at = unused.pop().unwrap_or_else(|| {
                        streams.push(None);
                        streams.len() - 1
                    });
                    poll.registry().register(&mut stream, Token(at), Interest::READABLE)?;
                    streams[at] = Some(stream);
                },
                Token(at) => {
                    let Some(stream) = streams.get_mut(at).and_then(Option::as_mut) else { continue };
                    if !answer(stream, &mut buffer, args.sink, event.is_read_closed()) {
                        streams[at] = None;
                        unused.push(at);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Reads what is there and answers it; false when the connection is over.
fn answer(stream: &mut TcpStream, buffer: &mut [u8], sink: bool, closed: bool) -> bool {
    loop {
        match stream.read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                if !sink && stream.write_all(&buffer[..n]).is_err() {
                    return false;
                }
                // A short read has emptied an edge-triggered socket, unless its end is there too.
                if n < buffer.len() && !closed {
                    return true;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Does the client's work and prints what it found.
pub(crate) fn drive(args: &ClientArgs) -> Result<(), Failure> {
    raise_file_limit();
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut found = match args.kind {
        Kind::Conn => connections(args, &mut times)?,
        Kind::Rr if args.connections == 1 && args.spin => ping_pong(args, &mut times)?,
        Kind::Rr | Kind::Memcached => requests(args, &mut times)?,
        Kind::Bulk => stream(args)?,
    };
    found.percentiles_us =
        PERCENTILES.iter().map(|p| times.value_at_quantile(p / 100.0) as f64 / 1e3).collect();
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// A stretch of work, timed.
struct Stretch {
    start: Instant,
    cpu: f64,
}

impl Stretch {
    fn begin() -> Self {
        Self { start: Instant::now(), cpu: cpu_seconds() }
    }

    fn end(&self, count: u64) -> Found {
        let seconds = self.start.elapsed().as_secs_f64();
        Found { count, seconds, cpu_seconds: cpu_seconds() - self.cpu, ..Found::default() }
    }
}

/// One connection's operation under way.
struct Slot {
    stream: TcpStream,
    start: Instant,
    /// Its message has been sent.
    asked: bool,
    /// Bytes of the answer so far.
    got: usize,
    kind: Kind,
}

impl Slot {
    fn ask(&mut self) -> Result<(), Failure> {
        self.asked = true;
        self.got = 0;
        Ok(self.stream.write_all(self.kind.message().0)?)
    }

    /// Reads; true when the answer is whole. An answer may come in parts.
    fn answered(&mut self) -> Result<bool, Failure> {
        match self.stream.read(&mut [0; 4096]) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(n) => self.got += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        let whole = self.kind.message().1;
        if self.got > whole {
            return Err(format!("{} bytes instead of {whole}", self.got).into());
        }
        Ok(self.got == whole)
    }
}

fn stuck(done: u64) -> Failure {
    format!("no answer for {} s after {done} operations", STUCK.as_secs()).into()
}

/// Waits; an error when nothing comes for too long.
fn wait(poll: &mut Poll, events: &mut Events, spin: bool, done: u64) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match poll.poll(events, wait_time(spin)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => other?,
        }
        if !events.is_empty() {
            return Ok(());
        }
        if start.elapsed() >= STUCK {
            return Err(stuck(done));
        }
    }
}

fn connections(args: &ClientArgs, times: &mut Histogram<u64>) -> Result<Found, Failure> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(512));
    let open = |poll: &Poll, at: usize| -> Result<Slot, Failure> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(args.address)?;
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Slot { stream, start, asked: false, got: 0, kind: args.kind })
    };
    let (mut started, mut done) = (0, 0);
    let mut slots = Vec::new();
    let stretch = Stretch::begin();
    for at in 0..args.connections {
        slots.push(Some(open(&poll, at)?));
        started += 1;
    }
    while done < args.count {
        wait(&mut poll, &mut events, args.spin, done)?;
        for event in &events {
            let at = event.token().0;
            let Some(slot) = slots.get_mut(at).and_then(Option::as_mut) else { continue };
            if !slot.asked && event.is_writable() {
                slot.ask()?;
            }
            if !event.is_readable() || !slot.answered()? {
                continue;
            }
            times.saturating_record(slot.start.elapsed().as_nanos() as u64);
            slots[at] = None;
            done += 1;
            if started < args.count {
                slots[at] = Some(open(&poll, at)?);
                started += 1;
            }
        }
    }
    Ok(stretch.end(done))
}

/// A connection to the server, established.
fn connected(args: &ClientArgs) -> Result<std::net::TcpStream, Failure> {
    let stream = std::net::TcpStream::connect_timeout(&args.address, STUCK)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection to the server that does not block.
fn watched(args: &ClientArgs) -> Result<Slot, Failure> {
    let stream = connected(args)?;
    stream.set_nonblocking(true)?;
    Ok(Slot {
        stream: TcpStream::from_std(stream),
        start: Instant::now(),
        asked: false,
        got: 0,
        kind: args.kind,
    })
}

fn requests(args: &ClientArgs, times: &mut Histogram<u64>) -> Result<Found, Failure> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(512));
    let mut slots = Vec::new();
    for at in 0..args.connections {
        let mut slot = watched(args)?;
        poll.registry().register(&mut slot.stream, Token(at), Interest::READABLE)?;
        slots.push(slot);
    }
    let (mut sent, mut done) = (0, 0);
    let stretch = Stretch::begin();
    for slot in &mut slots {
        slot.start = Instant::now();
        slot.ask()?;
        sent += 1;
    }
    while done < args.count.max(sent) {
        wait(&mut poll, &mut events, args.spin, done)?;
        for event in &events {
            let Some(slot) = slots.get_mut(event.token().0) else { continue };
            if !slot.asked || !slot.answered()? {
                continue;
            }
            let now = Instant::now();
            times.saturating_record((now - slot.start).as_nanos() as u64);
            done += 1;
            slot.asked = false;
            if sent < args.count {
                slot.start = now;
                slot.ask()?;
                sent += 1;
            }
        }
    }
    Ok(stretch.end(done))
}

/// One connection, no epoll: reads again and again until the answer is there.
fn ping_pong(args: &ClientArgs, times: &mut Histogram<u64>) -> Result<Found, Failure> {
    let mut slot = watched(args)?;
    let stretch = Stretch::begin();
    for done in 0..args.count {
        let start = Instant::now();
        slot.ask()?;
        while !slot.answered()? {
            if start.elapsed() > STUCK {
                return Err(stuck(done));
            }
        }
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(stretch.end(args.count))
}

/// Sends, and waits until the server has taken everything and closed.
fn stream(args: &ClientArgs) -> Result<Found, Failure> {
    let mut stream = connected(args)?;
    let data = vec![7; PIECE];
    let mut left = args.count;
    let stretch = Stretch::begin();
    while left > 0 {
        let want = left.min(PIECE as u64) as usize;
        stream.write_all(&data[..want])?;
        left -= want as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(STUCK))?;
    match stream.read(&mut [0; 1])? {
        0 => Ok(stretch.end(args.count)),
        _ => Err("the server answered a stream".into()),
    }
}
