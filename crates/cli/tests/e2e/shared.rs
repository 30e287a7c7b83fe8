//! The shared keeper: a service outside, runs of unprivileged users in namespaces, its death and return, policies and versions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::sockets::script;
use crate::world::{DEVICE, OURS, Process, Side, World, program, send_signal, wait_until};

/// Users without a name and without any right.
const USER: u32 = 54_321;
const OTHER: u32 = 54_322;

/// A shared keeper for a world: it runs outside the world's namespaces.
struct Shared {
    corelane: PathBuf,
    socket: PathBuf,
    policy: PathBuf,
}

impl Shared {
    /// Everything but the service: copies that anybody may execute, and the policy.
    fn prepare(world: &World, policy: &str) -> Self {
        let bin = world.dir.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for name in ["corelane", "libcorelane_preload.so"] {
            fs::copy(program().with_file_name(name), bin.join(name)).expect("a copy");
        }
        for open in [&world.dir, &bin] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        let shared = Self {
            corelane: bin.join("corelane"),
            socket: world.dir.join("run/keeper.sock"),
            policy: world.dir.join("keeper.toml"),
        };
        fs::write(&shared.policy, policy).expect("a policy");
        shared
    }

    fn line(&self) -> Vec<String> {
        let words = [
            self.corelane.as_path(),
            Path::new("keeper"),
            Path::new("--verbose"),
            Path::new("--socket"),
            &self.socket,
            Path::new("--policy"),
            &self.policy,
        ];
        words.map(|word| word.display().to_string()).to_vec()
    }

    /// Starts the service; `before` goes in front of its command line.
    fn start(&self, world: &World, name: &str, before: &[&str]) -> Process {
        let mut line: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        line.extend(self.line());
        let (first, rest) = line.split_first().expect("a program");
        let mut command = Command::new(first);
        command.args(rest).stdin(Stdio::null());
        let mut service = world.spawn_command(name, command);
        wait_until("the service listens", 20, || {
            service.assert_running();
            service.output().contains("listens at")
        });
        service
    }

    /// `corelane run` of `user` around `words`, with `more` flags.
    fn run(&self, user: u32, more: &[&str], words: &[&str]) -> Vec<String> {
        let mut line = as_user(user);
        line.push(self.corelane.display().to_string());
        line.extend(["run", "--verbose", "--device", DEVICE].map(str::to_owned));
        line.extend(["--keeper".to_owned(), self.socket.display().to_string()]);
        line.extend(more.iter().chain(&["--"]).chain(words).map(|word| (*word).to_owned()));
        line
    }
}

