//! The keeper from outside: exit statuses, what a program of the family may ask, and what is left when somebody dies.
//!
//! The tests with devices need root; without it they say so and are skipped.
#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where its world cannot be made")]

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, LaneId, Port};
use control::proto::{
    self, DeviceKind, FlowEnds, FlowList, Proto, RegionWish, Reply, Request, Rule, SHAPE_WORDS, Stopped,
};
use sys::fds::{self, Fd};

const ADDRESS: &str = "10.78.0.1";

/// Any library does: what is wrapped here uses no network.
fn harmless_library() -> &'static str {
    let places = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    places.into_iter().find(|p| std::path::Path::new(p).exists()).expect("a library to preload")
}

fn corelane<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(args).env("CORELANE_PRELOAD", harmless_library()).stdin(Stdio::null());
    command
}

fn output<S: AsRef<OsStr>>(args: &[S]) -> Output {
    corelane(args).output().expect("corelane starts")
}

/// A veth pair in a namespace of this test's thread: `kp0`, with an address, and `kp1`. False: not possible here.
fn in_own_namespace() -> bool {
    if !rustix::process::geteuid().is_root() || sys::namespace::enter_new_net().is_err() {
        eprintln!("skipped: needs root and network namespaces");
        return false;
    }
    for words in [
        "link set lo up",
        "link add kp0 type veth peer name kp1",
        "addr add 10.78.0.1/24 dev kp0",
        "link set kp0 up",
        "link set kp1 up",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {words}");
    }
    true
}

fn wait_for<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("waited in vain for {what}")
}

/// `corelane run` around a sleeping program, and a connection to its keeper.
struct Family {
    keeper: Child,
    name: String,
    token: [u8; 16],
}

impl Family {
    fn start(args: &[&str]) -> Self {
        let mut all = vec!["run"];
        all.extend(args);
        all.extend(["--", "sleep", "600"]);
        let keeper = corelane(&all).spawn().expect("corelane starts");
        let mut family = Self { keeper, name: String::new(), token: [0; 16] };
        let environ = wait_for("the command", || {
            let pid = child_of(family.keeper.id())?;
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let complete = environ.windows(15).any(|w| w == b"CORELANE_TOKEN=");
            (comm.trim() == "sleep" && complete).then_some(environ)
        });
        let value = |name: &str| {
            let text = String::from_utf8_lossy(&environ);
            let entry = text.split('\0').find_map(|e| e.strip_prefix(name)).expect("in the environment");
            entry.to_owned()
        };
        family.token = u128::from_str_radix(&value("CORELANE_TOKEN="), 16).expect("hex").to_be_bytes();
        family.name = value("CORELANE_KEEPER=");
        family
    }

    fn connect(&self) -> Member {
        let member = Member(fds::connect_abstract(self.name.as_bytes()).expect("the keeper listens"));
        let hello = Request::Hello { version: proto::VERSION, pid: 0, token: self.token };
        member.ask(&hello, &[], |reply, fds| match reply {
            Reply::Welcome { .. } => assert_eq!(fds.len(), 1),
            other => panic!("{other:?}"),
        });
        member
    }

    fn command_pid(&self) -> u32 {
        child_of(self.keeper.id()).expect("the command runs")
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(pid) = child_of(self.keeper.id()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The first child of a process that is no steward.
fn child_of(parent: u32) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').nth(1).and_then(|p| p.parse().ok()));
        after.flatten() == Some(parent)
    })
    .find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        !line.windows(9).any(|w| w == b"__steward")
    })
}

struct Member(Fd);

