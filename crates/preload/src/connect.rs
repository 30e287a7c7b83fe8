//! `connect`: over a lane if the route leaves by one of its devices, else over the kernel, with the reason.

use std::net::{Ipv4Addr, Ipv6Addr};

use base::{Instant, IpAddress};
use control::tables::{LinkKind, Route, RouteAnswer, Tables};
use engine::{ConnectError, RouteTo};
use state::{Endpoint, Ready, SockRef};

use crate::address::{self, Named};
use crate::errno::{Errno, Outcome};
use crate::hub;
use crate::interpose::real;
use crate::object::Handle;
use crate::pool::{self, Queue, Want};
use crate::reason::Reason;
use crate::sock::{Inner, Seat, Sock, State, flag};
use crate::stream;
use crate::view::View;
use crate::wires::{self, Spread};
use crate::{ao, explain, home, keys, owner};

/// Ports tried before the keeper is asked for more.
const TRIES: usize = 8;
/// Wires tried of which each went before anything was sent by it.
const WIRES: usize = 4;

/// A way over a lane.
struct Plan {
    view: &'static View,
    local: Endpoint,
    remote: Endpoint,
    way: Way,
    /// The lane's queue of the device.
    queue: Option<Queue>,
    /// With fast open.
    fast: bool,
}

/// How packets leave the lane.
#[derive(Clone, Copy)]
enum Way {
    /// By a device.
    Device(RouteTo),
    /// By a wire to a program of this host.
    Wire(Spread),
}

/// Begins a lane's connection of `sock` to `named`, with fast open if `fast`: then [`flag::FAST_FIRST`] tells that it waits for the first
/// write. `Err(reason)`: the kernel shall connect.
pub(crate) fn over_lane(sock: &Handle<Sock>, fd: i32, named: &Named, fast: bool) -> Result<(), Reason> {
    let mut inner = sock.inner();
    if sock.state() != State::Undecided {
        return Err(inner.reason);
    }
    let outcome = (0..WIRES).find_map(|_| {
        let planned = plan(sock, &inner, fd, named);
        planned.and_then(|plan| open(&mut inner, fd, Plan { fast, ..plan })).transpose()
    });
    match outcome.unwrap_or(Err(Reason::NoRoute)) {
        Ok((seat, waits)) => {
            sock.put(flag::FAST_FIRST, waits);
            sock.seat.set(Some(seat));
            sock.become_state(State::Stream);
            sock.put(flag::DEFERRED, false);
            drop(inner);
            if sock.has(flag::SIGNALS) {
                owner::take_over(sock, seat, fd);
            }
            leave_kernel(sock, seat);
            explain::connected();
            Ok(())
        }
        Err(reason) => {
            inner.reason = reason;
            if ao::is_for_lanes_only(&inner) {
                return Err(reason);
            }
            sock.become_state(State::Kernel);
            drop(inner);
            if home::active() {
                explain::connected();
            }
            Err(reason)
        }
    }
}

/// Takes the socket out of the kernel's part of the epoll sets that watch it.
fn leave_kernel(sock: &Handle<Sock>, seat: Seat) {
    let moves = hub::moves(sock);
    for m in &moves {
        // SAFETY: EPOLL_CTL_DEL ignores the event.
        unsafe { real::epoll_ctl(m.epfd, libc::EPOLL_CTL_DEL, m.fd, core::ptr::null_mut()) };
    }
    if !moves.is_empty() {
        seat.view.subscribe(seat, sock.object());
    }
    hub::wake_all();
}