fn as_user(user: u32) -> Vec<String> {
    ["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]
        .to_vec()
}

fn allow(user: u32, more: &str) -> String {
    format!("[[allow]]\nname = 'test'\nusers = [{user}]\ndevices = ['{DEVICE}']\n{more}\n")
}

/// The first process whose parent is `parent` and whose name is `name`.
fn child(world: &World, parent: u32, name: &str) -> u32 {
    let found = world.check(Side::Ours, 5, &["pgrep", "-P", &parent.to_string(), name]);
    found.split_whitespace().next().expect("a process").parse().expect("a number")
}

fn serve(world: &World, shared: &Shared, name: &str, port: &str) -> Process {
    let words = ["python3", &script("steady.py"), "serve", port];
    let mut server = world.spawn(Side::Ours, name, &shared.run(USER, &[], &words));
    wait_until("the server listens", 20, || {
        server.assert_running();
        server.output().contains("ready")
    });
    server
}

/// Talks with the server at `port` until `stop` is written; the next million bytes are known by [`Process::output`].
fn talk(world: &World, name: &str, port: &str) -> (Process, PathBuf) {
    let stop = world.dir.join(format!("stop-{name}"));
    let stop_text = stop.display().to_string();
    let talk =
        world.spawn(Side::Peer, name, &["python3", &script("steady.py"), "talk", OURS, port, &stop_text]);
    (talk, stop)
}

/// Waits until the talk has gone on for a further million bytes.
fn goes_on(talk: &mut Process) {
    let lines = |talk: &Process| talk.output().lines().count();
    let before = lines(talk);
    wait_until("the transfer goes on", 60, || {
        talk.assert_running();
        lines(talk) > before + 1
    });
}

fn finish_talk(mut talk: Process, stop: &Path) {
    fs::write(stop, "").expect("a file");
    assert!(talk.wait(60).success());
    let said = talk.output();
    assert!(said.lines().last().is_some_and(|l| l.starts_with("end") && l.ends_with("True")), "{said}");
}

fn explain(world: &World, shared: &Shared, pid: u32) -> String {
    let mut line = as_user(USER);
    line.extend([shared.corelane.display().to_string(), "explain".into(), pid.to_string()]);
    world.check(Side::Ours, 10, &line)
}

#[test]
fn a_user_without_privileges_runs_on_the_shared_keeper() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let service = shared.start(&world, "service", &[]);
    let mut server = serve(&world, &shared, "server", "9002");
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    assert!(server.output().contains("keeper shared, process "), "{}", server.output());
    let said = explain(&world, &shared, child(&world, server.id(), "python3"));
    assert!(
        said.contains("shared, by rule `test`") && said.contains("tcp 0.0.0.0:9002  accelerated"),
        "{said}"
    );
    finish_talk(client, &stop);
    // The keeper of the run is outside with its service, works inside, and goes with the run.
    server.signal(Signal::TERM);
    server.wait(30);
    world.assert_clean();
    drop(service);
}

#[test]
fn a_transfer_goes_on_through_the_death_and_return_of_the_shared_keeper() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let shared = Shared::prepare(&world, &allow(USER, "runs = 2"));
    let mut service = shared.start(&world, "service", &[]);
    let first = serve(&world, &shared, "first", "9002");
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    service.signal(Signal::KILL);
    service.wait(20);
    goes_on(&mut client);
    let (mut later, later_stop) = talk(&world, "later", "9002");
    goes_on(&mut later);
    let said = explain(&world, &shared, child(&world, first.id(), "python3"));
    assert!(said.contains("tcp 0.0.0.0:9002  accelerated"), "{said}");
    let service = shared.start(&world, "again", &[]);
    // The new service hears of the run that it did not start.
    wait_until("the run is known", 20, || service.output().contains("keeps a run of user 54321"));
    let second = serve(&world, &shared, "second", "9003");
    let (mut new, new_stop) = talk(&world, "new", "9003");
    goes_on(&mut new);
    goes_on(&mut client);
    let third = world.run(Side::Ours, 20, &shared.run(USER, &[], &["true"]));
    let text = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(text.contains("no further run") && text.contains("raise `runs`"), "{text}");
    for (talk, stop) in [(client, stop), (later, later_stop), (new, new_stop)] {
        finish_talk(talk, &stop);
    }
    drop((first, second, service));
    world.assert_clean();
}

#[test]
fn a_transfer_goes_on_when_the_keeper_of_the_run_is_killed() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep", "ss"]) else { return };
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let mut service = shared.start(&world, "service", &[]);
    let mut server = serve(&world, &shared, "server", "9002");
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    // A service that came later holds what lanes need, too.
    service.signal(Signal::KILL);
    service.wait(20);
    let service = shared.start(&world, "again", &[]);
    wait_until("the run is known", 20, || service.output().contains("keeps a run of user 54321"));
    goes_on(&mut client);
    let said = server.output();
    let keeper = said.split("keeper shared, process ").nth(1).and_then(|rest| rest.split(',').next());
    send_signal(keeper.expect("named").parse().expect("a number"), Signal::KILL);
    wait_until("the run is told", 20, || server.output().contains("lanes go on as they are"));
    goes_on(&mut client);
    // New connections come to the lane, too, and new runs have keepers of their own.
    let (mut later, later_stop) = talk(&world, "later", "9002");
    goes_on(&mut later);
    let of_the_kernel = world.check(Side::Ours, 5, &["ss", "-Htn", "state", "established", "sport = :9002"]);
    assert_eq!(of_the_kernel.trim(), "");
    let second = serve(&world, &shared, "second", "9003");
    let (mut new, new_stop) = talk(&world, "new", "9003");
    goes_on(&mut new);
    goes_on(&mut client);
    for (talk, stop) in [(client, stop), (later, later_stop), (new, new_stop)] {
        finish_talk(talk, &stop);
    }
    // With the run its steering ends, although nobody but the service has it.
    server.signal(Signal::TERM);
    server.wait(30);
    drop(second);
    world.assert_clean();
    let words = ["python3", &script("steady.py"), "serve", "9002"];
    let plain = world.spawn(Side::Ours, "plain", &words);
    wait_until("the kernel's server listens", 20, || plain.output().contains("ready"));
    let (mut client, stop) = talk(&world, "last", "9002");
    goes_on(&mut client);
    finish_talk(client, &stop);
    drop(plain);
    drop(service);
}

