//! lwIP as a host: Debian's source package, compiled with `crates/sim/lwip/peer.c` into a program that has the stack and nothing else.
//! Its clock, its cable and the programs on it are ours: a request says what time it is and what happens, the answer has the frames that
//! lwIP sends for it. So a run with lwIP is a function of its seed, too. Leaves out: what is played with it ([`crate::peers`]).

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use base::{Duration, Instant};
use engine::{RecvError, SendError, SockError};
use state::{SockKind, SockRef};

use crate::stream::Calls;

/// Fetches the source package without touching the machine's own lists of packages, and unpacks it. `$1`: the name of the
/// Debian release.
const FETCH: &str = r#"set -e
mkdir -p lists/partial
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $1 main" > src.list
apt="apt-get -qq -o Dir::Etc::SourceList=$PWD/src.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$PWD/lists"
apt="$apt -o APT::Sandbox::User=root -o Acquire::http::Timeout=20"
if ! ls lwip_*.orig.tar.* >/dev/null 2>&1; then $apt update; $apt source --download-only lwip; fi
rm -rf lists src new; mkdir new; tar xf lwip_*.orig.tar.* -C new --strip-components 1
mv new src
"#;

/// Compiles the program. `$1`: what it is called, `$2`: a definition for the compiler. lwIP 2.1.3 has one line mended: it leaves the FIN on the
/// first part of a segment that it cuts to a small window, so that its streams end before their last bytes.
const COMPILE: &str = r#"set -e
rm -rf core; cp -r src/src/core core
sed -i 's/TCPH_SET_FLAG(useg->tcphdr, split_flags)/TCPH_FLAGS_SET(useg->tcphdr, split_flags)/' core/tcp_out.c
cc -O2 -w "$2" -I. -Isrc/src/include peer.c core/*.c core/ipv4/*.c core/ipv6/*.c src/src/netif/ethernet.c -o "$1.new"
mv "$1.new" "$1"
"#;

/// Files of ours that are compiled with it: name, text.
const FILES: [(&str, &str); 4] = [
    ("peer.c", include_str!("../lwip/peer.c")),
    ("lwipopts.h", include_str!("../lwip/lwipopts.h")),
    ("arch/cc.h", include_str!("../lwip/arch/cc.h")),
    ("compile.sh", COMPILE),
];

/// Seconds that fetching or compiling may take.
const PATIENCE_S: u32 = 120;

/// Which lwIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Build {
    /// As it comes: segments of 536 bytes, a window of four of them, no options.
    Small,
    /// Ethernet's segments, windows of 256 KiB that are scaled, timestamps, SACK blocks for what it receives.
    Large,
    /// The same over an MTU of 9000.
    Jumbo,
}

impl Build {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Jumbo];

    /// Largest IP packet of its device.
    #[must_use]
    pub const fn mtu(self) -> u16 {
        match self {
            Self::Small | Self::Large => 1500,
            Self::Jumbo => 9000,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Jumbo => "jumbo",
        }
    }

    const fn definition(self) -> &'static str {
        match self {
            Self::Small => "-DPEER_SMALL",
            Self::Large => "-DPEER_LARGE=1460",
            Self::Jumbo => "-DPEER_LARGE=8960",
        }
    }

    /// Its program, compiled if it is not there.
    ///
    /// # Errors
    /// Why it cannot be had on this machine.
    pub fn program(self) -> Result<PathBuf, String> {
        static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        FOLDER.get_or_init(compile_all).clone().map(|folder| folder.join(self.name()))
    }
}

/// Cargo's target folder, in which this program lies; without one, a folder for temporary files.
fn target_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

/// The folder with lwIP's sources, fetched if they are not there: `src/src` has `core`, `include` and the like.
///
/// # Errors
/// Why they cannot be had on this machine.
pub fn source() -> Result<PathBuf, String> {
    let folder = target_folder().join("lwip");
    let cannot = |e: io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(&folder).map_err(cannot)?;
    let _one_at_a_time = locked(&folder).map_err(cannot)?;
    if !folder.join("src").exists() {
        fetch(&folder)?;
    }
    Ok(folder)
}

fn locked(folder: &Path) -> io::Result<File> {
    let file = File::create(folder.join("lock"))?;
    file.lock()?;
    Ok(file)
}

fn fetch(folder: &Path) -> Result<(), String> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| release.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    if field("ID=") != "debian" {
        return Err("lwIP's source package is taken from Debian, and this is another system".to_owned());
    }
    shell(folder, FETCH, &[field("VERSION_CODENAME=")])
        .map_err(|why| format!("lwIP's sources: {why} (needs root, apt-get, a network and xz)"))
}

fn compile_all() -> Result<PathBuf, String> {
    let folder = source()?;
    let cannot = |e: io::Error| format!("{}: {e}", folder.display());
    let _one_at_a_time = locked(&folder).map_err(cannot)?;
    let changed = write_files(&folder).map_err(cannot)?;
    for build in Build::ALL {
        if changed || !folder.join(build.name()).exists() {
            shell(&folder, COMPILE, &[build.name(), build.definition()])
                .map_err(|why| format!("lwIP: {why} (needs cc)"))?;
        }
    }
    Ok(folder)
}

/// Writes our files where they differ; did they?
fn write_files(folder: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(folder.join("arch"))?;
    let mut changed = false;
    for (name, text) in FILES {
        let file = folder.join(name);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(text) {
            // Whoever is interrupted here compiles again the next time.
            for build in Build::ALL {
                let _ = std::fs::remove_file(folder.join(build.name()));
            }
            std::fs::write(file, text)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Runs a script in `folder`; what it has to say is on standard error.
fn shell(folder: &Path, script: &str, words: &[&str]) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command.args([&PATIENCE_S.to_string(), "sh", "-c", script, "sh"]).args(words);
    let status = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(e) => Err(format!("timeout: {e}")),
    }
}

/// What a request asks for; `peer.c` has the same numbers.
#[derive(Clone, Copy, Debug)]
enum What {
    Start,
    Tick,
    Frame,
    Listen,
    Connect,
    Accept,
    Recv,
    Send,
    Finish,
    Close,
    Abort,
    Left,
}

/// Results below zero.
const AGAIN: i32 = -1;
const RESET: i32 = -2;
const GIVEN_UP: i32 = -3;
const PIPE: i32 = -4;

/// A host with lwIP.
pub(crate) struct Lwip {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    now: Instant,
    /// When one of its timers is due.
    pub(crate) due: Instant,
    /// Frames it has sent.
    pub(crate) sent: Vec<Vec<u8>>,
    /// Sockets of which it has news.
    pub(crate) news: Vec<u32>,
    /// Why it no longer answers.
    pub(crate) broken: Option<String>,
}

impl Lwip {
    /// Starts `program` as host number `host`.
    pub(crate) fn start(program: &Path, host: usize, mtu: u16, seed: u64) -> Result<Self, String> {
        let cannot = |e: io::Error| format!("{}: {e}", program.display());
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to lwIP".to_owned());
        };
        let from = BufReader::with_capacity(1 << 17, from);
        let (sent, news) = (Vec::new(), Vec::new());
        let mut lwip = Self { child, to, from, now: Instant(0), due: Instant(0), sent, news, broken: None };
        lwip.ask(What::Start, host as u32, u32::from(mtu), &[seed as u8]);
        lwip.check()?;
        Ok(lwip)
    }

    /// It is `now`; what is due is done.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
        self.ask(What::Tick, 0, 0, &[]);
    }

    /// A frame has arrived.
    pub(crate) fn frame(&mut self, bytes: &[u8]) {
        self.ask(What::Frame, 0, 0, bytes);
    }

    pub(crate) fn listen(&mut self, port: u16) -> Result<(), String> {
        let (result, _) = self.ask(What::Listen, port.into(), 0, &[]);
        if result < 0 { Err(format!("lwIP does not listen: {result}")) } else { Ok(()) }
    }

    /// Begins a connection to port `to` of `host`. `None`: not now, the port is in use.
    pub(crate) fn connect(&mut self, host: usize, from: u16, to: u16, six: bool) -> Option<SockRef> {
        let ports = u32::from(from) << 16 | u32::from(to);
        let (result, _) = self.ask(What::Connect, host as u32, ports, &[six.into()]);
        u32::try_from(result).ok().map(sock)
    }

    pub(crate) fn accept(&mut self) -> Option<SockRef> {
        let (result, _) = self.ask(What::Accept, 0, 0, &[]);
        u32::try_from(result).ok().map(sock)
    }

    /// Connections that are not over, and what is to be said of them.
    pub(crate) fn left(&mut self) -> (u32, String) {
        let (count, text) = self.ask(What::Left, 0, 0, &[]);
        (u32::try_from(count).unwrap_or(0), String::from_utf8_lossy(&text).into_owned())
    }

    /// Does it still answer?
    pub(crate) fn check(&mut self) -> Result<(), String> {
        let Some(why) = self.broken.take() else { return Ok(()) };
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        Err(format!("lwIP is gone ({status}): {why}"))
    }

    /// Asks; gives the result and bytes read. Frames, news and the next timer are noted.
    fn ask(&mut self, what: What, a: u32, b: u32, bytes: &[u8]) -> (i32, Vec<u8>) {
        if self.broken.is_some() {
            return (AGAIN, Vec::new());
        }
        self.exchange(what, a, b, bytes).unwrap_or_else(|e| {
            self.broken = Some(format!("{what:?}: {e}"));
            (AGAIN, Vec::new())
        })
    }

    fn exchange(&mut self, what: What, a: u32, b: u32, bytes: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        let micros = self.now.as_micros();
        let mut request = Vec::with_capacity(24 + bytes.len());
        request.extend_from_slice(&(20 + bytes.len() as u32).to_le_bytes());
        request.extend_from_slice(&micros.to_le_bytes());
        for word in [what as u32, a, b] {
            request.extend_from_slice(&word.to_le_bytes());
        }
        request.extend_from_slice(bytes);
        self.to.write_all(&request)?;
        let mut len = [0; 4];
        self.from.read_exact(&mut len)?;
        let mut answer = vec![0; u32::from_le_bytes(len) as usize];
        self.from.read_exact(&mut answer)?;
        let mut rest = Cursor { bytes: &answer };
        let result = rest.number()? as i32;
        let wait = Duration::from_millis(rest.number()?.into());
        // lwIP counts whole milliseconds from those that are over.
        self.due = Instant(self.now.0 / 1_000_000 * 1_000_000).plus(wait);
        let (news, read) = (rest.number()?, rest.number()?);
        for _ in 0..news {
            let sock = rest.number()?;
            self.news.push(sock);
        }
        let read = rest.take(read)?.to_vec();
        while !rest.bytes.is_empty() {
            let len = rest.number()?;
            self.sent.push(rest.take(len)?.to_vec());
        }
        Ok((result, read))
    }
}

impl Drop for Lwip {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sock(number: u32) -> SockRef {
    SockRef::new(SockKind::Tcp, number, 0)
}

/// An answer that is being read.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn number(&mut self) -> io::Result<u32> {
        let (number, rest) = self.bytes.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn take(&mut self, len: u32) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes = rest;
        Ok(taken)
    }
}

impl Calls for Lwip {
    fn recv(&mut self, sock: SockRef, to: &mut [u8]) -> Result<usize, RecvError> {
        let (result, bytes) = self.ask(What::Recv, sock.row(), to.len() as u32, &[]);
        for (to, from) in to.iter_mut().zip(&bytes) {
            *to = *from;
        }
        match result {
            AGAIN => Err(RecvError::WouldBlock),
            RESET => Err(RecvError::Failed(SockError::Reset)),
            GIVEN_UP => Err(RecvError::Failed(SockError::TimedOut)),
            _ => Ok(bytes.len()),
        }
    }

    fn send(&mut self, sock: SockRef, data: &[u8], _urgent: bool) -> Result<usize, SendError> {
        let (result, _) = self.ask(What::Send, sock.row(), 0, data);
        match result {
            RESET => Err(SendError::Failed(SockError::Reset)),
            GIVEN_UP => Err(SendError::Failed(SockError::TimedOut)),
            PIPE => Err(SendError::Pipe),
            _ => usize::try_from(result).map_err(|_| SendError::WouldBlock),
        }
    }

    fn finish(&mut self, sock: SockRef) {
        self.ask(What::Finish, sock.row(), 0, &[]);
    }

    fn close(&mut self, sock: SockRef) {
        self.ask(What::Close, sock.row(), 0, &[]);
    }

    fn abort(&mut self, sock: SockRef) {
        self.ask(What::Abort, sock.row(), 0, &[]);
    }
}
