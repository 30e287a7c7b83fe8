//! Installing the Debian packages that the demo and the tests use.

use crate::run;

/// A program and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// What the demo uses.
pub(crate) const DEMO: &[Need] =
    &[("nginx", "nginx-light"), ("wrk", "wrk"), ("curl", "curl"), ("ip", "iproute2"), ("iperf3", "iperf3")];

/// What the tests use besides.
pub(crate) const TESTS: &[Need] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("python3", "python3"),
    ("tcpdump", "tcpdump"),
    ("strace", "strace"),
    ("bpftool", "bpftool"),
    ("haproxy", "haproxy"),
    ("memcached", "memcached"),
    ("musl-gcc", "musl-tools"),
    ("dpdk-testpmd", "dpdk-dev"),
];

/// What the matrix uses besides, all of it.
pub(crate) const MATRIX: &[Need] = &[
    ("haproxy", "haproxy"),
    ("memcached", "memcached"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("apache2", "apache2-bin"),
    ("ab", "apache2-utils"),
    ("lighttpd", "lighttpd"),
    ("gunicorn", "gunicorn"),
    ("psql", "postgresql"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("rsync", "rsync"),
    ("vsftpd", "vsftpd"),
    ("socat", "socat"),
    ("node", "nodejs"),
    ("javac", "default-jdk-headless"),
    ("cc", "gcc"),
    ("go", "golang-go"),
    ("musl-gcc", "musl-tools"),
    ("python3", "python3"),
];

/// Headers of the libraries that the matrix compiles programs with, and Python's own tests: packages without a program to look for.
pub(crate) fn install_matrix_libraries() {
    // Without them a row fails and says so.
    let _ = run::run(
        "sh",
        &[
            "-c",
            "export DEBIAN_FRONTEND=noninteractive; test -e /usr/include/uv.h && test -e /usr/include/event2/event.h && \
             ls /usr/lib/python3*/test/test_socket.py >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends libuv1-dev \
             libevent-dev libc6-dev \"$(apt-cache search --names-only '^libpython3.*-testsuite' | cut -d' ' -f1 | head -1)\" >/dev/null",
        ],
    );
}

/// What counting instructions uses.
pub(crate) const COUNT: &[Need] = &[("valgrind", "valgrind")];

/// What the benches use besides the demo's.
pub(crate) const BENCH: &[Need] = &[
    ("valgrind", "valgrind"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("memcached", "memcached"),
    ("cc", "gcc"),
    ("xz", "xz-utils"),
    ("dpdk-testpmd", "dpdk"),
];

/// DPDK's memif driver: a plug-in without a program to look for, whose package is named after DPDK's version.
pub(crate) fn install_dpdk_memif() {
    // Without it a row is skipped and says so.
    let _ = run::run(
        "sh",
        &[
            "-c",
            "ls /usr/lib/*/dpdk/pmds-*/librte_net_memif.so >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends \
             \"$(apt-cache search --names-only '^librte-net-memif' | cut -d' ' -f1 | head -1)\" >/dev/null",
        ],
    );
}

/// Installs the packages of the programs that are not there. Without root or `apt-get` it says what is missing.
pub(crate) fn install(needs: &[Need]) -> Result<(), String> {
    let missing: Vec<&str> =
        needs.iter().filter(|(program, _)| !run::has(program)).map(|need| need.1).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !run::has("apt-get") {
        return Err(format!(
            "these programs are missing and there is no apt-get to install them: {}",
            missing.join(" ")
        ));
    }
    println!("installing {}", missing.join(" "));
    // nginx and redis start their service on install; the policy file keeps a fresh machine's ports free.
    let mut args = vec![
        "-c",
        "export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; apt-get update -qq && apt-get install -y -qq --no-install-recommends \"$@\" >/dev/null",
        "sh",
    ];
    args.extend(&missing);
    run::run("sh", &args)
        .map_err(|e| format!("{e}\ninstall by hand (as root): apt-get install {}", missing.join(" ")))
}