#[test]
fn what_the_policy_does_not_allow_is_refused_with_reason_and_remedy() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let policy = allow(USER, "ports = ['9000-9002']\nmemory = '2GiB'\nlanes = 2");
    let shared = Shared::prepare(&world, &policy);
    let service = shared.start(&world, "service", &[]);
    let refused = |line: &[String], parts: &[&str]| {
        let output = world.run(Side::Ours, 20, line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
    };
    refused(&shared.run(OTHER, &[], &["true"]), &["no rule of", "54322", "[[allow]]", "reload"]);
    refused(&shared.run(USER, &["--device", "lo7"], &["true"]), &["`lo7` is not among", "lane0"]);
    let tap = format!("tap:{DEVICE}=10.9.0.2/24");
    refused(&shared.run(USER, &["--device", &tap], &["true"]), &["is not among"]);
    // A port that is not allowed stays with the kernel, and explain says so.
    let mut server = serve(&world, &shared, "server", "9003");
    let (mut client, stop) = talk(&world, "client", "9003");
    goes_on(&mut client);
    let said = explain(&world, &shared, child(&world, server.id(), "python3"));
    assert!(said.contains("port 9003 is not among the allowed ones (rule `test`"), "{said}");
    finish_talk(client, &stop);
    server.signal(Signal::TERM);
    server.wait(30);
    // A region beyond the limit: the program says it and goes on on the kernel.
    let words = ["python3", &script("steady.py"), "serve", "9002"];
    let mut server = world.spawn(Side::Ours, "large", &shared.run(USER, &["--frames", "1000000"], &words));
    wait_until("the server listens", 20, || server.output().contains("ready"));
    let (mut client, stop) = talk(&world, "second", "9002");
    goes_on(&mut client);
    assert!(server.output().contains("the policy's `memory` leaves"), "{}", server.output());
    finish_talk(client, &stop);
    server.signal(Signal::TERM);
    server.wait(30);
    drop(service);
    world.assert_clean();
}

#[test]
fn without_a_shared_keeper_or_with_a_refusal_the_private_one_is_used_and_said() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    // Root is not in the policy.
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let socket = shared.socket.display().to_string();
    let port = "9002";
    let words = [
        "env",
        &format!("CORELANE_KEEPER_SOCKET={socket}"),
        &shared.corelane.display().to_string(),
        "run",
        "--verbose",
        "--device",
        DEVICE,
        "--",
        "python3",
        &script("steady.py"),
        "serve",
        port,
    ]
    .map(str::to_owned);
    let try_one = |name: &str, because: &str| {
        let mut server = world.spawn(Side::Ours, name, &words);
        wait_until("the server listens", 20, || server.output().contains("ready"));
        let (mut client, stop) = talk(&world, &format!("{name}-client"), port);
        goes_on(&mut client);
        let pid = child(&world, server.id(), "python3").to_string();
        let said = world.check(Side::Ours, 10, &[words[2].as_str(), "explain", &pid]);
        assert!(said.contains("keeper    private") && said.contains(because), "{said}");
        assert!(server.output().contains(because), "{}", server.output());
        finish_talk(client, &stop);
        server.signal(Signal::TERM);
        server.wait(30);
    };
    try_one("absent", "nothing listens at");
    let service = shared.start(&world, "service", &[]);
    try_one("refused", "no rule of");
    drop(service);
    // Who may use neither is told of both.
    let mut line = as_user(USER);
    line.extend(words);
    let output = world.run(Side::Ours, 20, &line);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(125) && text.contains("CAP_NET_ADMIN"), "{text}");
    world.assert_clean();
}

