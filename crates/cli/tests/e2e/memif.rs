//! Programs whose only way to one another is a memif wire: no device, no kernel.

use crate::world::{Side, World, program};

/// `corelane run` at one end of the wire whose socket lies at `path`.
fn at_end(path: &str, end: &str, words: &[&str]) -> Vec<String> {
    let device = format!("memif:{path}={end},id=5,secret=psst,mtu=9000");
    let mut line =
        vec![program().display().to_string(), "run".into(), "--device".into(), device, "--".into()];
    line.extend(words.iter().map(|w| (*w).to_owned()));
    line
}

#[test]
fn a_file_is_fetched_over_a_memif_wire() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("page", 5_000_000);
    let path = world.dir.join("wire").display().to_string();
    let server = at_end(&path, "10.88.0.1/24,role=server", &["python3", "-m", "http.server", "8000"]);
    let mut server = world.spawn(Side::Peer, "server", &server);
    let got = world.dir.join("got").display().to_string();
    // Nobody answers on the wire until the server listens.
    let fetch = format!("until curl -sS -o {got} http://10.88.0.1:8000/page; do sleep 0.5; done");
    let client = at_end(&path, "10.88.0.2/24", &["sh", "-c", &fetch]);
    world.check(Side::Ours, 60, &client);
    assert!(std::fs::read(file).expect("the page") == std::fs::read(&got).expect("what came"), "the same");
    server.assert_running();
    world.assert_clean();
}

#[test]
fn a_file_is_fetched_over_a_memif_wire_by_ipv6() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    let file = world.random_file("page", 5_000_000);
    let path = world.dir.join("wire").display().to_string();
    let serve = ["python3", "-m", "http.server", "--bind", "::", "8000"];
    let mut server = world.spawn(Side::Peer, "server", &at_end(&path, "fd00:88::1/64,role=server", &serve));
    let got = world.dir.join("got").display().to_string();
    let fetch = format!("until curl -sSg -o {got} 'http://[fd00:88::1]:8000/page'; do sleep 0.5; done");
    world.check(Side::Ours, 60, &at_end(&path, "fd00:88::2/64", &["sh", "-c", &fetch]));
    assert!(std::fs::read(file).expect("the page") == std::fs::read(&got).expect("what came"), "the same");
    server.assert_running();
}

#[test]
fn a_memif_peer_that_is_missing_is_named() {
    let Some(world) = World::new(&["ip"]) else { return };
    let path = world.dir.join("nobody").display().to_string();
    let output = world.run(Side::Ours, 60, &at_end(&path, "10.88.0.2/24", &["true"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(&path) && text.contains("start the peer"), "{text}");
}