fn plan(sock: &Sock, inner: &Inner, fd: i32, named: &Named) -> Result<Plan, Reason> {
    let (mut remote, scope) = match (named, sock.has(flag::V6)) {
        (Named::V4(end), false) => (*end, 0),
        (Named::V6(end, scope), true) => (*end, *scope),
        // The kernel says EAFNOSUPPORT.
        (Named::V4(_) | Named::V6(..) | Named::Other, _) => return Err(Reason::Protocol),
    };
    remote.addr = this_host_if_any(remote.addr, sock.has(flag::V6));
    if inner.foreign_option || remote.port.0 == 0 || !remote.addr.is_unicast() {
        return Err(Reason::Option);
    }
    if sock.has(flag::V6ONLY) && remote.addr.is_v4() {
        return Err(Reason::Ipv6Only);
    }
    let bound = if sock.has(flag::BOUND) { bound_to(fd)? } else { Endpoint::default() };
    if !bound.addr.is_any() && bound.addr.is_v4() != remote.addr.is_v4() {
        return Err(Reason::Protocol);
    }
    let tables = home::reach()?;
    let from = |source| Endpoint { addr: if bound.addr.is_any() { source } else { bound.addr }, ..bound };
    match tables.route_to(remote.addr, bound.addr, scope) {
        RouteAnswer::Via(route) => by_device(&tables, remote, from(route.source), &route),
        RouteAnswer::Local(_) | RouteAnswer::LoopbackOnly => {
            // As Linux: from the loopback address to any of 127.0.0.0/8, from the address itself to any other of ours.
            let own = match loopback_like(remote.addr) {
                Some(loopback) => loopback,
                None => remote.addr,
            };
            let local = from(own);
            let inside = |end| loopback_like(end).is_some() || tables.host_addresses().contains(&end);
            if !inside(local.addr) {
                return Err(Reason::Loopback);
            }
            let view = home::lane()?;
            let spread = wires::to(view, remote, 0).ok_or(Reason::Loopback)?;
            Ok(Plan { view, local, remote, way: Way::Wire(spread), queue: None, fast: false })
        }
        RouteAnswer::Unreachable => Err(Reason::NoRoute),
        RouteAnswer::Unknown(_) => Err(Reason::RouteUnknown),
    }
}

/// As Linux: the unspecified address is this host.
fn this_host_if_any(addr: IpAddress, v6: bool) -> IpAddress {
    match addr {
        IpAddress::ANY if v6 => IpAddress::from_v6(Ipv6Addr::LOCALHOST),
        IpAddress::ANY | IpAddress::ANY_V4 => IpAddress::from_v4(Ipv4Addr::LOCALHOST),
        _ => addr,
    }
}

/// The loopback address that packets to `addr` come from, if that is one.
fn loopback_like(addr: IpAddress) -> Option<IpAddress> {
    match addr.as_v4() {
        Some(v4) => v4.is_loopback().then_some(IpAddress::from_v4(Ipv4Addr::LOCALHOST)),
        None => addr.as_v6().is_loopback().then_some(addr),
    }
}

/// Over the device that the route names; or past it, by a wire, if the neighbour is a network namespace of this host where a program with
/// a lane listens.
fn by_device(tables: &Tables, remote: Endpoint, local: Endpoint, route: &Route) -> Result<Plan, Reason> {
    let view = home::lane()?;
    let veth = || tables.link(route.ifindex).is_some_and(|link| link.kind == LinkKind::Veth);
    if route.next_hop == remote.addr
        && veth()
        && let Some(spread) = wires::to(view, remote, route.ifindex)
    {
        return Ok(Plan { view, local, remote, way: Way::Wire(spread), queue: None, fast: false });
    }
    let (port, local_mac) = view.port_of(route.ifindex).ok_or(Reason::NotOurDevice)?;
    let mac = tables.neighbour(route.ifindex, route.next_hop);
    let mtu = route.mtu.min(u32::from(u16::MAX)) as u16;
    let way = Way::Device(RouteTo { port, next_hop: route.next_hop, local_mac, mac, mtu });
    let queue = Queue::of(route.ifindex, view.id.0);
    Ok(Plan { view, local, remote, way, queue, fast: false })
}

fn bound_to(fd: i32) -> Result<Endpoint, Reason> {
    match address::of_kernel(fd) {
        Ok(Named::V4(end) | Named::V6(end, _)) if end.addr.is_wild() => {
            Ok(Endpoint { addr: IpAddress::ANY, ..end })
        }
        Ok(Named::V4(end) | Named::V6(end, _)) => Ok(end),
        Ok(Named::Other) | Err(_) => Err(Reason::Protocol),
    }
}

/// Gives the seat, and whether the SYN waits for the first write. `None`: the wire by which it was to go is gone meanwhile.
fn open(inner: &mut Inner, fd: i32, mut plan: Plan) -> Result<Option<(Seat, bool)>, Reason> {
    let begun = if plan.local.port.0 != 0 {
        home::take_port(plan.view, plan.local, Some(home::borrow(&fd)))?;
        match try_connect(&plan, inner) {
            // Leaving the lane has sent its ACKs: a connection in TIME-WAIT that owed one makes room now.
            Err(ConnectError::InUse) => try_connect(&plan, inner),
            other => other,
        }
    } else {
        connect_from_pool(&mut plan, inner)?
    };
    let (name, waits) = match begun {
        Ok(begun) => begun,
        Err(ConnectError::Invalid) if matches!(plan.way, Way::Wire(_)) => return Ok(None),
        Err(ConnectError::HostUnreachable | ConnectError::Invalid) => return Err(Reason::NoRoute),
        Err(ConnectError::NoRoom | ConnectError::InUse) => return Err(Reason::LaneFull),
    };
    (inner.local, inner.remote) = (plan.local, plan.remote);
    Ok(Some((Seat { view: plan.view, name }, waits)))
}

