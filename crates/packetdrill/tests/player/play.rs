//! Plays a script as packetdrill does: same waiting, same thread for calls that block, same comparisons.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::calls;
use crate::library::Library;
use crate::packet::{self, Flow, LOCAL, PORT, Seen};
use crate::script::{Call, Event, Opt, Packet, What, When, parse};

/// packetdrill's: us, and per cent of the time since the last event.
const TOLERANCE_US: i64 = 4000;
const TOLERANCE_PER_CENT: f64 = 12.5;
/// packetdrill sleeps until so long before an event, us, and then looks at the clock all the time.
const SPIN_US: i64 = 20;

/// What blocks in the second thread: the call, when it must return, and when the event before was.
type Job = (Event, Call, i64, i64);

/// One script being played.
pub struct Player {
    library: Arc<Library>,
    start: i64,
    flow: Flow,
    events_done: usize,
    last_event: i64,
    fds: Arc<Mutex<calls::Fds>>,
    jobs: Sender<Job>,
    done: Receiver<Result<(), String>>,
    running: bool,
}

/// Plays the script at `path` on the library at `library`.
pub fn play(library: &Path, path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (events, flags) = parse(&text)?;
    let library = Arc::new(Library::load(library, &flags)?);
    let (jobs, work) = channel::<Job>();
    let (tell, done) = channel();
    let start = library.now_us() + 250;
    let fds = Arc::new(Mutex::new(calls::Fds::default()));
    let (other, table) = (Arc::clone(&library), Arc::clone(&fds));
    let thread = std::thread::spawn(move || {
        while let Ok((event, call, end, last)) = work.recv() {
            let result = calls::run(&other, &table, &call).and_then(|()| {
                let now = other.now_us() - start;
                check_time(When::At(end), now, last, "return")
            });
            let _ = tell.send(result.map_err(|why| format!("line {}: {}: {why}", event.line, call.name)));
        }
    });
    let flow = Flow { local: LOCAL, local_port: PORT, remote_port: 40_000, ..Flow::default() };
    let mut player =
        Player { library, start, flow, events_done: 0, last_event: 0, fds, jobs, done, running: false };
    let mut result = Ok(());
    for event in &events {
        result = player.event(event).map_err(|why| format!("line {}: {why}", event.line));
        if result.is_err() {
            break;
        }
    }
    let last = player.finish();
    drop(player);
    if result.is_ok() {
        // A failed script may leave a call blocked for ever; the process ends with it.
        let _ = thread.join();
    }
    result.and(last)
}

/// Is `now` the moment `when`, with packetdrill's tolerance?
fn check_time(when: When, now: i64, last: i64, what: &str) -> Result<(), String> {
    let (from, to) = match when {
        When::Any => return Ok(()),
        When::At(at) | When::After(at) => (at, at),
        When::Between(from, to) | When::AfterBetween(from, to) => (from, to),
    };
    let slack = TOLERANCE_US.max(((from - last) as f64 * TOLERANCE_PER_CENT / 100.0) as i64);
    if now < from - slack || now > to + slack {
        let s = |us: i64| us as f64 / 1e6;
        return Err(format!("{what} at {:.6}, expected at {:.6}..{:.6}", s(now), s(from), s(to)));
    }
    Ok(())
}

impl Player {
    fn now(&self) -> i64 {
        self.library.now_us() - self.start
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let base = match event.when {
            When::After(_) | When::AfterBetween(..) | When::Any => self.now(),
            When::At(_) | When::Between(..) => 0,
        };
        let when = match event.when {
            When::After(us) => When::At(base + us),
            When::AfterBetween(from, to) => When::Between(base + from, base + to),
            other => other,
        };
        let at = match when {
            When::At(at) | When::Between(at, _) => at,
            When::Any | When::After(_) | When::AfterBetween(..) => base,
        };
        let relative = base != 0 && matches!(event.when, When::After(_));
        match &event.what {
            What::Nothing => {}
            What::Packet(p) if p.inbound => {
                self.wait(at, when)?;
                self.inject(p)?;
            }
            What::Packet(p) => self.expect(p, when)?,
            What::Call(call) => match event.until {
                Some(until) => {
                    self.idle()?;
                    self.wait(at, when)?;
                    let end = if relative { until + base } else { until };
                    self.running = true;
                    let _ = self.jobs.send((event.clone(), call.clone(), end, at));
                    self.until_asleep();
                }
                None => {
                    self.idle()?;
                    self.wait(at, when)?;
                    calls::run(&self.library, &self.fds, call).map_err(|e| format!("{}: {e}", call.name))?;
                }
            },
            What::Check(code) => {
                self.wait(at, When::Any)?;
                let fd = calls::live(&self.fds, calls::youngest(&self.fds))?;
                calls::check(&self.library, fd, code)?;
            }
        }
        self.events_done += 1;
        self.last_event = at;
        Ok(())
    }

