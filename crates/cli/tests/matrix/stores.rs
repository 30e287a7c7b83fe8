//! Databases and caches.

use crate::files::{PYTHON, program};
use crate::trial::Trial;
use crate::world::{OURS, Side};

pub(crate) fn redis(trial: &Trial) {
    let words = [
        "redis-server",
        "--bind",
        OURS,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--port",
        "6379",
        "--io-threads",
        "2",
    ];
    trial.serve(Side::Ours, "redis", &words, 6379);
    let out = trial.check(Side::Peer, 240, &["redis-benchmark", "-h", OURS, "-n", "500", "--csv"]);
    assert!(out.lines().filter(|l| l.starts_with('"')).count() >= 15, "{out}");
    let out = trial.check(
        Side::Peer,
        60,
        &["redis-benchmark", "-h", OURS, "-n", "20000", "-P", "16", "-t", "set,get", "-q"],
    );
    assert!(out.contains("GET"), "{out}");
    let said = trial.check(Side::Peer, 60, &[PYTHON, &program("redis_client.py"), OURS, "6379"]);
    assert_eq!(said.trim(), "unchanged");
}

pub(crate) fn memcached(trial: &Trial) {
    trial.serve(
        Side::Ours,
        "memcached",
        &["memcached", "-u", "root", "-l", OURS, "-p", "11211", "-t", "4", "-I", "4m"],
        11211,
    );
    let said = trial.check(Side::Peer, 60, &[PYTHON, &program("memcached_client.py"), OURS, "11211"]);
    assert_eq!(said.trim(), "unchanged");
}

pub(crate) fn postgresql(trial: &Trial) {
    let bin = postgres_folder();
    let data = trial.world.dir.join("data").display().to_string();
    std::fs::create_dir_all(&data).expect("a folder");
    let own = |words: &[&str]| {
        let mut line = vec!["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        line.extend(words);
        trial.world.check(Side::Ours, 120, &line);
    };
    trial.world.check(Side::Ours, 5, &["chown", "postgres:", &data]);
    own(&[&format!("{bin}/initdb"), "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"]);
    let access = trial.world.dir.join("data/pg_hba.conf");
    std::fs::write(&access, "host all all 10.77.0.0/24 trust\n").expect("a file");
    let sockets = format!("unix_socket_directories={data}");
    let address = format!("listen_addresses={OURS}");
    let words = [&format!("{bin}/postgres"), "-D", &data, "-c", &sockets, "-c", &address, "-c", "fsync=off"];
    let server = trial.start_as(Side::Ours, Some("postgres"), "postgres", &words);
    trial.ready(Side::Ours, server, 5432);
    let pgbench = format!("{bin}/pgbench");
    let client = ["-h", OURS, "-U", "postgres"];
    let run = |words: &[&str]| {
        let mut line = words.to_vec();
        line.extend(client);
        line.push("postgres");
        trial.check(Side::Peer, 90, &line)
    };
    run(&[&pgbench, "-i", "-s", "1", "-q"]);
    for flags in [
        &["-c", "4", "-j", "2", "-t", "100"][..],
        &["-C", "-c", "4", "-t", "30"],
        &["-S", "-M", "prepared", "-c", "8", "-t", "300"],
    ] {
        let mut line = vec![pgbench.as_str()];
        line.extend(flags);
        let out = run(&line);
        assert!(out.contains("number of failed transactions: 0"), "{out}");
    }
    let psql = format!("{bin}/psql");
    let query = "select md5(string_agg(md5(i::text), '')) from generate_series(1, 30000) i";
    let there = run(&[&psql, "-At", "-c", query]);
    let rows = run(&[&psql, "-At", "-c", "select md5(i::text) from generate_series(1, 30000) i"]);
    let joined = trial.write("rows", &rows.replace('\n', ""));
    let here = trial.world.check(Side::Peer, 10, &["md5sum", &joined]);
    assert_eq!(here.split_whitespace().next(), Some(there.trim()));
    // Cancelling needs a second connection, and a signal to the process of the first.
    let late = trial.world.run(
        Side::Peer,
        30,
        &[
            &psql,
            "-h",
            OURS,
            "-U",
            "postgres",
            "-c",
            "set statement_timeout=200; select pg_sleep(20)",
            "postgres",
        ],
    );
    assert!(String::from_utf8_lossy(&late.stderr).contains("statement timeout"), "{late:?}");
}

fn postgres_folder() -> String {
    let mut versions: Vec<_> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    versions.sort_by_key(|entry| entry.file_name());
    versions
        .last()
        .map(|entry| entry.path().join("bin").display().to_string())
        .expect("PostgreSQL's programs")
}
