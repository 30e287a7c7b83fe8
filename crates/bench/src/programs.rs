//! Programs as they come from the distribution: nginx with wrk, redis with redis-benchmark, memcached, iperf3; and what an idle one
//! costs.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::kernel::{self, Hosts};
use crate::place::Under::{self, Corelane, Linux};
use crate::place::{Side, World};
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Trouble, Unit};
use crate::{runner, usage};

/// A server with the client that drives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pair {
    /// wrk, 64 connections that last.
    NginxKept,
    /// wrk, 64 connections, one request each.
    NginxClosed,
    /// redis-benchmark GET, 50 connections, so many requests at a time.
    Redis { pipelined: u32 },
    /// Our client, 64 connections, one get at a time.
    Memcached,
    /// One stream to the server.
    IperfIn,
    /// One stream from the server.
    IperfOut,
}

/// One stream each way: the part of its row's id, its words.
const STREAMS: [(&str, &str, Pair); 2] = [
    ("bulk-in", "iperf3, the server receives", Pair::IperfIn),
    ("bulk-out", "iperf3, the server sends", Pair::IperfOut),
];

/// Where nginx's files lie.
fn site() -> PathBuf {
    runner::target_folder().join("bench/site")
}

pub(crate) fn rows() -> Vec<Row> {
    let kept = "nginx + wrk, 64 connections kept";
    let closed = "nginx + wrk, Connection: close";
    let redis = Pair::Redis { pipelined: 1 };
    let mut rows = vec![
        both_ends("program-nginx-kept", kept, Pair::NginxKept).goal(Goal::OfPeer("linux lo", 2.5)).in_short(),
        both_ends("program-nginx-close", closed, Pair::NginxClosed),
        both_ends("program-redis", "redis + redis-benchmark -P 1", redis).goal(Goal::OfPeer("linux lo", 4.0)),
        both_ends("program-redis-16", "redis + redis-benchmark -P 16", Pair::Redis { pipelined: 16 }),
        both_ends("program-memcached", "memcached, 64 connections", Pair::Memcached),
        streams("program-iperf3", "iperf3, one stream", Pair::IperfIn),
        one_end("veth-nginx-close", closed, (Pair::NginxClosed, Hosts::Two), Unit::ServerCpuUs)
            .goal(Goal::OfPeer("linux veth", 0.4))
            .obstacle(
                "of the server's samples (perf, before packet ports had a receive ring) 27 % were interrupts of the receive path, 12 % \
                 sendmmsg, 7 % recvmmsg, 15 % the preload library; nginx itself makes five file system calls a request.",
            )
            .in_short(),
        one_end("veth-nginx-kept", kept, (Pair::NginxKept, Hosts::Two), Unit::ServerCpuUs),
        one_end("veth-redis", "redis + redis-benchmark -P 1", (redis, Hosts::Two), Unit::ServerCpuUs),
        one_end("veth-memcached", "memcached, 64 connections", (Pair::Memcached, Hosts::Two), Unit::ServerCpuUs),
        one_end("veth-bulk-in", "iperf3, the server receives", (Pair::IperfIn, Hosts::Two), Unit::Gbit)
            .goal(Goal::OfPeer("linux veth", 1.0))
            .in_short(),
        one_end("veth-bulk-out", "iperf3, the server sends", (Pair::IperfOut, Hosts::Two), Unit::Gbit)
            .goal(Goal::OfPeer("linux veth", 1.0))
            .in_short(),
        Row::new("idle-nginx", "nginx with nothing to do", Unit::CpuPercent)
            .stack(OURS, |job| idle(Corelane, job))
            .stack("linux", |job| idle(Linux, job))
            .goal(Goal::Value(0.1))
            .obstacle("the steward wakes about ten times a second while a lane is open."),
    ];
    for mtu in [9_000, 65_535] {
        for (id, work, pair) in STREAMS {
            let id = format!("veth-{id}-{mtu}");
            rows.push(one_end(&id, &format!("{work}, MTU {mtu}"), (pair, Hosts::TwoOfMtu(mtu)), Unit::Gbit));
        }
    }
    rows.extend([
        one_end("tap-nginx-close", closed, (Pair::NginxClosed, Hosts::Tap), Unit::ServerCpuUs),
        one_end("tap-nginx-kept", kept, (Pair::NginxKept, Hosts::Tap), Unit::ServerCpuUs),
        one_end("tap-redis", "redis + redis-benchmark -P 1", (redis, Hosts::Tap), Unit::ServerCpuUs),
    ]);
    for (id, work, pair) in STREAMS {
        rows.push(one_end(&format!("tap-{id}"), work, (pair, Hosts::Tap), Unit::Gbit));
    }
    for (ppm, end, lost) in kernel::LOSSES {
        for (id, work, pair) in STREAMS {
            let hosts = Hosts::Losing(ppm);
            rows.push(one_end(
                &format!("veth-{id}{end}"),
                &format!("{work}{lost}"),
                (pair, hosts),
                Unit::Gbit,
            ));
        }
    }
    rows
}

