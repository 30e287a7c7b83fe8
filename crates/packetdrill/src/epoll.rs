//! Epoll sets: level-triggered, edge-triggered and one-shot interests.

use crate::errno::{Errno, Outcome};
use crate::fds::{Fds, Object};
use crate::machine::Machine;
use crate::verbs;
use crate::world::Attempt;

const ET: u32 = libc::EPOLLET as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
/// Bits that are told whether asked for or not.
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// One interest.
struct Interest {
    fd: i32,
    events: u32,
    data: u64,
    /// Edge-triggered: something happened since it was last told.
    fresh: bool,
    /// One-shot: told, and off until changed.
    off: bool,
}

/// What one epoll descriptor watches, the longest untold first.
#[derive(Default)]
pub(crate) struct EpollSet {
    interests: Vec<Interest>,
}

/// Something happened at `fd`.
pub(crate) fn note(fds: &mut Fds, fd: i32) {
    for set in fds.epolls() {
        for interest in set.interests.iter_mut().filter(|i| i.fd == fd) {
            interest.fresh = true;
        }
    }
}

/// `fd` is closed.
pub(crate) fn forget(fds: &mut Fds, fd: i32) {
    for set in fds.epolls() {
        set.interests.retain(|i| i.fd != fd);
    }
}

fn set_of(machine: &mut Machine, fd: i32) -> Outcome<&mut EpollSet> {
    match &mut machine.entry(fd)?.object {
        Object::Epoll(set) => Ok(set),
        Object::Tcp(_) | Object::Udp(_) | Object::PipeRead(_) | Object::PipeWrite(_) => {
            Err(Errno(libc::EINVAL))
        }
    }
}

/// `epoll_ctl`.
pub(crate) fn control(
    machine: &mut Machine,
    set: i32,
    op: i32,
    fd: i32,
    event: Option<(u32, u64)>,
) -> Outcome<i32> {
    machine.entry(fd)?;
    let interests = &mut set_of(machine, set)?.interests;
    let at = interests.iter().position(|i| i.fd == fd);
    let made = event.map(|(events, data)| Interest { fd, events, data, fresh: true, off: false });
    match (op, at, made) {
        (libc::EPOLL_CTL_ADD, Some(_), _) => return Err(Errno(libc::EEXIST)),
        (libc::EPOLL_CTL_ADD, None, Some(made)) => interests.push(made),
        (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None, _) => return Err(Errno(libc::ENOENT)),
        (libc::EPOLL_CTL_MOD, Some(at), Some(made)) => {
            if let Some(old) = interests.get_mut(at) {
                *old = made;
            }
        }
        (libc::EPOLL_CTL_DEL, Some(at), _) => {
            interests.remove(at);
        }
        (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, _, None) => return Err(Errno(libc::EFAULT)),
        _ => return Err(Errno(libc::EINVAL)),
    }
    Ok(0)
}

/// `epoll_wait`: up to `most` events and their data.
pub(crate) fn wait(
    machine: &mut Machine,
    set: i32,
    most: usize,
    timeout_ms: i32,
) -> Attempt<Vec<(u32, u64)>> {
    if most == 0 {
        return Attempt::Done(Err(Errno(libc::EINVAL)));
    }
    machine.gather_events();
    match collect(machine, set, most) {
        Ok(told) if told.is_empty() => match u64::try_from(timeout_ms) {
            Ok(0) => Attempt::Done(Ok(told)),
            Ok(ms) => Attempt::Wait { timeout: Some(base::Duration::from_millis(ms)), then: Ok(told) },
            Err(_) => Attempt::Wait { timeout: None, then: Ok(told) },
        },
        done => Attempt::Done(done),
    }
}

fn collect(machine: &mut Machine, set: i32, most: usize) -> Outcome<Vec<(u32, u64)>> {
    let watched: Vec<i32> = set_of(machine, set)?.interests.iter().map(|i| i.fd).collect();
    let ready: Vec<u32> = watched.iter().map(|fd| verbs::ready(machine, *fd)).collect();
    let interests = &mut set_of(machine, set)?.interests;
    let mut told = Vec::new();
    let mut later = Vec::new();
    let mut sooner = Vec::new();
    for (mut interest, ready) in interests.drain(..).zip(ready) {
        let bits = ready & (interest.events | ALWAYS);
        let due = bits != 0 && !interest.off && (interest.events & ET == 0 || interest.fresh);
        if !due || told.len() == most {
            sooner.push(interest);
            continue;
        }
        interest.fresh = false;
        interest.off = interest.events & ONESHOT != 0;
        told.push((bits, interest.data));
        later.push(interest);
    }
    sooner.append(&mut later);
    *interests = sooner;
    Ok(told)
}
