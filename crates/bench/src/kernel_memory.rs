//! What an open connection takes of Linux's memory: growth of its slabs (socket, inode, dentry, file and what hangs on them) while many connections
//! are opened over loopback, both ends in this process. Each is proven alive by an exchange before anything is read.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::place::{Side, World};
use crate::rows::{Job, Outcome, Sample, Trouble};

/// Connections at most: there are two descriptors for each.
const CONNECTIONS_MAX: u64 = 100_000;
/// With fewer, what else happens in the kernel shows.
const CONNECTIONS_MIN: u64 = 1_000;
/// Descriptors besides.
const SPARE: u64 = 256;
/// Connections to one port of the server's: fewer than a namespace has local ports.
const OF_PORT: u64 = 50_000;
/// Bytes each way.
const MESSAGE: usize = 64;
const PAGE: f64 = 4096.0;

/// One run. For [`crate::rows::Row::stack`].
pub(crate) fn run(job: &Job) -> Outcome {
    let connections = job.count.min(CONNECTIONS_MAX).min(within_limit());
    if connections < CONNECTIONS_MIN {
        return Err(Trouble::Skipped(format!("{connections} connections are too few: ulimit -n")));
    }
    let world = World::one_host(None)?;
    let measured = world.on(Side::Server, move || measure(connections));
    let (slabs, buffers) =
        measured.map_err(|e| Trouble::failed("connections over loopback", e))?.ok_or_else(|| {
            Trouble::Skipped(
                "/proc/slabinfo cannot be read: it is root's, and not on every kernel".to_owned(),
            )
        })?;
    let ends = 2.0 * connections as f64;
    Ok(Sample::of(slabs / ends).with("connections", connections as f64).with("buffers_bytes", buffers / ends))
}

/// Raises the limit of open files as far as it goes; gives the connections that there are descriptors for.
fn within_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // With fewer there are fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(SPARE) / 2)
}

/// Bytes that slabs and socket buffers grew by, while so many connections were opened.
fn measure(connections: u64) -> std::io::Result<Option<(f64, f64)>> {
    let ports = connections.div_ceil(OF_PORT);
    let listeners: Vec<TcpListener> =
        (0..ports).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
    let mut ends = Vec::with_capacity(connections as usize);
    let before = (slab_bytes(), buffer_bytes());
    let first = connections.div_ceil(ports);
    for listener in &listeners {
        let at = listener.local_addr()?;
        for _ in 0..first.min(connections - ends.len() as u64) {
            let near = TcpStream::connect(at)?;
            ends.push((near, listener.accept()?.0));
        }
    }
    let mut got = [0; MESSAGE];
    for (near, far) in &mut ends {
        for (from, to) in [(&*near, &*far), (&*far, &*near)] {
            let (mut from, mut to) = (from, to);
            from.write_all(&[7; MESSAGE])?;
            to.read_exact(&mut got)?;
        }
    }
    let after = (slab_bytes(), buffer_bytes());
    Ok(match (before.0, after.0) {
        (Some(was), Some(is)) => Some((is - was, after.1 - before.1)),
        _ => None,
    })
}

/// Memory in all slabs, bytes (slabinfo(5)).
fn slab_bytes() -> Option<f64> {
    Some(pages_of(&std::fs::read_to_string("/proc/slabinfo").ok()?) as f64 * PAGE)
}

/// Pages of all slabs: `name active all size objperslab pagesperslab : tunables ... : slabdata active num shared`.
fn pages_of(slabinfo: &str) -> u64 {
    let pages = |line: &str| -> Option<u64> {
        let each: u64 = line.split_whitespace().nth(5)?.parse().ok()?;
        let slabs: u64 = line.split(": slabdata").nth(1)?.split_whitespace().nth(1)?.parse().ok()?;
        Some(each * slabs)
    };
    slabinfo.lines().filter_map(pages).sum()
}

/// Memory that TCP has for buffers, bytes: `TCP: inuse N orphan N tw N alloc N mem PAGES`.
fn buffer_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * PAGE
}

#[cfg(test)]
mod tests {
    #[test]
    fn pages_of_slabs_are_added_up() {
        let text = "slabinfo - version: 2.1\n\
            # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit>\n\
            TCP     20  26 2432 13 8 : tunables 0 0 0 : slabdata 2 3 0\n\
            filp   400 512  256 16 1 : tunables 0 0 0 : slabdata 32 32 0\n";
        assert_eq!(super::pages_of(text), 3 * 8 + 32);
    }
}