/// Server and client on the stack named.
fn both_ends(id: &str, work: &str, pair: Pair) -> Row {
    on_each_stack(id, work, pair, Unit::PerSecond)
}

/// The same of a stream.
fn streams(id: &str, work: &str, pair: Pair) -> Row {
    on_each_stack(id, work, pair, Unit::Gbit)
}

fn on_each_stack(id: &str, work: &str, pair: Pair, unit: Unit) -> Row {
    Row::new(id, work, unit)
        .stack(OURS, move |job| run(pair, Hosts::One, (Corelane, Corelane), unit, job))
        .stack("corelane veth", move |job| run(pair, Hosts::Two, (Corelane, Corelane), unit, job))
        .stack("linux lo", move |job| run(pair, Hosts::One, (Linux, Linux), unit, job))
        .stack("linux veth", move |job| run(pair, Hosts::Two, (Linux, Linux), unit, job))
        .count(100_000)
}

/// The server on the stack named, the client on the kernel.
fn one_end(id: &str, work: &str, (pair, hosts): (Pair, Hosts), unit: Unit) -> Row {
    Row::new(id, work, unit)
        .stack(OURS, move |job| run(pair, hosts, (Corelane, Linux), unit, job))
        .stack("linux veth", move |job| run(pair, hosts.of_the_kernel(), (Linux, Linux), unit, job))
        .count(100_000)
}

impl Pair {
    fn port(self) -> u16 {
        match self {
            Self::NginxKept | Self::NginxClosed => 8_080,
            Self::Redis { .. } => 6_379,
            Self::Memcached => 11_211,
            Self::IperfIn | Self::IperfOut => 5_201,
        }
    }

    fn server(self) -> Result<Vec<String>, Trouble> {
        Ok(match self {
            Self::NginxKept | Self::NginxClosed => {
                let config = nginx_config().map_err(|e| Trouble::failed("nginx's files", e))?;
                words(&["nginx", "-e", "stderr", "-c", &config])
            }
            Self::Redis { .. } => words(&[
                "redis-server",
                "--save",
                "",
                "--appendonly",
                "no",
                "--protected-mode",
                "no",
                "--bind",
                "0.0.0.0",
            ]),
            Self::Memcached => words(&["memcached", "-u", "root", "-t", "1", "-U", "0", "-c", "4096"]),
            Self::IperfIn | Self::IperfOut => words(&["iperf3", "-s"]),
        })
    }