/// The connection's name, and whether its SYN waits for the first write; or why there is none.
type Begun = Result<(SockRef, bool), ConnectError>;

fn try_connect(plan: &Plan, inner: &Inner) -> Begun {
    let route = match plan.way {
        Way::Device(route) => route,
        Way::Wire(spread) => lane::wire_route(spread.pick(plan.local.port), plan.remote.addr),
    };
    let begun = plan.view.enter(|session| {
        session.engine(|engine| {
            let (local, remote) = (plan.local, plan.remote);
            // Beside a signature the SYN has no room for a cookie.
            if plan.fast && inner.keys.is_empty() && inner.ao.is_none() {
                return Some(engine.tcp_connect_fast(local, remote, &route, &inner.options));
            }
            let name = match engine.tcp_connect(local, remote, &route, &inner.options) {
                Ok(name) => name,
                Err(error) => return Some(Err(error)),
            };
            if keys::give_all(engine, name, inner, Some(remote.addr)) {
                return Some(Ok((name, false)));
            }
            engine.abort(name);
            Some(Err(ConnectError::NoRoom))
        })
    });
    begun.flatten().unwrap_or(Err(ConnectError::NoRoom))
}

/// Connects from one of our ports that has no connection to the same remote end, or from a new one.
fn connect_from_pool(plan: &mut Plan, inner: &Inner) -> Result<Begun, Reason> {
    let mut want = Want { addr: plan.local.addr, remote: plan.remote, queue: plan.queue };
    for tried in 0..TRIES {
        // All that fit may be in use, while others are not.
        want.queue = plan.queue.filter(|_| tried < TRIES / 2);
        let Some(port) = pool::oldest(&want) else { break };
        plan.local.port = port;
        match try_connect(plan, inner) {
            Err(ConnectError::InUse) => {}
            begun => return Ok(begun),
        }
    }
    want.queue = plan.queue;
    plan.local.port = pool::more(plan.view, &want)?;
    Ok(try_connect(plan, inner))
}

/// Waits for the connection just begun, or says that it is under way.
pub(crate) fn finish(sock: &Handle<Sock>, seat: Seat) -> Outcome<()> {
    sock.put(flag::CONNECTING, true);
    if sock.has(flag::NONBLOCK) {
        return Err(Errno(libc::EINPROGRESS));
    }
    wait(sock, seat, stream::deadline_after(sock.snd_timeout_ns()))
}

fn wait(sock: &Handle<Sock>, seat: Seat, deadline: Instant) -> Outcome<()> {
    match stream::wait_for(sock, seat, stream::WRITE, deadline) {
        Ok(ready) => settle(sock, seat, ready),
        // connect(2): EINPROGRESS when SO_SNDTIMEO runs out.
        Err(Errno(libc::EAGAIN)) => Err(Errno(libc::EINPROGRESS)),
        Err(errno) => Err(errno),
    }
}

fn settle(sock: &Handle<Sock>, seat: Seat, ready: Ready) -> Outcome<()> {
    sock.put(flag::CONNECTING, false);
    if !ready.any(Ready::ERR | Ready::HUP) {
        return Ok(());
    }
    match stream::take_error(sock, seat) {
        0 if ready.has(Ready::OUT) && !ready.has(Ready::HUP) => Ok(()),
        number => {
            // The socket may connect again.
            let inner = sock.inner();
            sock.become_state(State::Undecided);
            sock.put(flag::DEFERRED, sock.has(flag::PLACEHOLDER));
            sock.seat.set(None);
            sock.put(flag::SUBSCRIBED, false);
            drop(inner);
            seat.view.end(seat.name, sock);
            Err(Errno(if number == 0 { libc::ECONNABORTED } else { number }))
        }
    }
}

/// `connect` on a socket that is a lane's connection already.
pub(crate) fn again(sock: &Handle<Sock>, seat: Seat) -> Outcome<()> {
    if !sock.has(flag::CONNECTING) {
        return Err(Errno(libc::EISCONN));
    }
    let ready = stream::with(sock, seat, |engine| engine.ready(seat.name))?;
    if ready.any(stream::WRITE) {
        return settle(sock, seat, ready);
    }
    if sock.has(flag::NONBLOCK) {
        return Err(Errno(libc::EALREADY));
    }
    wait(sock, seat, stream::deadline_after(sock.snd_timeout_ns()))
}
