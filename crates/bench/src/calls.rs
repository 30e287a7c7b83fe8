//! Rows of single calls: what a socket call of an unmodified program costs on a lane, on the kernel, and beside the cheapest system call
//! there is. CPU time of the calling thread; the other end is a kernel client across veth.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::count::{self, TUNABLES};
use crate::place::{Side, Under, World};
use crate::rows::{OURS, Outcome, Row, Sample, Trouble, Unit};
use crate::usage;

/// Bytes of a read or write.
const BYTES: usize = 64;
/// Bytes that the client sends when it is asked to.
const FILL: usize = 32 << 10;
/// Connections that wait before they are accepted, all at once.
const WAITING: usize = 64;
/// What does not happen within this time never will.
const LIMIT: Duration = Duration::from_secs(20);

/// Which call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Call {
    /// `getppid`.
    Raw,
    /// `recv` with nothing there.
    RecvEmpty,
    /// `recv` of 64 bytes that are there.
    Recv,
    /// `send` of 64 bytes, each a packet.
    Send,
    /// `epoll_ctl` and `epoll_wait` that gives one event.
    Epoll,
    /// `accept` of a connection that waits, and its `close`.
    Accept,
}

/// The program that calls.
#[derive(Args)]
pub(crate) struct CallsArgs {
    call: Call,
    count: u64,
}

/// A row a call.
pub(crate) fn rows() -> Vec<Row> {
    let calls = [
        ("call-recv-empty", "recv that finds nothing", Call::RecvEmpty, 40_000),
        ("call-recv-64", "recv of 64 bytes that are there", Call::Recv, 40_000),
        ("call-send-64", "send of 64 bytes, each in a packet of its own", Call::Send, 20_000),
        ("call-epoll", "epoll_ctl and epoll_wait with one event", Call::Epoll, 20_000),
        ("call-accept-close", "accept of a connection that waits, and close", Call::Accept, 4_000),
    ];
    let row = |(id, words, call, count): (&'static str, &'static str, Call, u64)| {
        Row::new(id, words, Unit::CpuNs)
            .stack(OURS, move |job| run(call, job.count, Under::Corelane))
            .counter(move || instructions(call))
            .stack("linux veth", move |job| run(call, job.count, Under::Linux))
            .stack("a system call", move |job| run(Call::Raw, job.count, Under::Linux))
            .count(count)
    };
    calls.into_iter().map(row).collect()
}

/// Starts the program on its side and is its client.
fn run(call: Call, count: u64, under: Under) -> Outcome {
    let world = World::two_hosts(1500, true)?;
    let child = world.spawn(Side::Server, under, &words(call, count)?)?;
    driven(&world, child).map(Sample::of)
}

/// The program's command line.
fn words(call: Call, count: u64) -> Result<Vec<String>, Trouble> {
    let program = std::env::current_exe().map_err(|e| Trouble::failed("this program's name", e))?;
    let name = call.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    Ok(vec![program.display().to_string(), "calls-program".to_owned(), name, count.to_string()])
}

