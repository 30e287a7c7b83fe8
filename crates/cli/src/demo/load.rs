//! The kernel's clients that drive the server, and what they report.

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use hdrhistogram::Histogram;

use super::place::{Place, SERVER_ADDRESS};
use crate::failure::Failure;

/// What one run of requests gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Requests {
    /// Requests answered.
    pub(super) count: u64,
    /// Requests a second.
    pub(super) rate: f64,
    /// Median latency, us.
    pub(super) p50_us: f64,
    /// 99th percentile of the latency, us.
    pub(super) p99_us: f64,
    /// Requests that failed.
    pub(super) errors: u64,
    /// Those of them that were not answered in time.
    pub(super) timeouts: u64,
}

/// Is `program` installed?
pub(super) fn installed(program: &str) -> bool {
    let probe = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match probe {
        Ok(mut child) => {
            // Only its existence matters.
            let _ = child.wait();
            true
        }
        Err(_) => false,
    }
}

fn run(client: &Place, mut command: Command) -> Result<Output, Failure> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("running {name}"), e);
    let child = client.spawn(command).map_err(|e| failed(&e))?;
    child.wait_with_output().map_err(|e| failed(&e))
}

/// Drives `path` on `port` for `seconds` with 64 connections, each kept, or closed after each request.
pub(super) fn wrk(client: &Place, port: u16, close: bool, seconds: u32) -> Result<Requests, Failure> {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "64", "--latency", "--timeout", "5s", "-d"]).arg(format!("{seconds}s"));
    if close {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{SERVER_ADDRESS}:{port}/"));
    let output = run(client, command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_wrk(&text).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        Failure::new("wrk", format!("unexpected output: {} {}", text.trim(), errors.trim()))
    })
}

/// Reads what `wrk --latency` prints.
fn parse_wrk(text: &str) -> Option<Requests> {
    let mut found = Requests::default();
    let mut seen = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => found.p50_us = parse_time_us(time)?,
            ["99%", time] => found.p99_us = parse_time_us(time)?,
            [count, "requests", "in", ..] => found.count = count.parse().ok()?,
            ["Requests/sec:", rate] => {
                found.rate = rate.parse().ok()?;
                seen = true;
            }
            ["Socket", "errors:", rest @ ..] => {
                found.errors += numbers_in(rest);
                found.timeouts += rest.last().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
            ["Non-2xx", "or", "3xx", "responses:", n] => found.errors += n.parse::<u64>().ok()?,
            _ => {}
        }
    }
    seen.then_some(found)
}

fn numbers_in(words: &[&str]) -> u64 {
    words.iter().filter_map(|w| w.trim_end_matches(',').parse::<u64>().ok()).sum()
}

/// `12.3us`, `1.2ms` or `1.2s` in us.
fn parse_time_us(text: &str) -> Option<f64> {
    for (suffix, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)] {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<f64>().ok().map(|n| n * factor);
        }
    }
    None
}

/// The same by one curl process for many requests in a row, when there is no wrk.
pub(super) fn curl_loop(client: &Place, port: u16, close: bool, seconds: u32) -> Result<Requests, Failure> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)
        .map_err(|e| Failure::new("latency histogram", e))?;
    let mut found = Requests::default();
    let start = Instant::now();
    while start.elapsed().as_secs() < u64::from(seconds) {
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code} %{time_total}\n"]);
        if close {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{SERVER_ADDRESS}:{port}/?[1-200]"));
        let output = run(client, command)?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            match line.split_once(' ').map(|(code, time)| (code, time.parse::<f64>())) {
                Some(("200", Ok(time))) => {
                    times.saturating_record((time * 1e6) as u64);
                    found.count += 1;
                }
                _ => found.errors += 1,
            }
        }
    }
    found.rate = found.count as f64 / start.elapsed().as_secs_f64();
    found.p50_us = times.value_at_quantile(0.5) as f64;
    found.p99_us = times.value_at_quantile(0.99) as f64;
    Ok(found)
}

/// A file fetched: its digest, and how long it took, s.
pub(super) fn fetch_digest(client: &Place, port: u16, name: &str) -> Result<(String, f64), Failure> {
    let mut command = Command::new("sh");
    let url = format!("http://{SERVER_ADDRESS}:{port}/{name}");
    command.args(["-c", "curl -sS -m 300 \"$0\" | sha256sum", &url]);
    let start = Instant::now();
    let output = run(client, command)?;
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().next() {
        Some(digest) if output.stderr.is_empty() => Ok((digest.to_owned(), seconds)),
        Some(_) | None => {
            Err(Failure::new(format!("fetching {url}"), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

/// Bulk transfer by iperf3, Gb/s; `reverse`: the server sends. A server that is still busy with the connection that
/// looked whether it answers is asked again.
pub(super) fn iperf3(client: &Place, port: u16, reverse: bool, seconds: u32) -> Result<f64, Failure> {
    const TRIES: u32 = 5;
    let mut outcome = iperf3_once(client, port, reverse, seconds);
    for _ in 1..TRIES {
        if outcome.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        outcome = iperf3_once(client, port, reverse, seconds);
    }
    outcome
}

fn iperf3_once(client: &Place, port: u16, reverse: bool, seconds: u32) -> Result<f64, Failure> {
    let mut command = Command::new("iperf3");
    command.args(["-J", "-c", SERVER_ADDRESS, "-p", &port.to_string(), "-t", &seconds.to_string()]);
    if reverse {
        command.arg("-R");
    }
    let output = run(client, command)?;
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| Failure::new("iperf3's report", e))?;
    let bits = value.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    bits.map(|bits| bits / 1e9).ok_or_else(|| {
        let why =
            value.pointer("/error").and_then(serde_json::Value::as_str).unwrap_or("no result").to_owned();
        Failure::new("iperf3", why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ http://10.231.0.1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.04ms    2.48ms  41.07ms   94.67%
    Req/Sec   107.32k    11.36k  123.07k    70.00%
  Latency Distribution
     50%  512.00us
     75%  687.00us
     90%    1.22ms
     99%   13.26ms
  106777 requests in 1.00s, 129.63MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec: 106574.53
Transfer/sec:    129.39MB
";

    #[test]
    fn the_figures_of_wrk_are_read() {
        let expected = Requests {
            count: 106_777,
            rate: 106_574.53,
            p50_us: 512.0,
            p99_us: 13_260.0,
            errors: 7,
            timeouts: 1,
        };
        assert_eq!(parse_wrk(WRK), Some(expected));
        assert_eq!(parse_wrk("unable to connect to 10.231.0.1:80 Connection refused"), None);
    }
}
