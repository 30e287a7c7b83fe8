//! Calls of a script as calls of the library, and checks of TCP_INFO.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::library::{Answer, Library};
use crate::packet::{LOCAL, PORT, REMOTE};
use crate::script::{Call, Expr, symbols};

/// The script's descriptors and the live ones.
pub type Fds = HashMap<i64, i64>;

pub fn live(fds: &Mutex<Fds>, fd: i64) -> Result<i32, String> {
    let fds = fds.lock().unwrap();
    fds.get(&fd).map(|fd| *fd as i32).ok_or_else(|| format!("the script has no descriptor {fd}"))
}

/// The connection whose TCP_INFO is looked at: the youngest descriptor.
pub fn youngest(fds: &Mutex<Fds>) -> i64 {
    fds.lock().unwrap().keys().copied().max().unwrap_or(-1)
}

fn address(ip: [u8; 4]) -> Vec<u8> {
    let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(ip);
    bytes.extend([0; 8]);
    bytes
}

fn lens(list: &Expr) -> Result<Vec<usize>, String> {
    let Expr::List(items) = list else { return Err("a list of buffers is expected".to_owned()) };
    items
        .iter()
        .map(|item| match item {
            Expr::Record(fields) => fields.last().ok_or("empty")?.1.int().map(|n| n as usize),
            _ => Err("a buffer is {..., LENGTH}".to_owned()),
        })
        .collect()
}

fn value(expr: &Expr) -> Result<Vec<u8>, String> {
    Ok(match expr {
        Expr::Text(text) => text.clone(),
        Expr::Record(_) => {
            let part = |name| expr.field(name).ok_or("field").and_then(|e| e.int().map_err(|_| "number"));
            [part("onoff")? as i32, part("linger")? as i32].iter().flat_map(|n| n.to_ne_bytes()).collect()
        }
        other => (other.int()? as i32).to_ne_bytes().to_vec(),
    })
}

/// Makes the call and compares what comes back.
pub fn run(library: &Library, fds: &Mutex<Fds>, call: &Call) -> Result<(), String> {
    let arg = |at: usize| call.args.get(at).ok_or_else(|| format!("argument {at} is missing"));
    let number = |at: usize| arg(at)?.int();
    let fd = || live(fds, number(0)?);
    let small = |at: usize| number(at).map(|n| n as i32);
    let answer = match call.name.as_str() {
        "socket" => library.socket(number(0).map_or(libc::AF_INET, |n| n as i32), small(1)?, small(2)?),
        "bind" => library.bind(fd()?, &address(LOCAL)),
        "listen" | "shutdown" => library.plain(&call.name, fd()?.into(), number(1)?, 0),
        "close" => {
            let live = fd()?;
            fds.lock().unwrap().remove(&number(0)?);
            library.plain("close", live.into(), 0, 0)
        }
        "fcntl" => library.plain("fcntl", fd()?.into(), number(1)?, number(2).unwrap_or(0)),
        "epoll_create" => library.plain("epoll_create", number(0)?, 0, 0),
        "accept" => library.accept(fd()?),
        "connect" if number(1).is_ok() => library.connect(fd()?, &[0; 16]),
        "connect" => library.connect(fd()?, &address(REMOTE)),
        "read" => library.recv(fd()?, number(2)? as usize, 0),
        "recv" | "recvfrom" => library.recv(fd()?, number(2)? as usize, small(3)?),
        "write" => library.send(fd()?, &vec![0; number(2)? as usize], 0, &[]),
        "send" => library.send(fd()?, &vec![0; number(2)? as usize], small(3)?, &[]),
        "sendto" => {
            let to = address(REMOTE);
            library.send(fd()?, &vec![0; number(2)? as usize], small(3)?, &to)
        }
        "readv" => library.readv(fd()?, &lens(arg(1)?)?),
        "writev" => library.writev(fd()?, &lens(arg(1)?)?),
        "sendmsg" | "recvmsg" => {
            let parts = lens(arg(1)?.field("msg_iov").ok_or("a message has msg_iov")?)?;
            library.message(call.name == "recvmsg", fd()?, &parts, small(2)?)
        }
        "ioctl" => library.ioctl(fd()?, number(1)? as u64),
        "getsockopt" => library.getsockopt(fd()?, small(1)?, small(2)?, number(4)? as usize),
        "setsockopt" => {
            let mut bytes = value(arg(3)?)?;
            bytes.resize(number(4)? as usize, 0);
            library.setsockopt(fd()?, small(1)?, small(2)?, &bytes)
        }
        "poll" => library.poll(&polled(fds, arg(0)?)?, small(2)?),
        "epoll_ctl" => {
            let events = arg(3)?.field("events").ok_or("events")?.int()? as u32;
            library.epoll_ctl(fd()?, small(1)?, live(fds, number(2)?)?, events, number(2)? as u64)
        }
        "epoll_wait" => library.epoll_wait(fd()?, small(2)?, small(3)?),
        "pipe" => library.pipe(),
        "splice" => {
            let to = live(fds, number(2)?)?;
            library.splice(fd()?, to, number(4)? as usize, number(5)? as u32)
        }
        other => return Err(format!("no such call: {other}")),
    };
    check_result(call, &answer)?;
    check_value(fds, call, &answer)
}