#[test]
fn a_keeper_of_another_version_is_not_used_and_that_is_said() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let service = shared.start(&world, "service", &[]);
    // What a corelane of another layout would say.
    let script = format!(
        "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect('{}')\n\
         s.send(b'{{\"letter\":\"run\",\"versions\":{{\"release\":\"9.9\",\"protocol\":1,\"layout\":1}},\"port\":\"auto\",\"sockets\":64,\"frames\":512,\"spin\":\"0\",\"new\":1}}')\n\
         print(s.recv(9999).decode())\ns.close()\n\
         s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect('{}')\ns.send(b'{{\"letter\":\"dance\"}}')\nprint(s.recv(9999).decode())",
        shared.socket.display(),
        shared.socket.display()
    );
    let mut line = as_user(USER);
    line.extend(["/usr/bin/python3".to_owned(), "-c".to_owned(), script]);
    let said = world.check(Side::Ours, 10, &line);
    assert!(said.contains("versions differ") && said.contains("9.9 (protocol 1, layout 1)"), "{said}");
    assert!(said.contains("this keeper does not know it"), "{said}");
    drop(service);
    // A service that this version does not understand: the private keeper is used.
    let fake = format!(
        "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.bind('{}')\ns.listen()\nprint('up',flush=True)\n\
         while True:\n c,_=s.accept()\n c.recv(9999)\n c.send(b'{{\"letter\":\"certainly\"}}')\n c.close()",
        world.dir.join("fake.sock").display()
    );
    let fake = world.spawn(Side::Ours, "fake", &["python3", "-c", &fake]);
    wait_until("the other service is up", 20, || fake.output().contains("up"));
    let socket = format!("CORELANE_KEEPER_SOCKET={}", world.dir.join("fake.sock").display());
    let corelane = shared.corelane.display().to_string();
    let line = ["env", &socket, &corelane, "run", "--device", DEVICE, "--", "echo", "ran"];
    let output = world.run(Side::Ours, 30, &line);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout == b"ran\n", "{text}");
    assert!(text.contains("does not know") && text.contains("private keeper is used"), "{text}");
    drop(fake);
    world.assert_clean();
}

#[test]
fn programs_of_other_users_get_nothing_of_a_run() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let policy = format!("{}{}", allow(USER, ""), allow(OTHER, ""));
    let shared = Shared::prepare(&world, &policy);
    let service = shared.start(&world, "service", &[]);
    let server = serve(&world, &shared, "server", "9002");
    let pid = child(&world, server.id(), "python3");
    let environ = fs::read(format!("/proc/{pid}/environ")).expect("root reads it");
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let value = |name: &str| environ.split('\0').find_map(|e| e.strip_prefix(name)).expect("set").to_owned();
    let (name, token) = (value("CORELANE_KEEPER="), value("CORELANE_TOKEN="));
    let pids = world.check(Side::Ours, 5, &["pgrep", "-f", "__run-keeper|__steward"]);
    let version = control::proto::VERSION.to_string();
    let words = [&script("stranger.py"), &name, &version, &token, &pid.to_string()].map(ToOwned::to_owned);
    let mut as_other = as_user(OTHER);
    as_other.push("/usr/bin/python3".to_owned());
    as_other.extend(words.clone());
    as_other.extend(pids.split_whitespace().map(str::to_owned));
    let said = world.check(Side::Ours, 20, &as_other);
    assert!(said.contains("hello refused: user 54322 is not 54321, whose run it is"), "{said}");
    assert!(said.contains("all closed"), "{said}");
    // The same user with the same secret may speak, but not for ends, sockets and connections that are not the run's.
    let mut as_own = as_user(USER);
    as_own.push("/usr/bin/python3".to_owned());
    as_own.extend(words);
    as_own.push("own".to_owned());
    let said = world.check(Side::Ours, 20, &as_own);
    for line in [
        "hello welcome",
        "socket of another namespace refused: the socket is of another network namespace",
        "fetch refused: a connection that is not of a lane of user 54321",
        "hand on refused: a connection that is not of a lane of user 54321",
        "port below 1024 refused: a port below 1024",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // The keeper goes on with its own.
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    finish_talk(client, &stop);
    drop((server, service));
    world.assert_clean();
}

