//! The servers of the demo: nginx or Python's, and iperf3, unmodified, on either stack.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base::Rng;

use super::place::{SERVER_ADDRESS, Stack, World};
use super::{load, processes};
use crate::explain;
use crate::failure::Failure;

/// Port of the web server.
pub(super) const WEB_PORT: u16 = 8080;
/// Port of iperf3.
pub(super) const BULK_PORT: u16 = 5201;
/// Name of the large file.
pub(super) const LARGE_FILE: &str = "large.bin";
/// Bytes of the page that is asked for again and again.
const PAGE_BYTES: usize = 1024;
/// A server that does not answer after this time never will.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A server that has no lane after this time will not get one.
const ACCELERATION_LIMIT: Duration = Duration::from_secs(5);

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Web {
    Nginx,
    Python,
}

impl Web {
    /// The one that is installed, nginx first.
    pub(super) fn choose() -> Result<Self, Failure> {
        if nginx_program().is_some() {
            Ok(Self::Nginx)
        } else if load::installed("python3") {
            Ok(Self::Python)
        } else {
            Err(Failure::new("looking for a web server", "neither nginx nor python3 is installed")
                .fix("install one, for example: apt-get install nginx"))
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Python => "python3 -m http.server",
        }
    }
}

/// nginx is often in /usr/sbin, which is not on everybody's PATH.
fn nginx_program() -> Option<&'static str> {
    ["nginx", "/usr/sbin/nginx"].into_iter().find(|p| load::installed(p))
}

/// What is served: a page and a large file of random bytes, in a directory that goes with this value.
pub(super) struct Site {
    directory: PathBuf,
    /// Bytes of the large file.
    pub(super) large_bytes: u64,
    /// SHA-256 of the large file, hex.
    pub(super) digest: String,
}

impl Site {
    /// Makes the directory with a large file of `large_bytes`.
    pub(super) fn make(large_bytes: u64) -> Result<Self, Failure> {
        let directory = processes::directory();
        let failed = |e: std::io::Error| Failure::new("making the demo's files", e);
        let mut site = Self { directory, large_bytes, digest: String::new() };
        std::fs::create_dir_all(site.root()).map_err(failed)?;
        std::fs::create_dir_all(site.directory.join("tmp")).map_err(failed)?;
        std::fs::write(site.root().join("index.html"), "x".repeat(PAGE_BYTES)).map_err(failed)?;
        let large = site.root().join(LARGE_FILE);
        write_random(&large, large_bytes).map_err(failed)?;
        let output = Command::new("sha256sum").arg(&large).output().map_err(failed)?;
        site.digest =
            String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned();
        Ok(site)
    }

    fn root(&self) -> PathBuf {
        self.directory.join("www")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What stays behind is found by its name next time.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn write_random(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut rng = Rng::new(u64::from(std::process::id()));
    for _ in 0..bytes / 8 {
        out.write_all(&rng.next_u64().to_le_bytes())?;
    }
    out.flush()
}

/// A server that runs; dropped, it is stopped.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts the web server on `stack` and waits until it answers.
    pub(super) fn web(
        world: &World,
        site: &Site,
        stack: Stack,
        web: Web,
        port: &str,
    ) -> Result<Self, Failure> {
        let words = match web {
            Web::Nginx => {
                let config = site.directory.join("nginx.conf");
                std::fs::write(&config, nginx_config(site)).map_err(|e| Failure::new("nginx.conf", e))?;
                vec![
                    nginx_program().unwrap_or("nginx").to_owned(),
                    "-e".to_owned(),
                    "stderr".to_owned(),
                    "-c".to_owned(),
                    config.display().to_string(),
                ]
            }
            Web::Python => {
                let port = WEB_PORT.to_string();
                let root = site.root().display().to_string();
                ["python3", "-m", "http.server", "--protocol", "HTTP/1.1", "--directory", &root, &port]
                    .map(str::to_owned)
                    .to_vec()
            }
        };
        Self::start(world, site, stack, words, (port, WEB_PORT))
    }

    /// Starts `iperf3 -s` on `stack`.
    pub(super) fn iperf3(world: &World, site: &Site, stack: Stack, port: &str) -> Result<Self, Failure> {
        let words = ["iperf3", "-s", "-p", &BULK_PORT.to_string()].map(str::to_owned).to_vec();
        Self::start(world, site, stack, words, (port, BULK_PORT))
    }

    fn start(
        world: &World,
        site: &Site,
        stack: Stack,
        words: Vec<String>,
        (kind, port): (&str, u16),
    ) -> Result<Self, Failure> {
        let name = words.first().cloned().unwrap_or_default();
        let what = format!("starting {name} on {}", stack.name());
        let failed = |e: std::io::Error| Failure::new(what.clone(), e);
        let mut command = match stack {
            Stack::Kernel => Command::new(&name),
            Stack::Corelane => {
                let mut command = Command::new(std::env::current_exe().map_err(failed)?);
                command.args(["run", "--port", kind, "--device", &world.device(), "--", &name]);
                command
            }
        };
        let log = site.directory.join("server.log");
        let log_file = File::create(&log).map_err(failed)?;
        command.args(words.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        let child = world.server(stack).spawn(command).map_err(failed)?;
        let mut server = Self { child };
        server.wait_until_it_answers(world, stack, port).map_err(|why| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(8).collect();
            let said = last.into_iter().rev().collect::<Vec<_>>().join("\n    ");
            Failure::new(
                what.clone(),
                if said.is_empty() { why } else { format!("{why}; it said:\n    {said}") },
            )
        })?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self, world: &World, stack: Stack, port: u16) -> Result<(), String> {
        let address: SocketAddr =
            format!("{SERVER_ADDRESS}:{port}").parse().map_err(|_| "no address".to_owned())?;
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended ({status})"));
            }
            let limit = Duration::from_millis(500);
            let connected =
                world.client(stack).run(move || TcpStream::connect_timeout(&address, limit).is_ok());
            if connected {
                if stack == Stack::Corelane {
                    self.wait_until_it_is_accelerated();
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("no answer on port {port} within {} s", START_LIMIT.as_secs()))
    }

    /// A connection that comes before the server's lane is open is the kernel's for good. A server that is never
    /// accelerated is measured all the same, and that is said.
    fn wait_until_it_is_accelerated(&self) {
        let start = Instant::now();
        while start.elapsed() < ACCELERATION_LIMIT && !explain::summary(&self.members()).1 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// CPU time of the server's processes so far, s; on Corelane its keeper and steward count too.
    pub(super) fn cpu_seconds(&self) -> f64 {
        processes::cpu_seconds(self.child.id())
    }

    /// The server's processes, the first one first.
    pub(super) fn members(&self) -> Vec<u32> {
        processes::members(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        processes::stop(&mut self.child);
    }
}

fn nginx_config(site: &Site) -> String {
    let (root, directory) = (site.root(), site.directory.display());
    // As root, the worker stays root: it has to write in a directory of ours, whoever else the system's nginx is.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "daemon off; worker_processes 1; {user}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; default_type text/html;
    keepalive_timeout 65; keepalive_requests 10000000;
    client_body_temp_path {directory}/tmp; proxy_temp_path {directory}/tmp; fastcgi_temp_path {directory}/tmp;
    uwsgi_temp_path {directory}/tmp; scgi_temp_path {directory}/tmp;
    server {{ listen {WEB_PORT}; root {}; }}
}}
",
        root.display()
    )
}
