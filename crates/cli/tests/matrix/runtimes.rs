//! Language runtimes and event libraries.

use crate::files::{PYTHON, echo, fetch, load, program, www};
use crate::trial::Trial;
use crate::web::backend;
use crate::world::{OURS, PEER, Side};

/// An echo server on the peer's side, at port 7000.
fn peer_echo(trial: &Trial) {
    trial.serve(Side::Peer, "peer-echo", &[PYTHON, &program("asyncio_echo.py"), PEER, "7000"], 7000);
}

pub(crate) fn asyncio(trial: &Trial) {
    let script = program("asyncio_echo.py");
    trial.serve(Side::Ours, "asyncio", &[PYTHON, &script, OURS, "7001"], 7001);
    echo(trial, 7001);
    peer_echo(trial);
    trial.serve(Side::Ours, "relay", &[PYTHON, &script, OURS, "7002", PEER, "7000"], 7002);
    echo(trial, 7002);
}

pub(crate) fn tokio(trial: &Trial) {
    let me = std::env::current_exe().expect("this program").display().to_string();
    trial.serve(Side::Ours, "tokio", &[&me, "tokio-echo", "7003"], 7003);
    echo(trial, 7003);
    peer_echo(trial);
    trial.serve(Side::Ours, "relay", &[&me, "tokio-echo", &format!("7004>{PEER}:7000")], 7004);
    echo(trial, 7004);
}

fn node(trial: &Trial, script: &str) {
    let big = www(trial);
    let folder = trial.world.dir.join("www").display().to_string();
    trial.serve(Side::Ours, "node", &["node", &program(script), OURS, "8085", &folder], 8085);
    let url = format!("http://{OURS}:8085/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    load(trial, Side::Peer, &url);
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
}

pub(crate) fn node_http(trial: &Trial) {
    node(trial, "http_server.js");
}

pub(crate) fn node_cluster(trial: &Trial) {
    node(trial, "cluster_server.js");
}

pub(crate) fn node_client(trial: &Trial) {
    let big = backend(trial);
    let said = trial.check(Side::Ours, 60, &["node", &program("http_client.js"), PEER, "80"]);
    assert_eq!(said.trim(), format!("60 {}", crate::world::sha256(&big)));
}

/// Compiles a Java source of the matrix; the class files are in the scratch folder.
fn javac(trial: &Trial, name: &str) -> String {
    let dir = trial.world.dir.display().to_string();
    let out = trial.world.check(Side::Ours, 90, &["java", "-Xshare:auto", "--version"]);
    assert!(!out.is_empty());
    trial.world.check(Side::Ours, 90, &["javac", "-d", &dir, &program(name)]);
    dir
}

pub(crate) fn java_nio(trial: &Trial) {
    let classes = javac(trial, "NioEcho.java");
    trial.serve(Side::Ours, "java", &["java", "-cp", &classes, "NioEcho", OURS, "7005"], 7005);
    echo(trial, 7005);
}

pub(crate) fn java_client(trial: &Trial) {
    let classes = javac(trial, "Client.java");
    peer_echo(trial);
    let said = trial.check(Side::Ours, 60, &["java", "-cp", &classes, "Client", PEER, "7000"]);
    assert_eq!(said.trim(), "16 unchanged");
}

/// Compiles a C source of the matrix.
fn compile(trial: &Trial, name: &str, libraries: &[&str]) -> String {
    let out = trial.world.dir.join(name.trim_end_matches(".c")).display().to_string();
    let source = program(name);
    let mut words = vec!["cc", "-O1", "-o", &out, &source];
    words.extend(libraries);
    trial.world.check(Side::Ours, 60, &words);
    out
}

fn compiled_echo(trial: &Trial, name: &str, libraries: &[&str]) {
    let program = compile(trial, name, libraries);
    trial.serve(Side::Ours, "echo", &[&program, "7006"], 7006);
    echo(trial, 7006);
}

pub(crate) fn libuv(trial: &Trial) {
    compiled_echo(trial, "uv_echo.c", &["-luv"]);
}

pub(crate) fn libevent(trial: &Trial) {
    compiled_echo(trial, "event_echo.c", &["-levent_core"]);
}

/// A thread a connection, blocking calls, standard I/O streams on a socket.
pub(crate) fn threads(trial: &Trial) {
    compiled_echo(trial, "threads_echo.c", &["-lpthread"]);
}

/// Builds a Go source of the matrix; `cgo`: "0" for a static program, "1" for one with a loader.
fn go(trial: &Trial, name: &str, cgo: &str) -> String {
    let dir = &trial.world.dir;
    let out = dir.join(name.trim_end_matches(".go")).display().to_string();
    let cache = format!("GOCACHE={}", dir.join("go").display());
    let cgo = format!("CGO_ENABLED={cgo}");
    let words = ["env", &cache, &cgo, "GO111MODULE=off", "go", "build", "-o", &out, &program(name)];
    trial.world.check(Side::Ours, 300, &words);
    out
}

fn go_serves(trial: &Trial, cgo: &str) {
    let big = www(trial);
    let folder = trial.world.dir.join("www").display().to_string();
    let server = go(trial, "http_server.go", cgo);
    trial.serve(Side::Ours, "go", &[&server, &format!("{OURS}:8086"), &folder], 8086);
    let url = format!("http://{OURS}:8086/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    load(trial, Side::Peer, &url);
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
}

pub(crate) fn go_server(trial: &Trial) {
    go_serves(trial, "0");
}

pub(crate) fn go_server_with_loader(trial: &Trial) {
    go_serves(trial, "1");
}

pub(crate) fn go_client(trial: &Trial) {
    let big = backend(trial);
    let client = go(trial, "http_client.go", "0");
    let said = trial.check(Side::Ours, 60, &[&client, &format!("http://{PEER}/big")]);
    assert_eq!(said.trim(), format!("60 {}", crate::world::sha256(&big)));
}

/// [`threads`] with musl in the place of glibc.
fn musl(trial: &Trial, how: &[&str]) {
    let out = trial.world.dir.join("musl_echo").display().to_string();
    let source = program("threads_echo.c");
    let mut words = vec!["musl-gcc", "-O1", "-o", &out, &source];
    words.extend(how);
    trial.world.check(Side::Ours, 60, &words);
    trial.serve(Side::Ours, "echo", &[&out, "7006"], 7006);
    echo(trial, 7006);
}

pub(crate) fn musl_static(trial: &Trial) {
    musl(trial, &["-static"]);
}

pub(crate) fn musl_with_loader(trial: &Trial) {
    musl(trial, &[]);
}
