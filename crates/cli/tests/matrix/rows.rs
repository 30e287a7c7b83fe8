//! The table of rows.

use crate::trial::Trial;
use crate::{curl, runtimes, stores, suite, tools, web};

/// One program, and what it is asked to do.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What must be installed.
    pub(crate) programs: &'static [&'static str],
    /// Also played by `cargo test`.
    pub(crate) short: bool,
    /// There also with a peer on Corelane.
    pub(crate) both: bool,
    /// Only when asked for by name.
    pub(crate) asked_only: bool,
    /// Least share of connections on lanes, per cent, towards a kernel peer.
    pub(crate) least_share: f64,
    pub(crate) play: fn(&Trial),
}

const fn row(name: &'static str, programs: &'static [&'static str], play: fn(&Trial)) -> Row {
    Row { name, programs, short: false, both: false, asked_only: false, least_share: 99.0, play }
}

impl Row {
    const fn short(mut self) -> Self {
        self.short = true;
        self
    }

    const fn both(mut self) -> Self {
        self.both = true;
        self.short()
    }

    const fn only_when_asked(mut self) -> Self {
        self.asked_only = true;
        self
    }

    /// Part of its connections is the kernel's by what the program does; the note says why.
    const fn share(mut self, least: f64) -> Self {
        self.least_share = least;
        self
    }
}

/// Every row.
pub(crate) const ROWS: &[Row] = &[
    row("nginx", &["nginx", "curl", "wrk"], web::nginx).short(),
    row("haproxy-tcp", &["haproxy", "nginx", "curl", "wrk"], web::haproxy_tcp),
    row("haproxy-http", &["haproxy", "nginx", "curl", "wrk"], web::haproxy_http).short(),
    row("apache-event", &["apache2", "curl", "ab"], web::apache_event),
    row("apache-prefork", &["apache2", "curl", "ab"], web::apache_prefork),
    row("lighttpd", &["lighttpd", "curl", "wrk"], web::lighttpd),
    row("python-http", &["python3", "curl"], web::python_http),
    row("gunicorn", &["gunicorn", "curl", "wrk"], web::gunicorn),
    row("redis", &["redis-server", "redis-benchmark", "python3"], stores::redis),
    row("memcached", &["memcached", "python3"], stores::memcached).both(),
    row("postgresql", &["psql", "setpriv"], stores::postgresql),
    // sshd forbids itself the system calls of a lane, and is left to the kernel by name.
    row("ssh-server", &["sshd", "ssh", "ssh-keygen"], tools::ssh_server).share(0.0),
    row("ssh-client", &["sshd", "ssh", "ssh-keygen"], tools::ssh_client),
    row("rsync-over-ssh", &["sshd", "ssh", "ssh-keygen", "rsync"], tools::rsync_client),
    row("rsync-1-gib-over-ssh", &["sshd", "ssh", "ssh-keygen", "rsync"], tools::rsync_big),
    row("rsync-daemon", &["rsync"], tools::rsync_daemon),
    // It forbids itself system calls (seccomp), so it is left to the kernel by name.
    row("vsftpd", &["vsftpd", "curl"], tools::vsftpd).share(0.0),
    row("inetd-like", &["socat", "python3"], tools::socat_exec),
    // Its first client may come before it first waits, when the listener is the kernel's alone.
    row("iperf3-server", &["iperf3"], tools::iperf3_server).share(94.0),
    row("iperf3-client", &["iperf3"], tools::iperf3_client),
    // One of them with TCP Fast Open, which lanes do not have.
    row("curl", &["curl", "nginx", "openssl"], curl::curl).share(90.0),
    row("wrk", &["wrk", "nginx"], tools::wrk),
    row("ab", &["ab", "nginx"], tools::ab),
    row("python-asyncio", &["python3"], runtimes::asyncio),
    row("node-http", &["node", "curl", "wrk"], runtimes::node_http).short(),
    row("node-cluster", &["node", "curl", "wrk"], runtimes::node_cluster),
    row("node-client", &["node", "nginx"], runtimes::node_client),
    row("java-nio", &["java", "python3"], runtimes::java_nio),
    row("java-client", &["java", "python3"], runtimes::java_client),
    row("tokio", &["python3"], runtimes::tokio).short(),
    row("libuv", &["cc", "python3"], runtimes::libuv),
    row("libevent", &["cc", "python3"], runtimes::libevent),
    row("threads-c", &["cc", "python3"], runtimes::threads),
    row("go-server", &["go", "curl", "wrk"], runtimes::go_server),
    row("go-server-with-loader", &["go", "cc", "curl", "wrk"], runtimes::go_server_with_loader),
    row("go-client", &["go", "nginx"], runtimes::go_client),
    row("musl-static", &["musl-gcc", "python3"], runtimes::musl_static),
    row("musl-with-loader", &["musl-gcc", "python3"], runtimes::musl_with_loader),
    row("python-own-tests", &["python3"], suite::python).only_when_asked().share(0.0),
];
