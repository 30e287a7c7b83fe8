//! What `corelane run`, the service and the keepers of runs say to one another: one JSON text a message, over a SEQPACKET socket.
//!
//! JSON, because the three may be of different versions: fields that one does not know are passed over, those that are missing have defaults.

use std::os::fd::{AsFd, BorrowedFd};

use control::proto;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::fds::{self, Fd};

use super::guard::Guard;
use crate::error::StartError;
use crate::settings::HugePages;

/// Longest letter, bytes.
const LETTER_BYTES_MAX: usize = 32 * 1024;

/// What has to agree between library and keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// For people.
    pub(super) release: String,
    /// `control::proto::VERSION`.
    pub(super) protocol: u32,
    /// `state::LAYOUT_VERSION`.
    pub(super) layout: u32,
}

impl Versions {
    pub(super) fn ours() -> Self {
        Self {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: u32::from(proto::VERSION),
            layout: state::LAYOUT_VERSION,
        }
    }

    /// Can the two work together? Else why not.
    pub(super) fn check(&self, keeper: &Self) -> Result<(), String> {
        if (self.protocol, self.layout) == (keeper.protocol, keeper.layout) {
            return Ok(());
        }
        let say = |v: &Self| format!("{} (protocol {}, layout {})", v.release, v.protocol, v.layout);
        Err(format!("the program's corelane is {}, the keeper's is {}", say(self), say(keeper)))
    }
}

/// A run as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plea {
    pub(super) versions: Versions,
    /// As `--device` has them; empty: every usable one.
    #[serde(default)]
    pub(super) devices: Vec<String>,
    pub(super) port: String,
    pub(super) sockets: u32,
    pub(super) frames: u32,
    /// Missing: on ordinary pages.
    #[serde(default = "off")]
    pub(super) huge_pages: String,
    pub(super) spin: String,
    /// The user under whom the command will run, when root asks.
    #[serde(default)]
    pub(super) identity: Option<(u32, u32)>,
}

fn off() -> String {
    HugePages::Off.to_string()
}

/// One letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "letter", rename_all = "kebab-case")]
pub(super) enum Letter {
    /// `corelane run` asks.
    Run(Plea),
    /// The run's keeper serves it.
    Welcome { name: String, token: String, rule: String, keeper_pid: u32 },
    /// It is not served.
    Refused { what: String, why: String, fix: String },
    /// The service starts a run's keeper, with two fds: the caller's connection, and the caller's network namespace.
    Start { plea: Plea, guard: Guard, pid: u32, lenient: bool, socket: String, verbose: bool },
    /// A run's keeper says to a service that came after it whose it is. With the caller's connection.
    Here { uid: u32, pid: u32 },
    /// The service is to hold these fds until it is told otherwise, or the run is over.
    Keep { key: String },
    /// No more.
    Forget { key: String },
    /// The run's keeper is gone; `kept`: what it had on lanes goes on without it.
    Lost { kept: bool },
}

impl Letter {
    pub(super) fn refused(error: &StartError) -> Self {
        Self::Refused { what: error.what.clone(), why: error.why.clone(), fix: error.fix.clone() }
    }
}

/// Sends one letter.
pub(super) fn send(socket: &Fd, letter: &Letter, with: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let text = serde_json::to_vec(letter).map_err(|_| Errno::INVAL)?;
    if text.len() > LETTER_BYTES_MAX {
        return Err(Errno::MSGSIZE);
    }
    fds::send(&socket.as_fd(), &text, with)
}

/// What came.
pub(super) enum Heard {
    Letter(Box<Letter>, Vec<Fd>),
    /// Not a letter that this version knows.
    Strange,
    /// Nothing yet.
    Nothing,
    /// The other end is closed.
    End,
}

/// The next letter, without waiting.
pub(super) fn receive(socket: &Fd) -> Heard {
    let mut buffer = vec![0; LETTER_BYTES_MAX];
    match fds::recv_now(socket, &mut buffer) {
        Err(Errno::AGAIN) => Heard::Nothing,
        Ok(got) if got.bytes > 0 && !got.truncated => {
            let letter = serde_json::from_slice(buffer.get(..got.bytes).unwrap_or(&[]));
            letter.map_or(Heard::Strange, |letter| Heard::Letter(Box::new(letter), got.fds))
        }
        Ok(got) if got.bytes > 0 => Heard::Strange,
        Ok(_) | Err(_) => Heard::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_with_fields_of_a_later_version_is_understood() {
        let text = r#"{"letter":"refused","what":"a","why":"b","fix":"c","since":"tomorrow"}"#;
        let refused = Letter::Refused { what: "a".into(), why: "b".into(), fix: "c".into() };
        assert_eq!(serde_json::from_str::<Letter>(text).ok(), Some(refused));
    }

    #[test]
    fn other_protocols_and_layouts_are_named() {
        let ours = Versions::ours();
        assert_eq!(ours.check(&ours), Ok(()));
        let release = Versions { release: "9.9".into(), ..ours.clone() };
        assert_eq!(release.check(&ours), Ok(()));
        let layout = Versions { layout: ours.layout + 1, ..release };
        let why = layout.check(&ours).expect_err("another layout");
        assert!(why.contains("9.9") && why.contains(&format!("layout {}", ours.layout + 1)), "{why}");
        assert!(Versions { protocol: 0, ..ours.clone() }.check(&ours).is_err());
    }
}