    fn client(self, address: &str, job: &Job) -> Result<Vec<String>, Trouble> {
        let (port, seconds) = (self.port().to_string(), job.seconds.to_string());
        let url = format!("http://{address}:{port}/");
        let wrk = ["wrk", "-t", "1", "-c", "64", "--timeout", "5s", "-d", &seconds];
        Ok(match self {
            Self::NginxKept => [words(&wrk), words(&[&url])].concat(),
            Self::NginxClosed => [words(&wrk), words(&["-H", "Connection: close", &url])].concat(),
            Self::Redis { pipelined } => {
                let (pipelined, count) =
                    (pipelined.to_string(), (job.count * u64::from(pipelined.min(4))).to_string());
                words(&[
                    "redis-benchmark",
                    "-h",
                    address,
                    "-p",
                    &port,
                    "-t",
                    "get",
                    "-c",
                    "50",
                    "-P",
                    &pipelined,
                    "-n",
                    &count,
                    "--csv",
                ])
            }
            Self::Memcached => {
                let target = format!("{address}:{port}");
                let mut all = kernel::peer("peer-client", "memcached")?;
                all.extend(words(&[&target, "--connections", "64", "--count", &job.count.to_string()]));
                all
            }
            Self::IperfIn => words(&["iperf3", "-J", "-c", address, "-p", &port, "-t", &seconds]),
            Self::IperfOut => words(&["iperf3", "-J", "-R", "-c", address, "-p", &port, "-t", &seconds]),
        })
    }