fn polled(fds: &Mutex<Fds>, rows: &Expr) -> Result<Vec<(i32, i16)>, String> {
    let Expr::List(rows) = rows else { return Err("poll takes a list".to_owned()) };
    rows.iter()
        .map(|row| {
            let fd = row.field("fd").ok_or("fd")?.int()?;
            Ok((live(fds, fd)?, row.field("events").ok_or("events")?.int()? as i16))
        })
        .collect()
}

fn check_result(call: &Call, answer: &Answer) -> Result<(), String> {
    let gives_fd = matches!(call.name.as_str(), "socket" | "accept" | "epoll_create");
    let expected = match &call.result {
        Expr::Any => return Ok(()),
        other => other.int()?,
    };
    let name = |n: i32| {
        symbols()
            .into_iter()
            .find(|(s, v)| s.starts_with('E') && !s.starts_with("EPOLL") && *v == i64::from(n))
    };
    if answer.result != expected && !(gives_fd && expected >= 0 && answer.result >= 0) {
        return Err(format!("expected {expected}, got {} {:?}", answer.result, name(answer.errno)));
    }
    match &call.errno {
        Some(errno) if symbols().get(errno.as_str()) != Some(&i64::from(answer.errno)) => {
            Err(format!("expected {errno}, got {:?}", name(answer.errno)))
        }
        _ => Ok(()),
    }
}