impl Member {
    fn ask<R>(&self, request: &Request<'_>, with: &[&Fd], f: impl FnOnce(Reply<'_>, Vec<Fd>) -> R) -> R {
        let mut out = [0; KEEPER_MESSAGE_BYTES];
        let len = request.encode(&mut out).expect("fits");
        let with: Vec<_> = with.iter().map(|fd| fd.as_fd()).collect();
        fds::send(&self.0, &out[..len], &with).expect("sent");
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        let got = fds::recv(&self.0, &mut buffer).expect("an answer");
        f(Reply::decode(&buffer[..got.bytes]).expect("a reply"), got.fds)
    }

    /// The errno of a refusal; 0: done.
    fn errno(&self, request: &Request<'_>, with: &[&Fd]) -> i32 {
        self.ask(request, with, |reply, _| match reply {
            Reply::Error { errno, text } => {
                assert!(!text.is_empty());
                i32::from(errno)
            }
            Reply::Done | Reply::Port { .. } => 0,
            other => panic!("{other:?}"),
        })
    }

    fn region(&self) -> u32 {
        let lane = state::LaneShape::for_socks(64);
        let words = [
            lane.socks,
            lane.listeners,
            lane.udp_socks,
            lane.hops,
            lane.reassemblies,
            lane.boards,
            lane.stock_high,
        ];
        let mut shape = [0; SHAPE_WORDS];
        shape[..words.len()].copy_from_slice(&words);
        let wish = RegionWish { lanes: 2, frames: 512, hugepages: false, shape };
        self.ask(&Request::NewRegion(wish), &[], |reply, fds| match reply {
            Reply::Region { id } => {
                assert_eq!(fds.len(), 1);
                id
            }
            other => panic!("{other:?}"),
        })
    }

    fn lane(&self, region: u32) -> LaneId {
        self.ask(&Request::NewLane { region }, &[], |reply, fds| match reply {
            Reply::Lane { lane, devices } => {
                assert_eq!(devices.as_slice().len(), 1);
                assert_eq!(devices.as_slice()[0].kind, DeviceKind::Packet);
                assert_eq!(fds.len(), 1);
                lane
            }
            other => panic!("{other:?}"),
        })
    }
}

fn rule(region: u32, lane: LaneId, port: u16) -> Rule {
    let addr = IpAddress::from_v4(ADDRESS.parse().expect("an address"));
    Rule { region, lane, proto: Proto::Tcp, addr, port: Port(port) }
}

fn bound_socket() -> (Fd, u16) {
    let listener = TcpListener::bind((ADDRESS, 0)).expect("bind");
    let port = listener.local_addr().expect("name").port();
    (Fd::from(OwnedFd::from(listener)), port)
}

/// Numbers of the BPF links that a process holds.
fn links_of(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("fdinfo").flatten();
    let texts = entries.filter_map(|e| std::fs::read_to_string(e.path()).ok());
    texts
        .filter_map(|t| Some(t.lines().find_map(|l| l.strip_prefix("link_id:"))?.trim().to_owned()))
        .collect()
}

/// Does the kernel still have this link?
fn link_exists(id: &str) -> bool {
    let output = Command::new("bpftool").args(["link", "show", "id", id]).output();
    output.expect("bpftool, which `cargo xtask test` installs").status.success()
}

