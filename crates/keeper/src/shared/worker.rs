//! The keeper of one run: a process of its own in the caller's network namespace, until the run and its programs are gone.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use base::Duration;
use rustix::process::{WaitOptions, wait};
use sys::fds::{self, Fd};
use sys::launch::Identity;
use sys::poll::{PollFd, PollFlags, poll};
use sys::signals::SignalFd;

use super::depot::Depot;
use super::guard::Guard;
use super::letters::{self, Heard, Letter, Plea};
use crate::error::StartError;
use crate::session::{Session, Terms};
use crate::settings::{DeviceSpec, HugePages, PortChoice, RegionSizes, Spin};

/// Time between two attempts to find a service, when there is none.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the service's order.
const ORDER_WAIT: Duration = Duration::from_secs(10);

/// What the service ordered.
struct Order {
    plea: Plea,
    guard: Guard,
    pid: u32,
    lenient: bool,
    socket: PathBuf,
    verbose: bool,
    /// `corelane run`.
    caller: Fd,
    net: Fd,
}

/// The hidden sub-command that the service starts: its connection to the service is standard input.
#[must_use]
pub fn keep_run() -> ExitCode {
    let service = match fds::duplicate(&std::io::stdin()) {
        Ok(service) => service,
        Err(errno) => {
            eprintln!("corelane: keeper of a run: {errno}");
            return ExitCode::FAILURE;
        }
    };
    let Some(order) = receive(&service) else {
        eprintln!("corelane: keeper of a run: this command is for the shared keeper only");
        return ExitCode::FAILURE;
    };
    match open(&order) {
        Ok((session, signals)) => keep(session, &signals, order, service),
        Err(error) => {
            eprintln!("corelane: keeper of a run of user {}: {error}", order.guard.uid());
            // A caller that is gone needs no answer.
            let _ = letters::send(&order.caller, &Letter::refused(&error), &[]);
            ExitCode::FAILURE
        }
    }
}

fn receive(service: &Fd) -> Option<Order> {
    let mut polled = [PollFd::from_borrowed_fd(service.as_fd(), PollFlags::IN)];
    poll(&mut polled, Some(ORDER_WAIT)).ok()?;
    let Heard::Letter(letter, with) = letters::receive(service) else { return None };
    let Letter::Start { plea, guard, pid, lenient, socket, verbose } = *letter else { return None };
    let [caller, net] = <[Fd; 2]>::try_from(with).ok()?;
    Some(Order { plea, guard, pid, lenient, socket: PathBuf::from(socket), verbose, caller, net })
}

/// Enters the caller's namespace, opens the session there, and tells the caller.
fn open(order: &Order) -> Result<(Session, SignalFd), StartError> {
    let signals = SignalFd::open(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD])
        .map_err(|e| StartError::new("signal handling", e, ""))?;
    sys::namespace::enter_net(&order.net).map_err(|e| {
        StartError::new("the caller's network namespace", e, "the keeper needs CAP_SYS_ADMIN")
    })?;
    sys::process::raise_open_files();
    let session = Session::open(&terms(order)?)?;
    let welcome = Letter::Welcome {
        name: session.name().to_owned(),
        token: session.token_text(),
        rule: order.guard.rule.clone(),
        keeper_pid: sys::process::pid(),
    };
    letters::send(&order.caller, &welcome, &[])
        .map_err(|e| StartError::new("answering the caller", e, ""))?;
    Ok((session, signals))
}

fn terms(order: &Order) -> Result<Terms, StartError> {
    let Order { plea, guard, .. } = order;
    let wrong = |what: &str, why: String| StartError::new(what.to_owned(), why, "");
    let mut devices = Vec::new();
    let present = if order.lenient { crate::mirror::links()? } else { Vec::new() };
    for text in &plea.devices {
        let spec = DeviceSpec::parse(text).map_err(|why| wrong(&format!("device `{text}`"), why))?;
        if !order.lenient || text == "lo" || present.iter().any(|link| link.name() == spec.name()) {
            devices.push(spec);
        }
    }
    if order.lenient && devices.is_empty() {
        let why = format!("none of {} is in the caller's network namespace", plea.devices.join(", "));
        return Err(StartError::new("devices", why, "add the device to `devices` of the policy's rule"));
    }
    let unknown = |what: &str, text: &str| wrong(what, format!("`{text}` is unknown"));
    let huge_pages =
        HugePages::parse(&plea.huge_pages).ok_or_else(|| unknown("huge_pages", &plea.huge_pages))?;
    let sizes = RegionSizes { sockets: plea.sockets, frames: plea.frames, huge_pages };
    sizes.check().map_err(|why| wrong("the size of a region", why))?;
    let (uid, gid) = plea.identity.unwrap_or((guard.uid(), guard.gid()));
    Ok(Terms {
        devices,
        port: PortChoice::parse(&plea.port).ok_or_else(|| unknown("kind of port", &plea.port))?,
        sizes,
        spin: Spin::parse(&plea.spin).ok_or_else(|| unknown("spin_us", &plea.spin))?,
        verbose: order.verbose,
        identity: (uid != 0).then(|| Identity { uid, gid, groups: vec![gid] }),
        family: order.pid,
        about: format!("shared, by rule {}", guard.rule),
        guard: Some(guard.clone()),
    })
}

fn keep(mut session: Session, signals: &SignalFd, order: Order, service: Fd) -> ExitCode {
    let (mut has_caller, mut service) = (true, Some(Depot::new(service)));
    while has_caller || session.is_busy() {
        // One that does not take what it is given is lost, too, and told everything when it is back.
        service = service.and_then(|service| service.keep(&session));
        let caller = has_caller.then_some(&order.caller);
        let links: Vec<BorrowedFd<'_>> =
            caller.into_iter().map(AsFd::as_fd).chain(service.iter().map(Depot::poll_fd)).collect();
        let limit = service.is_none().then_some(LOOK);
        if let Err(error) = session.wait(signals.as_fd(), &links, limit) {
            eprintln!("corelane: keeper of a run: poll: {error}");
            return ExitCode::FAILURE;
        }
        while let Ok(Some(arrived)) = signals.next() {
            if arrived.signal == libc::SIGTERM {
                return ExitCode::SUCCESS;
            }
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            session.child_ended(pid, status);
        }
        has_caller = has_caller && !matches!(letters::receive(&order.caller), Heard::End);
        service = service.filter(|service| !service.is_gone());
        if service.is_none() {
            service = report(&order).map(Depot::new);
        }
        session.serve();
    }
    session.take_leave();
    ExitCode::SUCCESS
}

/// Tells a service that came after the one that started us whose run this is.
fn report(order: &Order) -> Option<Fd> {
    let link = fds::connect_path(&order.socket.to_string_lossy()).ok()?;
    let here = Letter::Here { uid: order.guard.uid(), pid: sys::process::pid() };
    letters::send(&link, &here, &[order.caller.as_fd()]).ok()?;
    Some(link)
}
