//! What the keeper tells `corelane explain`, and how it is asked.

use std::fmt::Write;

use base::IpAddress;
use base::limits::KEEPER_MESSAGE_BYTES;
use control::proto::{self, MessageBuffer, Reply, Request};
use sys::fds::{self, Fd};

use crate::session::{NAME_PREFIX, Session};

/// Longest description that is fetched, bytes.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

impl Session {
    /// Everything, as text: which keeper it is, devices, then each process with its lanes, ports and what it said about its sockets.
    pub(crate) fn describe(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "keeper {}", self.about());
        for device in self.devices.list() {
            let _ = writeln!(out, "device {}", device.describe());
        }
        let _ = writeln!(out, "rules {}", self.rules.len());
        for (id, client) in &self.clients {
            let _ = writeln!(out, "process {}", client.pid);
            for (region, home) in &self.regions {
                for (lane, handle) in home.lanes.iter().filter(|(_, l)| l.owner == *id) {
                    let _ = writeln!(out, "lane {} of region {}{}", lane.0, region.0, home.memory.pages);
                    for wire in self.wires.of((*region, *lane)) {
                        let _ = writeln!(out, "wire to process {}", wire.end.peer_pid);
                    }
                    for end in self.rules.ends_of(handle.slot) {
                        let proto = match end.proto() {
                            Some(proto::Proto::Tcp) => "tcp",
                            Some(proto::Proto::Udp) => "udp",
                            None => "?",
                        };
                        let addr = end.addr();
                        let addr = match addr {
                            IpAddress::ANY => "*".to_owned(),
                            IpAddress::ANY_V6 => "[::]".to_owned(),
                            addr => addr.to_string(),
                        };
                        let kind = if self.rules.has_strangers(end) { "shared" } else { "port" };
                        let _ = writeln!(out, "{kind} {proto} {addr}:{}", end.port().0);
                    }
                }
            }
            for line in &client.refusals {
                let _ = writeln!(out, "socket refused by the shared keeper: {line}");
            }
            for line in client.reasons.lines() {
                let _ = writeln!(out, "socket {line}");
            }
        }
        out
    }
}

/// Why a keeper could not be asked.
#[derive(Debug)]
pub enum AskError {
    /// No keeper knows the process.
    NotWrapped,
    /// Its network namespace cannot be read: what the kernel said.
    Unreadable(String),
    /// The keeper does not answer: what failed.
    NoAnswer(String),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotWrapped => f.write_str("no keeper knows it"),
            Self::Unreadable(why) => write!(f, "it cannot be looked at: {why}"),
            Self::NoAnswer(why) => write!(f, "its keeper does not answer: {why}"),
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the keeper of process `pid` for its description (see [`Session::describe`] for the lines). A program may overwrite its
/// environment (nginx does, for its title), so the keeper is found by what the keepers of the process's network
/// namespace say; they tell it to root and to their own user.
///
/// # Errors
/// [`AskError`].
pub fn ask_keeper_of(pid: u32) -> Result<String, AskError> {
    // A thread of its own, because it moves into the process's network namespace.
    let asking = std::thread::spawn(move || ask_from_inside(pid));
    asking.join().unwrap_or_else(|_| Err(AskError::NoAnswer("the asking thread ended early".to_owned())))
}

fn ask_from_inside(pid: u32) -> Result<String, AskError> {
    let unreadable = |e: std::io::Error| AskError::Unreadable(e.to_string());
    let theirs = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(unreadable)?;
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).map_err(unreadable)?;
    // Refused without CAP_SYS_ADMIN; in the same namespace there is no need to move.
    let _ = sys::namespace::enter_net(&theirs);
    let mut failure = AskError::NotWrapped;
    for name in keeper_names(&sockets) {
        match ask(name) {
            Ok(text) if names_process(&text, pid) => return Ok(text),
            Ok(_) => {}
            Err(why) => failure = AskError::NoAnswer(why),
        }
    }
    Err(failure)
}

/// The listening sockets of keepers in a text like /proc/net/unix: the name is the last word, `@` for its leading zero.
fn keeper_names(sockets: &str) -> Vec<&str> {
    let mut names: Vec<&str> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@'))
        .filter(|name| name.starts_with(NAME_PREFIX))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Does the description tell of process `pid`?
fn names_process(text: &str, pid: u32) -> bool {
    text.lines().any(|line| line.strip_prefix("process ").is_some_and(|rest| rest.parse() == Ok(pid)))
}

fn ask(name: &str) -> Result<String, String> {
    let socket = fds::connect_abstract(name.as_bytes()).map_err(|e| e.to_string())?;
    let mut buffer = [0; KEEPER_MESSAGE_BYTES];
    let mut text = String::new();
    loop {
        let request = Request::Describe { offset: u32::try_from(text.len()).unwrap_or(u32::MAX) };
        let len = exchange(&socket, &request, &mut buffer)?;
        match Reply::decode(buffer.get(..len).unwrap_or(&[])) {
            Ok(Reply::Description { text: piece, more }) => {
                text.push_str(piece);
                if more == 0 || piece.is_empty() || text.len() > DESCRIPTION_BYTES_MAX {
                    return Ok(text);
                }
            }
            Ok(Reply::Error { text, .. }) => return Err(text.to_owned()),
            Ok(_) | Err(_) => return Err("an unexpected reply".to_owned()),
        }
    }
}

fn exchange(socket: &Fd, request: &Request<'_>, buffer: &mut MessageBuffer) -> Result<usize, String> {
    let mut out = [0; KEEPER_MESSAGE_BYTES];
    let len = request.encode(&mut out).map_err(|e| format!("{e:?}"))?;
    fds::send(socket, out.get(..len).unwrap_or(&[]), &[]).map_err(|e| e.to_string())?;
    fds::recv(socket, buffer).map(|got| got.bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::{keeper_names, names_process};

    #[test]
    fn keepers_are_found_among_the_unix_sockets() {
        let sockets = "Num RefCount Protocol Flags Type St Inode Path\n\
            0: 2 0 00010000 0005 01 17 @corelane-0a\n0: 2 0 0 5 3 18 @corelane-0a\n0: 2 0 0 1 1 19 @other\n0: 3 0 0 1 3 20\n";
        assert_eq!(keeper_names(sockets), ["corelane-0a"]);
    }

    #[test]
    fn a_description_names_its_processes() {
        assert!(names_process("device x\nprocess 12\nlane 0 of region 1\n", 12));
        assert!(!names_process("process 120\nlane 12 of region 1\n", 12));
    }
}