    /// As packetdrill waits for an event.
    fn wait(&self, at: i64, when: When) -> Result<(), String> {
        loop {
            let left = at - self.now();
            if left <= 0 {
                break;
            }
            if self.events_done > 0 && left > SPIN_US {
                self.library.usleep((left - SPIN_US) as u32);
            }
        }
        if self.events_done > 0 {
            check_time(when, self.now(), self.last_event, "it happens")
        } else {
            Ok(())
        }
    }

    /// Lets the second thread's call block or end, as packetdrill does by looking whether it sleeps.
    fn until_asleep(&mut self) {
        let asleep = || {
            let me = std::process::id();
            std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().all(|task| {
                let path = task.path().join("stat");
                task.file_name().to_string_lossy() == me.to_string()
                    || std::fs::read_to_string(path).is_ok_and(|s| s.contains(") S "))
            })
        };
        loop {
            std::thread::yield_now();
            if asleep() || !self.running {
                return;
            }
        }
    }

    /// Waits, a second at most, for the call that blocks.
    fn idle(&mut self) -> Result<(), String> {
        if !self.running {
            return Ok(());
        }
        self.running = false;
        match self.done.recv_timeout(std::time::Duration::from_secs(1)) {
            Ok(result) => result,
            Err(_) => Err("a call is still blocked".to_owned()),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let result = self.idle();
        if let Some((seq, ack, _)) = self.flow.last_in {
            let reset = Packet {
                inbound: true,
                flags: 4 | 16,
                seq,
                len: 0,
                ack: Some(ack.wrapping_sub(self.flow.offset)),
                win: None,
                urg: 0,
                options: Some(Vec::new()),
                ecn: None,
                icmp: None,
            };
            let reset = packet::build(&reset, &mut self.flow)?;
            self.library.inject(&reset);
        }
        self.jobs = channel().0;
        result
    }

    fn inject(&mut self, p: &Packet) -> Result<(), String> {
        if p.flags & 2 != 0 && p.flags & 16 == 0 && p.icmp.is_none() && !self.flow.known {
            self.flow.local_port = PORT;
        }
        // Another SYN is answered with another initial number, or with the same.
        if p.flags & 2 != 0 && p.flags & 16 == 0 && self.flow.local_port == PORT {
            self.flow.known = false;
        }
        let bytes = packet::build(p, &mut self.flow)?;
        if self.library.inject(&bytes) == 0 { Ok(()) } else { Err("netdev_send failed".to_owned()) }
    }

    /// The next segment of the stack's.
    fn sniff(&self) -> Result<Seen, String> {
        loop {
            let (bytes, time) = self.library.sniff()?;
            if bytes.is_empty() {
                return Err("no packet came".to_owned());
            }
            if let Some(seen) = packet::read(&bytes, time)? {
                return Ok(seen);
            }
        }
    }

    fn expect(&mut self, p: &Packet, when: When) -> Result<(), String> {
        let mut seen = self.sniff()?;
        // The next connection of the program.
        let another = p.flags & 16 == 0 && seen.ports.0 != self.flow.local_port;
        if p.flags & 2 != 0 && (!self.flow.known || another) {
            self.flow.offset = seen.seq.wrapping_sub(p.seq);
            self.flow.local = seen.from;
            self.flow.local_port = seen.ports.0;
            self.flow.remote_port = seen.ports.1;
            self.flow.known = true;
        }
        // Neighbours that make up the expected one.
        while seen.len < p.len {
            let next = self.sniff()?;
            if next.seq != seen.seq.wrapping_add(seen.len) || next.len == 0 {
                return Err(format!("expected {} bytes, got {} and then {next:?}", p.len, seen.len));
            }
            seen = Seen { seq: seen.seq, len: seen.len + next.len, ..next };
        }
        self.compare(p, &seen)?;
        check_time(when, seen.time - self.start, self.last_event, "the segment")
    }

    fn compare(&mut self, p: &Packet, seen: &Seen) -> Result<(), String> {
        let seq = seen.seq.wrapping_sub(self.flow.offset);
        let fail = |what: &str| Err(format!("{what} is wrong: expected {p:?}, got seq {seq} {seen:?}"));
        if seen.flags != p.flags {
            return fail("a flag");
        }
        if seq != p.seq || seen.len != p.len {
            return fail("the range");
        }
        if seen.flags & 16 != 0 && p.ack != Some(seen.ack) {
            return fail("the acknowledgement");
        }
        if p.win.is_some_and(|win| win != seen.win) {
            return fail("the window");
        }
        if p.urg != seen.urg {
            return fail("the urgent pointer");
        }
        if p.ecn.is_some_and(|ecn| ecn != seen.ecn) {
            return fail("the ECN field");
        }
        let Some(expected) = &p.options else { return Ok(()) };
        let same = expected.len() == seen.options.len()
            && expected.iter().zip(&seen.options).all(|(want, got)| match (want, got) {
                (Opt::Timestamps(script, _), Opt::Timestamps(live, _)) => {
                    self.flow.stamps.push((*script, *live));
                    true
                }
                (want, got) => want == got,
            });
        if same { Ok(()) } else { fail("an option") }
    }
}