#[test]
fn a_program_in_a_container_uses_the_keeper_outside() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep", "unshare"]) else { return };
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let service = shared.start(&world, "service", &[]);
    // PID, mount, IPC and host name namespaces of its own inside the network namespace; the keeper's socket is mounted elsewhere.
    let inside = world.dir.join("inside");
    fs::create_dir_all(&inside).expect("a folder");
    let mut run = shared.run(USER, &[], &["python3", &script("steady.py"), "serve", "9002"]);
    let socket = shared.socket.display().to_string();
    let mounted = inside.join("keeper.sock").display().to_string();
    run.iter_mut().filter(|word| **word == socket).for_each(|word| word.clone_from(&mounted));
    let setup = format!(
        "mount --bind {} {} && mount -t proc proc /proc && exec \"$@\"",
        world.dir.join("run").display(),
        inside.display()
    );
    let mut line: Vec<String> =
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts", "sh", "-c", &setup, "sh"]
            .map(str::to_owned)
            .to_vec();
    line.extend(run);
    let mut server = world.spawn(Side::Ours, "server", &line);
    wait_until("the server listens", 20, || {
        server.assert_running();
        server.output().contains("ready")
    });
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    assert!(server.output().contains("keeper shared, process "), "{}", server.output());
    let python = world.check(Side::Ours, 5, &["pgrep", "-f", "^python3.*steady.py serve"]);
    let python = python.split_whitespace().next().expect("one").parse().expect("a number");
    let said = explain(&world, &shared, python);
    assert!(said.contains("tcp 0.0.0.0:9002  accelerated"), "{said}");
    finish_talk(client, &stop);
    send_signal(python, Signal::TERM);
    server.wait(30);
    world.assert_clean();
    drop(service);
}

#[test]
fn the_unit_gives_the_keeper_all_it_needs() {
    let Some(world) = World::new(&["python3", "ip", "setpriv", "pgrep"]) else { return };
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/corelane-keeper.service"));
    let unit = unit.expect("the unit file");
    let names =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("capabilities");
    let set: Vec<String> = names
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let set = format!("--bounding-set=-all,{}", set.join(","));
    let shared = Shared::prepare(&world, &allow(USER, ""));
    let service = shared.start(&world, "service", &["setpriv", &set]);
    let status = fs::read_to_string(format!("/proc/{}/status", service.id())).expect("status");
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("a line");
    let bits = u64::from_str_radix(bits.trim(), 16).expect("hexadecimal");
    // A machine may lack one itself.
    assert!(bits.count_ones() as usize <= names.split_whitespace().count(), "{names}");
    let mut server = serve(&world, &shared, "server", "9002");
    let (mut client, stop) = talk(&world, "client", "9002");
    goes_on(&mut client);
    let python = child(&world, server.id(), "python3");
    let said = explain(&world, &shared, python);
    assert!(said.contains("tcp 0.0.0.0:9002  accelerated"), "{said}");
    // The steward finishes what a killed program left.
    send_signal(python, Signal::KILL);
    assert_eq!(server.wait(30).code(), Some(137));
    fs::write(stop, "").expect("a file");
    let _ = client.wait(60);
    world.assert_clean();
    drop(service);
}
