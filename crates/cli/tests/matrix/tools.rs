//! Tools at either end: remote shells, copies, measuring programs, downloads.

use std::path::Path;

use crate::files::{fetch, load};
use crate::trial::Trial;
use crate::web::backend;
use crate::world::{OURS, PEER, Side, sha256};

/// Keys and configuration of an ssh server on `side` at port 2222, which runs; gives the words with which a client begins.
fn ssh(trial: &Trial, side: Side) -> Vec<String> {
    let dir = trial.world.dir.display().to_string();
    for name in ["host_key", "user_key"] {
        let path = format!("{dir}/{name}");
        trial.world.check(side, 20, &["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path]);
    }
    trial.world.check(side, 5, &["cp", &format!("{dir}/user_key.pub"), &format!("{dir}/authorized")]);
    let address = Trial::address(side);
    std::fs::create_dir_all("/run/sshd").expect("the folder that sshd wants");
    let conf = format!(
        "ListenAddress {address}:2222\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/authorized\nPidFile {dir}/sshd.pid\n\
         StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    );
    let conf = trial.write("sshd.conf", &conf);
    trial.serve(side, "sshd", &["/usr/sbin/sshd", "-D", "-e", "-f", &conf], 2222);
    let key = format!("{dir}/user_key");
    let known = format!("UserKnownHostsFile={dir}/known");
    let words = [
        "ssh",
        "-F",
        "none",
        "-q",
        "-p",
        "2222",
        "-i",
        &key,
        "-o",
        &known,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "BatchMode=yes",
    ];
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn ssh_both(trial: &Trial, server: Side) {
    let begin = ssh(trial, server);
    let client = if server == Side::Ours { Side::Peer } else { Side::Ours };
    let host = format!("root@{}", Trial::address(server));
    let big = trial.random("data", 6_000_001);
    let run = |more: &[&str]| {
        let mut line: Vec<&str> = begin.iter().map(String::as_str).collect();
        line.extend(more);
        trial.check(client, 60, &line)
    };
    assert_eq!(run(&[&host, "echo", "hello"]), "hello\n");
    let got = run(&[&host, "sha256sum", &big.display().to_string()]);
    assert_eq!(got.split_whitespace().next(), Some(sha256(&big).as_str()));
    let copy = trial.world.dir.join("copy").display().to_string();
    let there = trial.world.dir.join("there").display().to_string();
    let mut shell: Vec<&str> = begin.iter().map(String::as_str).collect();
    shell.push(&host);
    let joined = shell.join(" ");
    let both = format!("{joined} 'cat > {there}' < {} && {joined} cat {there} > {copy}", big.display());
    trial.check(client, 60, &["bash", "-c", &both]);
    assert_eq!(sha256(Path::new(&copy)), sha256(&big));
    // A forwarded port: the server connects, or the client listens.
    assert_eq!(run(&["-tt", &host, "echo", "with a terminal"]).trim(), "with a terminal");
}

pub(crate) fn ssh_server(trial: &Trial) {
    ssh_both(trial, Side::Ours);
}

pub(crate) fn ssh_client(trial: &Trial) {
    ssh_both(trial, Side::Peer);
}

fn tree(trial: &Trial) -> String {
    let from = trial.world.dir.join("tree");
    std::fs::create_dir_all(from.join("a/b")).expect("folders");
    for n in 0..40 {
        trial.random(&format!("tree/a/file{n}"), 10_000 + n * 1777);
    }
    trial.random("tree/a/b/big", 5_000_011);
    from.display().to_string()
}

fn assert_same_tree(trial: &Trial, from: &str, to: &str) {
    trial.world.check(Side::Ours, 20, &["diff", "-r", from, to]);
}

pub(crate) fn rsync_client(trial: &Trial) {
    let shell = ssh(trial, Side::Peer).join(" ");
    let from = tree(trial);
    let to = trial.world.dir.join("copied").display().to_string();
    let back = trial.world.dir.join("back").display().to_string();
    let host = format!("root@{PEER}");
    trial.check(
        Side::Ours,
        90,
        &["rsync", "-a", "-e", &shell, &format!("{from}/"), &format!("{host}:{to}/")],
    );
    assert_same_tree(trial, &from, &to);
    trial.check(
        Side::Ours,
        90,
        &["rsync", "-az", "-e", &shell, &format!("{host}:{to}/"), &format!("{back}/")],
    );
    assert_same_tree(trial, &from, &back);
}

/// As large as no buffer is.
pub(crate) fn rsync_big(trial: &Trial) {
    let shell = ssh(trial, Side::Peer).join(" ");
    let file = trial.random("data", 1 << 30);
    let to = trial.world.dir.join("copied");
    let words =
        ["rsync", "-e", &shell, &file.display().to_string(), &format!("root@{PEER}:{}", to.display())];
    trial.check(Side::Ours, 300, &words);
    assert_eq!(sha256(&to), sha256(&file));
}

pub(crate) fn rsync_daemon(trial: &Trial) {
    let from = tree(trial);
    let dir = trial.world.dir.display();
    let conf = format!("use chroot = no\nuid = root\ngid = root\n[all]\npath = {dir}/kept\nread only = no\n");
    std::fs::create_dir_all(trial.world.dir.join("kept")).expect("a folder");
    let conf = trial.write("rsyncd.conf", &conf);
    let words = ["rsync", "--daemon", "--no-detach", "--address", OURS, "--port", "8730", "--config", &conf];
    trial.serve(Side::Ours, "rsyncd", &words, 8730);
    let url = format!("rsync://{OURS}:8730/all/");
    let back = format!("{dir}/back");
    trial.check(Side::Peer, 60, &["rsync", "-a", &format!("{from}/"), &url]);
    trial.check(Side::Peer, 60, &["rsync", "-a", &url, &format!("{back}/")]);
    assert_same_tree(trial, &from, &back);
}

pub(crate) fn vsftpd(trial: &Trial) {
    let dir = trial.world.dir.display();
    std::fs::create_dir_all("/var/run/vsftpd/empty").expect("the folder that vsftpd wants");
    let home = format!("{dir}/ftp");
    std::fs::create_dir_all(format!("{home}/up")).expect("folders");
    let big = trial.random("ftp/data", 5_000_021);
    trial.world.check(Side::Ours, 5, &["chown", "-R", "ftp:", &format!("{home}/up")]);
    let conf = format!(
        "listen=YES\nlisten_port=2121\nlisten_address={OURS}\nbackground=NO\nanonymous_enable=YES\nanon_root={home}\nno_anon_password=YES\n\
         anon_upload_enable=YES\nwrite_enable=YES\nanon_umask=022\nseccomp_sandbox=NO\nsecure_chroot_dir=/var/run/vsftpd/empty\n\
         allow_writeable_chroot=YES\nconnect_from_port_20=NO\n"
    );
    let conf = trial.write("vsftpd.conf", &conf);
    trial.serve(Side::Ours, "vsftpd", &["/usr/sbin/vsftpd", &conf], 2121);
    let url = format!("ftp://{OURS}:2121/");
    for flags in [&[][..], &["--ftp-port", PEER], &["--disable-epsv"]] {
        fetch(trial, Side::Peer, flags, &format!("{url}data"), &big);
    }
    let sent = big.display().to_string();
    trial.check(Side::Peer, 60, &["curl", "-sSf", "-T", &sent, &format!("{url}up/sent")]);
    let kept = trial.world.dir.join("ftp/up/sent");
    trial.until("the file is written", || std::fs::metadata(&kept).is_ok_and(|m| m.len() == 5_000_021));
    assert_eq!(sha256(&kept), sha256(&big));
}

/// A server that forks for each connection and starts another program on it.
pub(crate) fn socat_exec(trial: &Trial) {
    let listen = format!("TCP-LISTEN:7010,fork,reuseaddr,bind={OURS}");
    trial.serve(Side::Ours, "socat", &["socat", &listen, "EXEC:cat,nofork"], 7010);
    crate::files::echo(trial, 7010);
}

fn iperf3(trial: &Trial, server: Side) {
    let client = if server == Side::Ours { Side::Peer } else { Side::Ours };
    let running = trial.start(server, "iperf3", &["iperf3", "-s", "--forceflush"]);
    for (round, direction) in
        [&[][..], &["-R"], &["--bidir"], &["-P", "4"], &["-Z"], &["-l", "200"], &["-M", "900"]]
            .into_iter()
            .enumerate()
    {
        trial.until("iperf3 listens", || trial.output(running).matches("Server listening").count() > round);
        let mut line = vec!["iperf3", "-c", Trial::address(server), "-t", "1", "-J"];
        line.extend(direction);
        let out = trial.check(client, 30, &line);
        assert!(out.contains("\"sum_received\"") && !out.contains("\"error\""), "{direction:?}: {out}");
    }
}

pub(crate) fn iperf3_server(trial: &Trial) {
    iperf3(trial, Side::Ours);
}

pub(crate) fn iperf3_client(trial: &Trial) {
    iperf3(trial, Side::Peer);
}

pub(crate) fn wrk(trial: &Trial) {
    backend(trial);
    load(trial, Side::Ours, &format!("http://{PEER}/"));
    let out = trial.check(
        Side::Ours,
        30,
        &["wrk", "-t4", "-c40", "-d1s", "--latency", &format!("http://{PEER}/big")],
    );
    assert!(!out.contains("Socket errors"), "{out}");
}

pub(crate) fn ab(trial: &Trial) {
    backend(trial);
    for flags in [&["-k"][..], &[]] {
        let url = format!("http://{PEER}/");
        let mut words = vec!["ab", "-q", "-n", "3000", "-c", "30", "-s", "20"];
        words.extend(flags);
        words.push(&url);
        let out = trial.check(Side::Ours, 60, &words);
        assert!(
            out.contains("Complete requests:      3000") && out.contains("Failed requests:        0"),
            "{out}"
        );
    }
}
