//! What a script says, once read: a list of steps with times. The language is described in `docs/scripts.md`.

use base::Duration;

use crate::packet::Family;
use crate::segment::{Pattern, Report};

/// Whose step it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    /// Both stacks.
    Both,
    /// Ours.
    Engine,
    /// Linux's.
    Linux,
}

/// One script.
#[derive(Clone, Debug)]
pub struct Script {
    /// A sentence that says what is shown.
    pub name: String,
    /// Which RFC and section decide.
    pub rfc: String,
    /// Why the two stacks may differ; needed when some step is for one of them.
    pub differs: Option<String>,
    /// The stack it does not run on, with the reason.
    pub only: Option<(For, String)>,
    /// MTU of the link, bytes.
    pub mtu: u16,
    /// Settings of net.ipv4, of [`SETTINGS`].
    pub settings: Vec<(&'static str, u32)>,
    /// The IP it is about.
    pub family: Family,
    /// The file, for messages.
    pub file: String,
    /// The steps.
    pub steps: Vec<Step>,
}

/// The settings of net.ipv4 that a script may change.
pub const SETTINGS: [&str; 4] =
    ["tcp_mtu_probing", "tcp_syncookies", "tcp_max_syn_backlog", "tcp_abort_on_overflow"];

impl Script {
    /// The setting `name` of net.ipv4, if the script has one.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<u32> {
        self.settings.iter().find(|(each, _)| *each == name).map(|(_, value)| *value)
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Step {
    /// Line in the file, from 1.
    pub line: usize,
    /// Whose step it is.
    pub whose: For,
    /// After the step before.
    pub after: Wait,
    /// What happens.
    pub action: Action,
}

/// When a step happens, counted from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Not before.
    pub from: Duration,
    /// Not after; equal to `from` when the script gave one time.
    pub to: Duration,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Action {
    /// The script's side sends a segment.
    Inject(Pattern),
    /// A router on the way sends an ICMP error.
    Report(Report),
    /// The stack must send this segment.
    Expect(Pattern),
    /// The stack must send nothing in the time of the step.
    Quiet,
    /// A call of the program, and what it must give.
    Call(Call, Answer),
}

/// A call of the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// A listener on the script's port, with this backlog.
    Listen(u32),
    /// A connection to the script's side, begun and not waited for.
    Connect,
    /// How far the connection is: done, under way, or failed.
    Connected,
    /// Takes a connection from the listener; the calls that follow are on it.
    Accept,
    /// Begins to connect with fast open, and writes so many bytes (MSG_FASTOPEN).
    SendFirst(usize),
    /// Writes so many bytes of the stream.
    Send(usize),
    /// Writes so many bytes, with MSG_MORE.
    SendMore(usize),
    /// Writes so many bytes, the last of them urgent (MSG_OOB).
    SendUrgent(usize),
    /// Reads at most so many bytes.
    Recv(usize),
    /// The same, where the read steps over the urgent byte first.
    RecvPast(usize),
    /// Reads the urgent byte (MSG_OOB), or looks at it.
    RecvUrgent {
        /// MSG_PEEK.
        peek: bool,
    },
    /// Is the urgent byte the next one (SIOCATMARK)?
    AtMark,
    /// Closes the connection.
    Close,
    /// Closes the listener.
    CloseListener,
    /// `rd`, `wr` or `rdwr`.
    Shutdown(engine::How),
    /// Sets an option of the connection, or of the listener while there is no connection.
    Set(Opt, u32),
    /// Takes SO_ERROR.
    TakeError,
    /// What poll says.
    Poll,
    /// The state, by its name in RFC 9293.
    State,
    /// Bytes that wait to be read.
    Unread,
}

/// Options a script can set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opt {
    /// TCP_NODELAY.
    NoDelay,
    /// TCP_CORK.
    Cork,
    /// SO_KEEPALIVE.
    KeepAlive,
    /// TCP_KEEPIDLE, seconds.
    KeepIdle,
    /// TCP_KEEPINTVL, seconds.
    KeepInterval,
    /// TCP_KEEPCNT.
    KeepCount,
    /// SO_LINGER with this many seconds.
    Linger,
    /// TCP_USER_TIMEOUT, ms.
    UserTimeout,
    /// SO_RCVBUF, bytes the program can have unread; Linux doubles what it is told, so it is told half.
    RcvBuf,
    /// SO_SNDBUF, likewise.
    SndBuf,
    /// IP_TTL.
    Ttl,
    /// SO_MAX_PACING_RATE, bytes a second.
    MaxPacingRate,
    /// TCP_FASTOPEN of the listener.
    FastOpen,
    /// TCP_FASTOPEN_KEY of the listener, the number in each of its four words; and 256 times another number for the
    /// key that goes out of use.
    FastOpenKey,
    /// TCP_FASTOPEN_CONNECT.
    FastOpenConnect,
    /// TCP_FASTOPEN_NO_COOKIE.
    FastOpenBare,
    /// SO_OOBINLINE.
    UrgentInline,
    /// IP_RECVERR or IPV6_RECVERR.
    RecvErr,
    /// TCP_MD5SIG for the script's side: the key of this number; 0 takes it away.
    Md5,
}

/// What a call must give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Success, whatever the number.
    Ok,
    /// This number.
    Number(usize),
    /// This word: an errno, a state, a list of poll's bits.
    Word(String),
}

impl core::fmt::Display for Answer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl Answer {
    /// Does `got` satisfy it?
    #[must_use]
    pub fn allows(&self, got: &Self) -> bool {
        match self {
            Self::Ok => !matches!(got, Self::Word(_)),
            Self::Number(_) | Self::Word(_) => self == got,
        }
    }
}