    /// What the client's output says: operations, and the rate of them (streams: Gb/s).
    fn parse(self, text: &str, job: &Job) -> Option<(f64, f64)> {
        match self {
            Self::NginxKept | Self::NginxClosed => {
                let after = |word: &str| text.lines().find_map(|line| line.trim().strip_prefix(word));
                let count =
                    text.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?;
                Some((count.parse().ok()?, after("Requests/sec:")?.trim().parse().ok()?))
            }
            Self::Redis { pipelined } => {
                let line = text.lines().find(|line| line.starts_with("\"GET\""))?;
                let rate = line.split(',').nth(1)?.trim_matches('"').parse().ok()?;
                Some(((job.count * u64::from(pipelined.min(4))) as f64, rate))
            }
            Self::Memcached => {
                let found: crate::peer::Found = serde_json::from_str(text.trim()).ok()?;
                Some((found.count as f64, found.count as f64 / found.seconds))
            }
            Self::IperfIn | Self::IperfOut => {
                let value: serde_json::Value = serde_json::from_str(text).ok()?;
                let sum = value.pointer("/end/sum_received")?;
                Some((sum.get("bytes")?.as_f64()?, sum.get("bits_per_second")?.as_f64()? / 1e9))
            }
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn run(pair: Pair, hosts: Hosts, (server, client): (Under, Under), unit: Unit, job: &Job) -> Outcome {
    let world = hosts.world(unit == Unit::ServerCpuUs)?;
    let mut running = start(&world, server, &pair.server()?, pair.port())?;
    let words = pair.client(world.address(), job)?;
    let core = world.core(Side::Server);
    let before = (usage::cpu_seconds(running.id()), usage::core_busy_seconds(core));
    let client_process = world.spawn(Side::Client, client, &words)?;
    let output = client_process.wait_with_output().map_err(|e| Trouble::failed(&words[0], e))?;
    let after = (usage::cpu_seconds(running.id()), usage::core_busy_seconds(core));
    let accelerated = server == Linux || is_accelerated(&running);
    usage::stop(&mut running);
    let text = String::from_utf8_lossy(&output.stdout);
    let (count, rate) = pair.parse(&text, job).ok_or_else(|| {
        Trouble::failed(&words[0], format!("{}; unexpected output: {}", output.status, text.trim()))
    })?;
    if !accelerated {
        return Err(Trouble::Failed("the server was not accelerated: the kernel served it".to_owned()));
    }
    let each_us = |seconds: f64| seconds * 1e6 / count.max(1.0);
    Ok(match unit {
        Unit::ServerCpuUs => Sample::of(each_us(after.1 - before.1)).with("per_s", rate),
        Unit::Gbit => Sample::of(rate),
        _ => Sample::of(rate).with("server_cpu_us", each_us(after.0 - before.0)),
    })
}

/// CPU time of an idle server's processes, keeper and steward included, in percent of a processor.
fn idle(under: Under, job: &Job) -> Outcome {
    let world = World::two_hosts(1_500, false)?;
    let pair = Pair::NginxKept;
    let mut running = start(&world, under, &pair.server()?, pair.port())?;
    // What starting leaves to be done is not idling.
    std::thread::sleep(Duration::from_secs(1));
    let (before, start) = (usage::cpu_seconds(running.id()), Instant::now());
    std::thread::sleep(Duration::from_secs(u64::from(job.seconds)));
    let used = usage::cpu_seconds(running.id()) - before;
    let percent = used * 100.0 / start.elapsed().as_secs_f64();
    usage::stop(&mut running);
    Ok(Sample::of(percent))
}

/// Starts a server and waits until it listens, and until its port is its lane's.
fn start(world: &World, under: Under, words: &[String], port: u16) -> Result<Child, Trouble> {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut child = world.spawn(Side::Server, under, words)?;
    // Nobody reads what it prints; it must not wait for that.
    if let Some(mut out) = child.stdout.take() {
        std::thread::spawn(move || std::io::copy(&mut out.by_ref(), &mut std::io::sink()));
    }
    let began = Instant::now();
    let mut listens = false;
    while began.elapsed() < LIMIT {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Trouble::failed(&words[0], format!("ended before it listened: {status}")));
        }
        // Asking by a connection would leave one behind that is the kernel's.
        listens = listens || world.on(Side::Server, move || is_listening(port));
        if listens && (under == Linux || is_accelerated(&child)) {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    usage::stop(&mut child);
    let what = if listens { "not accelerated: the kernel serves it" } else { "does not listen" };
    Err(Trouble::failed(&words[0], format!("{what} after {} s", LIMIT.as_secs())))
}

/// Is there a listener on `port` in this thread's namespace (proc(5): state 0A)?
fn is_listening(port: u16) -> bool {
    let ours = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
            && fields.get(3) == Some(&"0A")
    };
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(std::fs::read_to_string);
    tables.into_iter().flatten().any(|table| table.lines().any(ours))
}

/// Does a port of the program belong to a lane?
fn is_accelerated(child: &Child) -> bool {
    let said = usage::members(child.id()).into_iter().filter_map(|pid| keeper::ask_keeper_of(pid).ok());
    said.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .any(|line| line.starts_with("port "))
}

/// Writes nginx's configuration and page; gives the configuration's path.
fn nginx_config() -> std::io::Result<String> {
    let folder = site();
    std::fs::create_dir_all(folder.join("www"))?;
    std::fs::write(folder.join("www/index.html"), "x".repeat(612))?;
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let folder = std::path::absolute(folder)?;
    let (here, port) = (folder.display(), Pair::NginxKept.port());
    let text = format!(
        "daemon off; worker_processes 1; {user} pid {here}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; default_type text/html; keepalive_timeout 65; keepalive_requests 10000000;
    client_body_temp_path {here}/tmp; proxy_temp_path {here}/tmp; fastcgi_temp_path {here}/tmp;
    uwsgi_temp_path {here}/tmp; scgi_temp_path {here}/tmp;
    server {{ listen {port}; root {here}/www; }}
}}
"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_reports_are_read() {
        let job = Job { count: 1000, seconds: 1 };
        let wrk = "  106777 requests in 1.00s, 129.63MB read\nRequests/sec: 106574.53\n";
        assert_eq!(Pair::NginxKept.parse(wrk, &job), Some((106_777.0, 106_574.53)));
        let redis = "\"test\",\"rps\",\"avg\"\n\"GET\",\"180180.17\",\"0.155\"\n";
        assert_eq!(Pair::Redis { pipelined: 1 }.parse(redis, &job), Some((1000.0, 180_180.17)));
        let iperf = r#"{"end": {"sum_received": {"bytes": 5000, "bits_per_second": 2.5e9}}}"#;
        assert_eq!(Pair::IperfOut.parse(iperf, &job), Some((5000.0, 2.5)));
        assert_eq!(Pair::NginxKept.parse("unable to connect", &job), None);
    }
}
