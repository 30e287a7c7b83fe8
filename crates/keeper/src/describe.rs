//! What the keeper tells `corelane explain`, and how it is asked.

use std::fmt::Write;

use base::limits::KEEPER_MESSAGE_BYTES;
use control::proto::{self, MessageBuffer, Reply, Request};
use sys::fds;

use crate::session::Session;

/// Longest description that is fetched, bytes.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

impl Session {
    /// Everything, as text: devices, then each process with its lanes, ports and what it said about its sockets.
    pub(crate) fn describe(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for device in self.devices.list() {
            let _ = writeln!(out, "device {}", device.describe());
        }
        let _ = writeln!(out, "rules {}", self.rules.len());
        for (id, client) in &self.clients {
            let _ = writeln!(out, "process {}", client.pid);
            for (region, home) in &self.regions {
                for (lane, handle) in home.lanes.iter().filter(|(_, l)| l.owner == *id) {
                    let _ = writeln!(out, "lane {} of region {}", lane.0, region.0);
                    for end in self.rules.ends_of(handle.slot) {
                        let proto = match end.proto() {
                            Some(proto::Proto::Tcp) => "tcp",
                            Some(proto::Proto::Udp) => "udp",
                            None => "?",
                        };
                        let addr = end.addr();
                        let addr = if addr.is_any() { "*".to_owned() } else { addr.to_string() };
                        let _ = writeln!(out, "port {proto} {addr}:{}", end.port().0);
                    }
                }
            }
            for line in client.reasons.lines() {
                let _ = writeln!(out, "socket {line}");
            }
        }
        out
    }
}

/// Why a keeper could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// The process is not under `corelane run`: its environment names no keeper.
    NotWrapped,
    /// Its environment cannot be read: what the kernel said.
    Unreadable(String),
    /// The keeper does not answer: what failed.
    NoAnswer(String),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotWrapped => f.write_str("it was not started by `corelane run`"),
            Self::Unreadable(why) => write!(f, "its environment cannot be read: {why}"),
            Self::NoAnswer(why) => write!(f, "its keeper does not answer: {why}"),
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the keeper of process `pid` for its description (see [`Session::describe`] for the lines).
///
/// # Errors
/// [`AskError`].
pub fn ask_keeper_of(pid: u32) -> Result<String, AskError> {
    let environ =
        std::fs::read(format!("/proc/{pid}/environ")).map_err(|e| AskError::Unreadable(e.to_string()))?;
    let value = |name: &str| {
        let wanted = format!("{name}=");
        environ
            .split(|&b| b == 0)
            .find_map(|entry| Some(std::str::from_utf8(entry).ok()?.strip_prefix(&wanted)?.to_owned()))
    };
    let (Some(name), Some(token)) = (value("CORELANE_KEEPER"), value("CORELANE_TOKEN")) else {
        return Err(AskError::NotWrapped);
    };
    let token = token_of(&token).ok_or(AskError::NotWrapped)?;
    ask(&name, token).map_err(AskError::NoAnswer)
}

fn token_of(hex: &str) -> Option<[u8; 16]> {
    (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)).flatten()
}

fn ask(name: &str, token: [u8; 16]) -> Result<String, String> {
    let socket = fds::connect_abstract(name.as_bytes()).map_err(|e| e.to_string())?;
    let exchange = |request: &Request<'_>, buffer: &mut MessageBuffer| -> Result<usize, String> {
        let mut out = [0; KEEPER_MESSAGE_BYTES];
        let len = request.encode(&mut out).map_err(|e| format!("{e:?}"))?;
        fds::send(&socket, out.get(..len).unwrap_or(&[]), &[]).map_err(|e| e.to_string())?;
        fds::recv(&socket, buffer).map(|got| got.bytes).map_err(|e| e.to_string())
    };
    let mut buffer = [0; KEEPER_MESSAGE_BYTES];
    let hello = Request::Hello { version: proto::VERSION, pid: sys::process::pid(), token };
    let mut text = String::new();
    let mut request = hello;
    loop {
        let len = exchange(&request, &mut buffer)?;
        match Reply::decode(buffer.get(..len).unwrap_or(&[])) {
            Ok(Reply::Welcome { .. }) => {}
            Ok(Reply::Description { text: piece, more }) => {
                text.push_str(piece);
                if more == 0 || piece.is_empty() || text.len() > DESCRIPTION_BYTES_MAX {
                    return Ok(text);
                }
            }
            Ok(Reply::Error { text, .. }) => return Err(text.to_owned()),
            Ok(_) | Err(_) => return Err("an unexpected reply".to_owned()),
        }
        request = Request::Describe { offset: u32::try_from(text.len()).unwrap_or(u32::MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::token_of;

    #[test]
    fn a_token_is_32_hex_digits() {
        assert_eq!(token_of("000102030405060708090a0b0c0d0e0f"), Some(std::array::from_fn(|i| i as u8)));
        assert_eq!(token_of("00"), None);
        assert_eq!(token_of("zz0102030405060708090a0b0c0d0e0f"), None);
    }
}