#[test]
fn the_exit_status_is_the_commands() {
    if !in_own_namespace() {
        return;
    }
    for (script, status) in [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 143), ("kill -9 $$", 137)] {
        let output = output(&["run", "-d", "kp0", "--", "sh", "-c", script]);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_command_that_cannot_run_gives_the_shells_status_and_says_why() {
    if !in_own_namespace() {
        return;
    }
    for (command, status, word) in
        [("no-such-command", 127, "not found"), ("/etc/passwd", 126, "not an executable file")]
    {
        let output = output(&["run", "-d", "kp0", "--", command]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(word) && said.contains(command), "{said}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named_with_those_that_are() {
    if !in_own_namespace() {
        return;
    }
    let output = output(&["run", "-d", "kp9", "--", "true"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("`kp9`: no such interface") && said.contains("kp0"), "{said}");
}

#[test]
fn without_privileges_the_missing_one_is_named() {
    if !in_own_namespace() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg(env!("CARGO_BIN_EXE_corelane")).args(["run", "-d", "kp0", "--", "true"]);
    command.env("CORELANE_PRELOAD", harmless_library());
    // Where the build lies in a folder that only root may enter, the program cannot even start as somebody else.
    let Ok(output) = command.output() else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(125) {
        assert!(said.contains("run as root"), "{said}");
    }
}

#[test]
fn a_user_without_rights_runs_the_command_without_capabilities() {
    if !in_own_namespace() {
        return;
    }
    let script =
        "id -u; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; ls /proc/self/fd | wc -l";
    let output = output(&["run", "-d", "kp0", "--user", "nobody", "--", "sh", "-c", script]);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<&str> = out.split_whitespace().collect();
    // What the test itself hands down is there without corelane, too.
    let direct = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().expect("sh runs");
    let direct = String::from_utf8_lossy(&direct.stdout).into_owned();
    let descriptors = direct.split_whitespace().last().unwrap_or_default();
    assert_eq!(words, ["65534", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", descriptors]);
}

#[test]
fn a_stranger_without_the_token_gets_nothing() {
    if !in_own_namespace() {
        return;
    }
    let family = Family::start(&["-d", "kp0"]);
    let stranger = Member(fds::connect_abstract(family.name.as_bytes()).expect("the keeper listens"));
    let hello = Request::Hello { version: proto::VERSION, pid: 0, token: [0; 16] };
    assert_eq!(stranger.errno(&hello, &[]), libc::EACCES);
    assert_eq!(fds::recv(&stranger.0, &mut [0; 16]).map(|got| got.bytes), Ok(0));
    let silent = Member(fds::connect_abstract(family.name.as_bytes()).expect("the keeper listens"));
    let mut out = [0; KEEPER_MESSAGE_BYTES];
    let len = Request::NewLane { region: 1 }.encode(&mut out).expect("fits");
    fds::send(&silent.0, &out[..len], &[]).expect("sent");
    assert_eq!(fds::recv(&silent.0, &mut [0; 16]).map(|got| got.bytes), Ok(0));
}

#[test]
fn ports_are_given_for_the_sockets_that_are_bound_to_them() {
    if !in_own_namespace() {
        return;
    }
    let family = Family::start(&["-d", "kp0"]);
    let member = family.connect();
    let region = member.region();
    let lane = member.lane(region);
    let (socket, port) = bound_socket();
    let (other, _) = bound_socket();
    let right = rule(region, lane, port);
    assert_eq!(member.errno(&Request::Listen(right), &[&other]), libc::EACCES);
    assert_eq!(member.errno(&Request::Listen(right), &[]), libc::EBADF);
    let elsewhere = Rule { lane: LaneId(1), ..right };
    assert_eq!(member.errno(&Request::Listen(elsewhere), &[&socket]), libc::EACCES);
    assert_eq!(member.errno(&Request::Listen(right), &[&socket]), 0);
    let unlisten = Request::Unlisten { rule: right, inode: 0 };
    assert_eq!(member.errno(&unlisten, &[]), 0);
    assert_eq!(member.errno(&unlisten, &[]), libc::ENOENT);

    let taken = member.ask(&Request::TakePort(rule(region, lane, 0)), &[], |reply, _| match reply {
        Reply::Port { port } => port.0,
        other => panic!("{other:?}"),
    });
    assert!(TcpListener::bind((ADDRESS, taken)).is_err());
    assert_eq!(member.errno(&Request::GivePort(rule(region, lane, taken)), &[]), 0);
    assert!(TcpListener::bind((ADDRESS, taken)).is_ok());
    assert_eq!(member.errno(&Request::TakePort(rule(region, lane, 80)), &[]), libc::EACCES);
    let block = member.ask(&Request::TakePorts(rule(region, lane, 0)), &[], |reply, _| match reply {
        Reply::Ports { first, count } => first.0..first.0 + count,
        other => panic!("{other:?}"),
    });
    assert!(block.len() >= 16 && block.clone().all(|port| TcpListener::bind((ADDRESS, port)).is_err()));
    // Another process of the family has no say over this lane.
    let sibling = family.connect();
    assert_eq!(sibling.errno(&Request::TakePort(rule(region, lane, 0)), &[]), libc::EACCES);
    assert_eq!(sibling.lane(region), LaneId(1));
}

#[test]
fn a_process_that_goes_away_gives_its_lane_and_ports_back() {
    if !in_own_namespace() {
        return;
    }
    let family = Family::start(&["-d", "kp0"]);
    let stays = family.connect();
    let region = stays.region();
    let goes = family.connect();
    let lane = goes.lane(region);
    let (socket, port) = bound_socket();
    assert_eq!(goes.errno(&Request::Listen(rule(region, lane, port)), &[&socket]), 0);
    drop((goes, socket));
    // The keeper's copy of the socket goes with the lane, which the steward reports done at once.
    wait_for("the port to be free", || TcpListener::bind((ADDRESS, port)).ok());
    wait_for("the lane to be given again", || {
        stays.ask(&Request::NewLane { region }, &[], |reply, _| match reply {
            Reply::Lane { lane: given, .. } if given == lane => Some(()),
            Reply::Lane { .. } | Reply::Error { .. } => None,
            other => panic!("{other:?}"),
        })
    });
}

#[test]
fn nothing_is_left_of_a_keeper_that_was_killed() {
    if !in_own_namespace() {
        return;
    }
    let mut family = Family::start(&["-d", "kp0"]);
    let member = family.connect();
    let region = member.region();
    member.lane(region);
    let links = links_of(family.keeper.id());
    assert_eq!(links.len(), 1);
    let command = family.command_pid();
    family.keeper.kill().expect("killed");
    family.keeper.wait().expect("reaped");
    drop(member);
    wait_for("the program to be detached", || (!links.iter().any(|id| link_exists(id))).then_some(()));
    // The command itself goes on.
    assert!(std::path::Path::new(&format!("/proc/{command}")).exists());
    let _ = Command::new("kill").args(["-9", &command.to_string()]).status();
}

#[test]
fn nothing_is_left_when_the_command_is_killed() {
    if !in_own_namespace() {
        return;
    }
    let mut family = Family::start(&["-d", "kp0"]);
    let links = links_of(family.keeper.id());
    let command = family.command_pid();
    let status = Command::new("kill").args(["-9", &command.to_string()]).status().expect("kill runs");
    assert!(status.success());
    let status = wait_for("corelane to end", || family.keeper.try_wait().expect("waited"));
    assert_eq!(status.code(), Some(137));
    assert!(!links.iter().any(|id| link_exists(id)));
}

#[test]
fn a_signal_to_corelane_reaches_the_command() {
    if !in_own_namespace() {
        return;
    }
    let mut family = Family::start(&["-d", "kp0"]);
    let pid = family.keeper.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let status = wait_for("corelane to end", || family.keeper.try_wait().expect("waited"));
    assert_eq!(status.code(), Some(143));
}

#[test]
fn corelane_stays_while_a_process_of_the_family_is_connected() {
    if !in_own_namespace() {
        return;
    }
    let mut family = Family::start(&["-d", "kp0"]);
    // A process of the family (this one) stays connected after the command has ended.
    let member = family.connect();
    let command = family.command_pid().to_string();
    assert!(Command::new("kill").args(["-9", &command]).status().expect("kill runs").success());
    member.region();
    assert!(family.keeper.try_wait().expect("waited").is_none());
    drop(member);
    let status = wait_for("corelane to end", || family.keeper.try_wait().expect("waited"));
    assert_eq!(status.code(), Some(137));
}

#[test]
fn the_kernel_takes_over_connections_of_the_regions_lanes_only() {
    if !in_own_namespace() {
        return;
    }
    let family = Family::start(&["-d", "kp0"]);
    let member = family.connect();
    let region = member.region();
    let lane = member.lane(region);
    let (listener, port) = bound_socket();
    assert_eq!(member.errno(&Request::Listen(rule(region, lane, port)), &[&listener]), 0);
    let remote = IpAddress::from_v4("10.78.0.9".parse().expect("an address"));
    let stopped = Stopped { remote, remote_port: Port(7), rcv_wnd: 1000, mss: 1000, ..Stopped::default() };
    let wish = |region, port, stopped| Request::Entrust { rule: rule(region, lane, port), stopped };
    const ACCESS: i32 = 13;
    assert_eq!(member.errno(&wish(region, port ^ 1, stopped), &[]), ACCESS, "a port of somebody else");
    assert_eq!(member.errno(&wish(region + 1, port, stopped), &[]), ACCESS, "a region that is not there");
    const NO_BUFFERS: i32 = 105;
    let much = Stopped { unread_bytes: u32::MAX, ..stopped };
    assert_eq!(member.errno(&wish(region, port, much), &[]), NO_BUFFERS);
    const NO_DATA: i32 = 61;
    let missing = Stopped { unread_bytes: 10, ..stopped };
    assert_eq!(member.errno(&wish(region, port, missing), &[]), NO_DATA, "its bytes are not there");
    member.ask(&wish(region, port, stopped), &[], |reply, fds| {
        assert_eq!(reply, Reply::Connection);
        let name = rustix::net::getpeername(&fds[0]).expect("a socket").expect("connected");
        let name = std::net::SocketAddr::try_from(name).expect("an address").to_string();
        assert_eq!(name, "10.78.0.9:7");
        // While the kernel has it, no lane gets its segments; another one it may have.
        const EXISTS: i32 = 17;
        let rule = rule(region, lane, port);
        let ends = FlowEnds { local: rule.addr, local_port: rule.port, remote, remote_port: Port(7) };
        let fetch = |remote_port| {
            let flows = FlowList::of(&[FlowEnds { remote_port, ..ends }]);
            member.errno(&Request::Fetch { rule, flows }, &[])
        };
        assert_eq!(fetch(Port(7)), EXISTS);
        assert_eq!(fetch(Port(8)), 0);
    });
}
