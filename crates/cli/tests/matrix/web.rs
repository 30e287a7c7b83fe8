//! Web servers and proxies.

use rustix::process::Signal;

use crate::files::{PYTHON, fetch, load, load_in_background, load_with, program, www};
use crate::trial::Trial;
use crate::world::{OURS, PEER, Side};

/// nginx's configuration, with `more` in its server.
pub(crate) fn nginx_conf(trial: &Trial, workers: u32, more: &str) -> String {
    let dir = trial.world.dir.display();
    let conf = format!(
        "daemon off; worker_processes {workers}; user root; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000;\n\
         client_max_body_size 100m; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi;\n\
         uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         server {{ listen 80; listen 8080; root {dir}/www; {more} }} }}\n"
    );
    trial.write("nginx.conf", &conf)
}

pub(crate) fn nginx(trial: &Trial) {
    let big = www(trial);
    let conf = nginx_conf(trial, 4, "");
    trial.serve(Side::Ours, "nginx", &["/usr/sbin/nginx", "-c", &conf], 80);
    let url = format!("http://{OURS}/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    load(trial, Side::Peer, &url);
    trial.signal("nginx.pid", Signal::HUP);
    // Workers that end close connections that wait for a next request, here as on the kernel.
    load_with(trial, Side::Peer, "Connection: close", &url);
    fetch(trial, Side::Peer, &["--limit-rate", "20m"], &format!("{url}big"), &big);
}

/// nginx on the peer's side; gives its big file.
pub(crate) fn backend(trial: &Trial) -> std::path::PathBuf {
    backend_with(trial, "")
}

/// [`backend`] with `more` in its server.
pub(crate) fn backend_with(trial: &Trial, more: &str) -> std::path::PathBuf {
    let big = www(trial);
    let conf = nginx_conf(trial, 1, more);
    trial.serve(Side::Peer, "backend", &["/usr/sbin/nginx", "-c", &conf], 80);
    big
}

/// Reloads of haproxy under load; each new worker gets the listeners of the one before over a socket.
const RELOADS: usize = 3;

fn haproxy(trial: &Trial, mode: &str) {
    let big = backend(trial);
    let dir = trial.world.dir.display();
    let conf = format!(
        "global\n maxconn 4000\n nbthread 2\n stats socket {dir}/ha.sock mode 600 level admin expose-fd listeners\n\
         defaults\n mode {mode}\n timeout client 20s\n timeout server 20s\n timeout connect 5s\n\
         frontend f\n bind {OURS}:8081\n default_backend b\nbackend b\n server s {PEER}:80\n"
    );
    let conf = trial.write("haproxy.cfg", &conf);
    let pidfile = trial.world.dir.join("haproxy.pid");
    let words = ["/usr/sbin/haproxy", "-W", "-db", "-f", &conf, "-p", &pidfile.display().to_string()];
    let server = trial.serve(Side::Ours, "haproxy", &words, 8081);
    let url = format!("http://{OURS}:8081/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    load(trial, Side::Peer, &url);
    trial.until("the master says its pid", || {
        std::fs::read_to_string(&pidfile).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let background = load_in_background(trial, Side::Peer, "Connection: close", &url);
    // Before that, haproxy itself misses the signal.
    let reloads = || trial.output(server).matches("Former worker").count();
    for _ in 0..RELOADS {
        let before = reloads();
        trial.signal("haproxy.pid", Signal::USR2);
        trial.until("the worker is another one", || reloads() > before);
    }
    background.assert_no_failure(trial);
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
}

pub(crate) fn haproxy_tcp(trial: &Trial) {
    haproxy(trial, "tcp");
}

pub(crate) fn haproxy_http(trial: &Trial) {
    haproxy(trial, "http");
}

fn apache(trial: &Trial, mpm: &str) {
    let big = www(trial);
    let dir = trial.world.dir.display();
    let modules = "/usr/lib/apache2/modules";
    let conf = format!(
        "ServerRoot {dir}\nServerName x\nPidFile {dir}/apache.pid\nDefaultRuntimeDir {dir}\nErrorLog {dir}/apache-error.log\nMutex default:{dir}\n\
         LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so\nLoadModule authz_core_module {modules}/mod_authz_core.so\n\
         LoadModule dir_module {modules}/mod_dir.so\nListen {OURS}:8082\nDocumentRoot {dir}/www\nUser www-data\nGroup www-data\n\
         <Directory {dir}/www>\nRequire all granted\n</Directory>\nMaxKeepAliveRequests 0\n"
    );
    let conf = trial.write("apache.conf", &conf);
    trial.serve(Side::Ours, "apache", &["/usr/sbin/apache2", "-DFOREGROUND", "-f", &conf], 8082);
    let url = format!("http://{OURS}:8082/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    let ab = |flags: &[&str]| {
        let mut words = vec!["ab", "-q", "-n", "2000", "-c", "20", "-s", "20"];
        words.extend(flags);
        words.push(&url);
        let out = trial.check(Side::Peer, 60, &words);
        assert!(
            out.contains("Complete requests:      2000") && out.contains("Failed requests:        0"),
            "{out}"
        );
    };
    ab(&["-k"]);
    trial.signal("apache.pid", Signal::USR1);
    ab(&[]);
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
}

pub(crate) fn apache_event(trial: &Trial) {
    apache(trial, "event");
}

pub(crate) fn apache_prefork(trial: &Trial) {
    apache(trial, "prefork");
}

pub(crate) fn lighttpd(trial: &Trial) {
    let big = www(trial);
    let dir = trial.world.dir.display();
    let conf = format!(
        "server.document-root = \"{dir}/www\"\nserver.port = 8083\nserver.bind = \"{OURS}\"\nserver.errorlog = \"{dir}/lighttpd-error.log\"\n\
         index-file.names = (\"index.html\")\nserver.max-keep-alive-requests = 100000\n"
    );
    let conf = trial.write("lighttpd.conf", &conf);
    trial.serve(Side::Ours, "lighttpd", &["/usr/sbin/lighttpd", "-D", "-f", &conf], 8083);
    let url = format!("http://{OURS}:8083/");
    fetch(trial, Side::Peer, &[], &format!("{url}big"), &big);
    load(trial, Side::Peer, &url);
}

pub(crate) fn python_http(trial: &Trial) {
    let big = www(trial);
    trial.serve(Side::Ours, "python", &[PYTHON, "-m", "http.server", "8000"], 8000);
    for _ in 0..10 {
        fetch(trial, Side::Peer, &[], &format!("http://{OURS}:8000/www/big"), &big);
    }
}

pub(crate) fn gunicorn(trial: &Trial) {
    let app = program("wsgi_app.py");
    let folder = std::path::Path::new(&app).parent().map(|p| p.display().to_string()).unwrap_or_default();
    let big = www(trial);
    let bind = format!("{OURS}:8084");
    let folder_of_files = format!("WWW={}", trial.world.dir.join("www").display());
    for class in ["sync", "gthread"] {
        let begin = ["env", &folder_of_files, "gunicorn", "--chdir", &folder];
        let words =
            [&begin[..], &["-w", "3", "--threads", "2", "-k", class, "-b", &bind, "wsgi_app"]].concat();
        let server = trial.start(Side::Ours, class, &words);
        trial.ready(Side::Ours, server, 8084);
        fetch(trial, Side::Peer, &[], &format!("http://{OURS}:8084/big"), &big);
        load(trial, Side::Peer, &format!("http://{OURS}:8084/"));
        if class == "sync" {
            trial.stop(server, Signal::TERM);
        }
    }
}
