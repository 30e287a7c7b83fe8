//! curl with the flags that people use, against nginx.

use std::path::Path;

use crate::files::fetch;
use crate::trial::Trial;
use crate::web::backend_with;
use crate::world::{DEVICE, OURS, PEER, Side, sha256};

/// nginx with HTTP/1.1, HTTP/2, TLS, the PROXY protocol, uploads and redirections; gives its big file and its certificate.
fn server(trial: &Trial) -> (std::path::PathBuf, String) {
    let dir = trial.world.dir.display();
    let (key, certificate) = (format!("{dir}/key.pem"), format!("{dir}/cert.pem"));
    let words =
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let more = ["-keyout", &key, "-out", &certificate, "-days", "2", "-subj", "/CN=lanes.example"];
    let names = ["-addext", "subjectAltName=DNS:lanes.example"];
    trial.world.check(Side::Peer, 20, &[&words[..], &more, &names].concat());
    let more = format!(
        "listen 81 proxy_protocol; listen 82 http2; listen 443 ssl http2; listen unix:{dir}/nginx.sock;\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
         location /echo {{ return 200 \"$request_method $args $http_user_agent\"; }}\n\
         location /kept/ {{ dav_methods PUT; create_full_put_path on; }}\n\
         location /form {{ proxy_pass http://{PEER}:80/length; }}\n\
         location /length {{ return 200 \"$content_length\"; }}\n\
         location /moved {{ return 302 /big; }}\n\
         location /slow {{ alias {dir}/www/big; limit_rate 100k; }}\n\
         location /who {{ return 200 \"$proxy_protocol_addr\"; }}\n"
    );
    (backend_with(trial, &more), certificate)
}

/// How the connection is made, and how it is used.
fn connections(trial: &Trial, big: &Path) {
    let url = format!("http://{PEER}/big");
    let flags: &[&[&str]] = &[
        &[],
        &["--http1.0"],
        &["--limit-rate", "30m"],
        &["--compressed"],
        &["--no-keepalive"],
        &["--tcp-nodelay"],
        &["--tcp-fastopen"],
        &["--no-buffer"],
        &["-4"],
        &["--interface", OURS],
        &["--interface", DEVICE],
        &["--local-port", "20000-20100"],
        &["--keepalive-time", "5"],
        &["--connect-timeout", "5"],
        &["--speed-limit", "10", "--speed-time", "5"],
        &["--retry", "2"],
        &["--retry-connrefused", "--retry-delay", "1", "--retry", "1"],
        &["--happy-eyeballs-timeout-ms", "100"],
        &["--raw", "--http1.1"],
        &["--trace-ascii", "/dev/null", "--trace-time"],
        &["--resolve", "other.example:80:10.77.0.1", "-H", "Host: other.example"],
        &["--connect-to", &format!("{PEER}:80:{PEER}:80")],
        &["-x", &format!("http://{PEER}:80")],
        &["-L"],
    ];
    for flags in flags {
        fetch(trial, Side::Ours, flags, &url, big);
    }
    fetch(trial, Side::Ours, &["-L", "--max-redirs", "2"], &format!("http://{PEER}/moved"), big);
    let socket = trial.world.dir.join("nginx.sock").display().to_string();
    fetch(trial, Side::Ours, &["--unix-socket", &socket], "http://nobody/big", big);
    let refused = trial.run(Side::Ours, 20, &["curl", "-sS", &format!("http://{PEER}:1/")]);
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
}

/// HTTP/2, with and without TLS, and TLS of each version.
fn protocols(trial: &Trial, big: &Path, certificate: &str) {
    fetch(trial, Side::Ours, &["--http2-prior-knowledge"], &format!("http://{PEER}:82/big"), big);
    let named = format!("lanes.example:443:{PEER}");
    let checked = ["--cacert", certificate, "--resolve", &named];
    for flags in [&["--http2"][..], &["--http1.1"], &["--tlsv1.3"], &["--tls-max", "1.2"], &["--no-alpn"]] {
        let flags = [&checked[..], flags].concat();
        fetch(trial, Side::Ours, &flags, "https://lanes.example/big", big);
        fetch(
            trial,
            Side::Ours,
            &[&flags[..], &["-k", "--limit-rate", "40m"]].concat(),
            "https://lanes.example/big",
            big,
        );
    }
    let untrusted = trial.run(Side::Ours, 20, &["curl", "-sS", &format!("https://{PEER}/big")]);
    assert_eq!(untrusted.status.code(), Some(60), "{untrusted:?}");
}

/// What goes up: by PUT, as a body, as a form, with and without a wait for 100 Continue.
fn uploads(trial: &Trial, big: &Path) {
    let (file, length) = (big.display().to_string(), big.metadata().expect("a file").len());
    let kept = trial.world.dir.join("www/kept/sent");
    for flags in
        [&[][..], &["-H", "Expect:"], &["--expect100-timeout", "2"], &["--limit-rate", "30m"], &["--http1.0"]]
    {
        let url = format!("http://{PEER}/kept/sent");
        trial.check(Side::Ours, 60, &[&["curl", "-sSf", "-T", &file, &url], flags].concat());
        assert_eq!(sha256(&kept), sha256(big), "{flags:?}");
        std::fs::remove_file(&kept).expect("it is there");
    }
    let body = format!("@{file}");
    let said = trial.check(
        Side::Ours,
        60,
        &["curl", "-sSf", "--data-binary", &body, &format!("http://{PEER}/form")],
    );
    assert_eq!(said, length.to_string());
    let form = format!("file=@{file}");
    let said = trial.check(
        Side::Ours,
        60,
        &["curl", "-sSf", "-F", &form, "-F", "a=b", &format!("http://{PEER}/form")],
    );
    assert!(said.parse::<u64>().is_ok_and(|said| said > length), "{said}");
}

/// Parts of a file, many files at a time, several requests of one command, and what is only looked at.
fn requests(trial: &Trial, big: &Path) {
    let dir = trial.world.dir.display().to_string();
    let url = format!("http://{PEER}/big");
    let bytes = std::fs::read(big).expect("a file");
    let part = format!("{dir}/part");
    trial.check(Side::Ours, 20, &["curl", "-sSf", "-r", "1000-1999999", "-o", &part, &url]);
    assert!(std::fs::read(&part).expect("a file") == bytes[1000..=1_999_999]);
    std::fs::write(&part, &bytes[..3_000_000]).expect("a file");
    trial.check(Side::Ours, 20, &["curl", "-sSf", "-C", "-", "-o", &part, &url]);
    assert_eq!(sha256(Path::new(&part)), sha256(big));
    let many = format!("{url}?[1-12]");
    let to = format!("{dir}/p#1");
    for flags in [&["-Z", "--parallel-max", "6"][..], &["-Z", "--parallel-immediate"], &["--rate", "100/s"]] {
        trial.check(Side::Ours, 60, &[&["curl", "-sSf", "-o", &to, &many], flags].concat());
        for n in 1..=12 {
            let path = format!("{dir}/p{n}");
            assert_eq!(sha256(Path::new(&path)), sha256(big));
            std::fs::remove_file(path).expect("it is there");
        }
    }
    let echo = format!("http://{PEER}/echo?a=b");
    assert_eq!(
        trial.check(Side::Ours, 20, &["curl", "-sSf", "-A", "lane", "-d", "some=data", &echo]),
        "POST a=b lane"
    );
    assert_eq!(
        trial.check(
            Side::Ours,
            20,
            &["curl", "-sSf", "-A", "lane", "-G", "-d", "c=d", &format!("http://{PEER}/echo")]
        ),
        "GET c=d lane"
    );
    assert_eq!(
        trial.check(
            Side::Ours,
            20,
            &["curl", "-sSf", "-X", "DELETE", "-A", "x", &echo, "--next", "-sSf", "-A", "y", &echo]
        ),
        "DELETE a=b xGET a=b y"
    );
    assert!(trial.check(Side::Ours, 20, &["curl", "-sSfI", &url]).contains("Content-Length: 5000003"));
    let who = trial.check(
        Side::Ours,
        20,
        &["curl", "-sSf", "--haproxy-protocol", &format!("http://{PEER}:81/who")],
    );
    assert_eq!(who, OURS);
    let telling = [
        "curl",
        "-sSf",
        "-o",
        "/dev/null",
        "-w",
        "%{local_ip} %{remote_ip} %{remote_port} %{size_download} %{num_connects}",
        &url,
    ];
    assert_eq!(trial.check(Side::Ours, 20, &telling), format!("{OURS} {PEER} 80 5000003 1"));
}

/// A download that takes too long, or is larger than wanted, ends with curl's own error.
fn limits(trial: &Trial) {
    let (big, slow) = (format!("http://{PEER}/big"), format!("http://{PEER}/slow"));
    let code = |flags: &[&str]| {
        trial.run(Side::Ours, 20, &[&["curl", "-sS", "-o", "/dev/null"], flags].concat()).status.code()
    };
    assert_eq!(code(&["--max-time", "1", &slow]), Some(28));
    assert_eq!(code(&["--speed-limit", "1000000", "--speed-time", "2", &slow]), Some(28));
    assert_eq!(code(&["--max-filesize", "1000", &big]), Some(63));
    assert_eq!(code(&["-f", "--fail-early", &format!("http://{PEER}/nothing")]), Some(22));
}

pub(crate) fn curl(trial: &Trial) {
    let (big, certificate) = server(trial);
    connections(trial, &big);
    protocols(trial, &big, &certificate);
    uploads(trial, &big);
    requests(trial, &big);
    limits(trial);
}