/// Instructions of one call on a lane, by callgrind: the program's own and those of the library, inside [`timed`].
fn instructions(call: Call) -> Result<f64, Trouble> {
    /// A multiple of what a round of each kind of call makes.
    const CALLS: u64 = 2_048;
    let world = World::two_hosts(1500, true)?;
    let log = std::env::temp_dir().join(format!("corelane-bench-calls-{}", std::process::id()));
    let mut line: Vec<String> =
        ["env", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"].map(str::to_owned).to_vec();
    line.insert(1, format!("GLIBC_TUNABLES={TUNABLES}"));
    line.push("--toggle-collect=*calls*timed*".to_owned());
    line.push(format!("--log-file={}", log.display()));
    line.extend(words(call, CALLS)?);
    let child = world.spawn(Side::Server, Under::Corelane, &line)?;
    let done = driven(&world, child);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    // It may never have been made.
    let _ = std::fs::remove_file(&log);
    done?;
    let total =
        count::total(&said).ok_or_else(|| Trouble::failed("valgrind", format!("no count: {said}")))?;
    Ok(total as f64 / CALLS as f64)
}

/// Is the client of the program, and gives its figure.
fn driven(world: &World, mut child: Child) -> Result<f64, Trouble> {
    let out = child.stdout.take().ok_or_else(|| Trouble::failed("the program", "no output"))?;
    let mut lines = BufReader::new(out).lines();
    let mut number = move || lines.next()?.ok()?.trim().parse::<f64>().ok();
    let port = number().ok_or_else(|| Trouble::failed("the program", "it did not say its port"))?;
    let (address, core) = (world.address(), world.core(Side::Client));
    let driven = world.on(Side::Client, move || {
        // Where it may not be pinned it runs all the same.
        let _ = sys::affinity::pin_to(core);
        drive((address, port as u16))
    });
    let ns = number();
    usage::stop(&mut child);
    driven.map_err(|e| Trouble::failed("the client", e))?;
    ns.ok_or_else(|| Trouble::failed("the program", "it gave no figure"))
}

/// The client: does what the server asks for in one byte, until it hangs up.
fn drive(server: (&'static str, u16)) -> std::io::Result<()> {
    let begin = std::time::Instant::now();
    let mut control = loop {
        match TcpStream::connect(server) {
            Ok(stream) => break stream,
            Err(e) if begin.elapsed() > LIMIT => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    control.set_nodelay(true)?;
    let mut held = Vec::new();
    let mut asked = [0; 16 << 10];
    loop {
        let n = match control.read(&mut asked) {
            Ok(0) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
            other => other?,
        };
        match asked.first() {
            Some(b'f') if n == 1 => control.write_all(&[0; FILL])?,
            Some(b'c') if n == 1 => {
                held.clear();
                for _ in 0..WAITING {
                    held.push(TcpStream::connect(server)?);
                }
                control.write_all(&[1])?;
            }
            // What `send` is measured with.
            Some(_) | None => {}
        }
    }
}

/// The program: waits for its client, calls, and prints the CPU time of a call, ns.
///
/// # Errors
/// Whatever a call gave.
pub(crate) fn program(args: &CallsArgs) -> std::io::Result<()> {
    if args.call == Call::Raw {
        // Nothing to connect to: the client gives up at once.
        let listener = TcpListener::bind(("0.0.0.0", 0))?;
        println!("{}", listener.local_addr()?.port());
        drop(listener.accept()?);
        let raw = || {
            let _ = std::hint::black_box(rustix::process::getppid());
        };
        println!("{}", timed(args.count, raw));
        return Ok(());
    }
    let listener = TcpListener::bind(("0.0.0.0", 0))?;
    // Waits on the listener once, so that its port is a lane's when the client comes.
    listener.set_nonblocking(true)?;
    drop(listener.accept());
    println!("{}", listener.local_addr()?.port());
    let mut control = wait(|| listener.accept().map(|(stream, _)| stream))?;
    control.set_nodelay(true)?;
    control.set_nonblocking(true)?;
    let ns = match args.call {
        Call::RecvEmpty | Call::Raw => timed(args.count, || drop(control.read(&mut [0; BYTES]))),
        Call::Recv => received(&mut control, args.count)?,
        Call::Send => {
            control.set_nonblocking(false)?;
            timed(args.count, || drop(control.write(&[0; BYTES])))
        }
        Call::Epoll => one_event(&mut control, args.count)?,
        Call::Accept => accepted(&listener, &mut control, args.count)?,
    };
    println!("{ns}");
    Ok(())
}

/// CPU time of one `call`, ns.
#[inline(never)]
fn timed(count: u64, mut call: impl FnMut()) -> f64 {
    let begin = cpu_ns();
    for _ in 0..count {
        call();
    }
    (cpu_ns() - begin) / count as f64
}

fn cpu_ns() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Calls until it does not say WouldBlock.
fn wait<R>(mut call: impl FnMut() -> std::io::Result<R>) -> std::io::Result<R> {
    let begin = std::time::Instant::now();
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::WouldBlock && begin.elapsed() < LIMIT => {}
            other => return other,
        }
    }
}

/// Has the client send, and waits until all of it can be read.
fn fill(control: &mut TcpStream) -> std::io::Result<()> {
    control.write_all(b"f")?;
    let mut all = vec![0; FILL];
    wait(|| match control.peek(&mut all)? {
        FILL => Ok(()),
        _ => Err(ErrorKind::WouldBlock.into()),
    })
}

fn received(control: &mut TcpStream, count: u64) -> std::io::Result<f64> {
    let rounds = count.div_ceil((FILL / BYTES) as u64);
    let mut sum = 0.0;
    for _ in 0..rounds {
        fill(control)?;
        let mut short = false;
        sum += timed((FILL / BYTES) as u64, || {
            short |= !control.read(&mut [0; BYTES]).is_ok_and(|n| n == BYTES);
        });
        if short {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(sum / rounds as f64)
}

fn one_event(control: &mut TcpStream, count: u64) -> std::io::Result<f64> {
    fill(control)?;
    let mut poll = mio::Poll::new()?;
    let mut stream = mio::net::TcpStream::from_std(control.try_clone()?);
    let mut events = mio::Events::with_capacity(64);
    poll.registry().register(&mut stream, mio::Token(0), mio::Interest::READABLE)?;
    let mut wrong = None;
    let ns = timed(count, || {
        let told = poll
            .registry()
            .reregister(&mut stream, mio::Token(0), mio::Interest::READABLE)
            .and_then(|()| poll.poll(&mut events, Some(Duration::ZERO)));
        if let Err(e) = told {
            wrong = Some(e);
        } else if events.is_empty() {
            wrong = Some(ErrorKind::NotFound.into());
        }
    });
    wrong.map_or(Ok(ns), Err)
}

fn accepted(listener: &TcpListener, control: &mut TcpStream, count: u64) -> std::io::Result<f64> {
    let rounds = count.div_ceil(WAITING as u64);
    let mut sum = 0.0;
    for _ in 0..rounds {
        control.write_all(b"c")?;
        wait(|| control.read(&mut [0; 1]))?;
        let mut wrong = None;
        sum += timed(WAITING as u64, || {
            if let Err(e) = listener.accept() {
                wrong = Some(e);
            }
        });
        if let Some(e) = wrong {
            return Err(e);
        }
    }
    Ok(sum / rounds as f64)
}