fn check_value(fds: &Mutex<Fds>, call: &Call, answer: &Answer) -> Result<(), String> {
    if answer.result < 0 {
        return Ok(());
    }
    let half = |at: usize| i64::from(i16::from_ne_bytes([answer.bytes[at], answer.bytes[at + 1]]));
    let word =
        |at: usize| answer.bytes[at..].first_chunk::<4>().map_or(-1, |b| i64::from(i32::from_ne_bytes(*b)));
    let same = |what: &str, expected: i64, got: i64| {
        if expected == got { Ok(()) } else { Err(format!("{what}: expected {expected:#x}, got {got:#x}")) }
    };
    match call.name.as_str() {
        "socket" | "accept" | "epoll_create" => {
            fds.lock().unwrap().insert(call.result.int()?, answer.result);
            Ok(())
        }
        "pipe" => {
            let Expr::List(ends) = &call.args[0] else { return Err("pipe takes a list".to_owned()) };
            for (n, end) in ends.iter().enumerate() {
                fds.lock().unwrap().insert(end.int()?, word(4 * n));
            }
            Ok(())
        }
        "ioctl" => same("the number", call.args[2].int()?, word(0)),
        "getsockopt" => match &call.args[3] {
            Expr::Text(text) if answer.bytes == *text => Ok(()),
            Expr::Text(_) => Err(format!("the value is {:?}", String::from_utf8_lossy(&answer.bytes))),
            other => {
                same("the length", call.args[4].int()?, answer.bytes.len() as i64)?;
                same("the value", other.int()?, word(0))
            }
        },
        "poll" => {
            let Expr::List(rows) = &call.args[0] else { return Ok(()) };
            for (n, row) in rows.iter().enumerate() {
                same("revents", row.field("revents").ok_or("revents")?.int()?, half(2 * n))?;
            }
            Ok(())
        }
        "epoll_wait" if answer.result > 0 => {
            same("events", call.args[1].field("events").ok_or("events")?.int()?, word(0))?;
            match call.args[1].field("fd") {
                Some(fd) => same("data", fd.int()?, word(4)),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Checks lines `assert tcpi_NAME OP NUMBER` against TCP_INFO of `fd`.
pub fn check(library: &Library, fd: i32, code: &str) -> Result<(), String> {
    let info = library.getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, 512).bytes;
    let word = |at: usize| info[at..].first_chunk::<4>().map_or(-1, |b| i64::from(u32::from_ne_bytes(*b)));
    let field = |name: &str| -> Result<i64, String> {
        use core::mem::offset_of;
        use libc::tcp_info as T;
        Ok(match name {
            "tcpi_state" => i64::from(info[offset_of!(T, tcpi_state)]),
            "tcpi_ca_state" => i64::from(info[offset_of!(T, tcpi_ca_state)]),
            "tcpi_backoff" => i64::from(info[offset_of!(T, tcpi_backoff)]),
            "tcpi_options" => i64::from(info[offset_of!(T, tcpi_options)]),
            "tcpi_rto" => word(offset_of!(T, tcpi_rto)),
            "tcpi_snd_mss" => word(offset_of!(T, tcpi_snd_mss)),
            "tcpi_rcv_mss" => word(offset_of!(T, tcpi_rcv_mss)),
            "tcpi_unacked" => word(offset_of!(T, tcpi_unacked)),
            "tcpi_sacked" => word(offset_of!(T, tcpi_sacked)),
            "tcpi_lost" => word(offset_of!(T, tcpi_lost)),
            "tcpi_retrans" => word(offset_of!(T, tcpi_retrans)),
            "tcpi_rtt" => word(offset_of!(T, tcpi_rtt)),
            "tcpi_snd_cwnd" => word(offset_of!(T, tcpi_snd_cwnd)),
            "tcpi_snd_ssthresh" => word(offset_of!(T, tcpi_snd_ssthresh)),
            "tcpi_total_retrans" => word(offset_of!(T, tcpi_total_retrans)),
            "tcpi_reordering" => word(offset_of!(T, tcpi_reordering)),
            "tcpi_bytes_acked" => word(offset_of!(T, tcpi_bytes_acked)),
            "tcpi_bytes_received" => word(offset_of!(T, tcpi_bytes_received)),
            "tcpi_notsent_bytes" => word(offset_of!(T, tcpi_notsent_bytes)),
            "tcpi_snd_wnd" => word(offset_of!(T, tcpi_snd_wnd)),
            other => return Err(format!("no field {other}")),
        })
    };
    for line in code.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> =
            line.split(',').next().unwrap_or("").trim_start_matches("assert ").split_whitespace().collect();
        let [name, op, number] = words.as_slice() else { return Err(format!("no assertion: `{line}`")) };
        let (got, want) = (field(name)?, number.parse::<i64>().map_err(|e| e.to_string())?);
        let holds = match *op {
            "==" => got == want,
            "<=" => got <= want,
            ">=" => got >= want,
            "<" => got < want,
            ">" => got > want,
            other => return Err(format!("unknown operator {other}")),
        };
        if !holds {
            return Err(format!("{line}: it is {got}"));
        }
    }
    Ok(())
}
