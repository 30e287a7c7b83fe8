//! IPv6: unmodified programs on Corelane over it, kernel peers, with the kernel's counters as witness that its TCP took no part.

use crate::wires::kernel_segments;
use crate::world::{DEVICE, OURS, OURS_V6, PEER_V6, Process, Side, World, program, sha256, wait_until};

/// nginx with the lines `listens` in its server.
fn nginx(world: &World, listens: &str) -> Process {
    let dir = world.dir.display();
    let conf = format!(
        "daemon off; worker_processes 2; user root; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ }}\n\
         http {{ access_log off;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         server {{ {listens} root {dir}/www; location /who {{ return 200 \"$remote_addr $server_addr\\n\"; }} }} }}\n"
    );
    std::fs::create_dir_all(world.dir.join("www")).expect("a folder");
    std::fs::write(world.dir.join("nginx.conf"), conf).expect("a file");
    let conf = world.dir.join("nginx.conf").display().to_string();
    let mut server = world.spawn(Side::Ours, "nginx", &World::corelane(&["/usr/sbin/nginx", "-c", &conf]));
    world.wait_for_port(&mut server, 80);
    world.wait_for_port_from(Side::Peer, OURS_V6, &mut server, 80);
    server
}

/// [`kernel_segments`] of Corelane's side once every connection of the kernel's there has ended: those that came before the listener was a
/// lane's.
pub(crate) fn settled_segments(world: &World) -> u64 {
    let open = ["ss", "-tnH", "state", "connected", "exclude", "time-wait"];
    wait_until("the kernel's connections have ended", 20, || {
        world.check(Side::Ours, 5, &open).trim().is_empty()
    });
    kernel_segments(world, Side::Ours)
}

fn fetch(world: &World, url: &str) -> String {
    world.check(Side::Peer, 30, &["curl", "-sSfg", url])
}

#[test]
fn nginx_serves_both_families_from_one_listener_or_two() {
    let Some(world) = World::new(&["nginx", "curl", "ip"]) else { return };
    world.add_ipv6();
    let near = world.link_local(Side::Ours);
    for (listens, mapped) in
        [("listen 80; listen [::]:80 ipv6only=on;", false), ("listen [::]:80 ipv6only=off;", true)]
    {
        let mut server = nginx(&world, listens);
        let file = world.random_file("www/big", 20_000_003);
        let before = settled_segments(&world);
        for host in [OURS.to_owned(), format!("[{OURS_V6}]"), format!("[{near}%25peer0]")] {
            for _ in 0..4 {
                let fetched = world.dir.join("fetched").display().to_string();
                world.check(
                    Side::Peer,
                    60,
                    &["curl", "-sSfg", "-o", &fetched, &format!("http://{host}/big")],
                );
                assert_eq!(sha256(&file), sha256(fetched.as_ref()), "{host}");
            }
        }
        let four = if mapped { "::ffff:10.77.0.1 ::ffff:10.77.0.2" } else { "10.77.0.1 10.77.0.2" };
        assert_eq!(fetch(&world, &format!("http://{OURS}/who")).trim(), four);
        assert_eq!(fetch(&world, &format!("http://[{OURS_V6}]/who")).trim(), format!("{PEER_V6} {OURS_V6}"));
        assert_eq!(kernel_segments(&world, Side::Ours), before, "{listens}: the kernel took part");
        server.assert_running();
        drop(server);
    }
    world.assert_clean();
}

#[test]
fn redis_serves_over_ipv6() {
    let Some(world) = World::new(&["redis-server", "redis-benchmark", "ip"]) else { return };
    world.add_ipv6();
    let words = ["redis-server", "--bind", OURS_V6, "--protected-mode", "no", "--save", "", "--port", "6379"];
    let mut server = world.spawn(Side::Ours, "redis", &World::corelane(&words));
    world.wait_for_port_from(Side::Peer, OURS_V6, &mut server, 6379);
    let before = settled_segments(&world);
    let line = ["redis-benchmark", "-h", OURS_V6, "-n", "20000", "-t", "ping,set,get,lrange_100", "-q"];
    world.check(Side::Peer, 120, &line);
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    server.assert_running();
}

#[test]
fn clients_reach_ipv6_servers_link_local_ones_too() {
    let Some(world) = World::new(&["python3", "curl", "ip"]) else { return };
    world.add_ipv6();
    let file = world.random_file("data", 20_000_003);
    let serve = ["python3", "-m", "http.server", "--bind", "::", "8000"];
    let mut server = world.spawn(Side::Peer, "peer-python", &serve);
    world.wait_for_port_from(Side::Ours, PEER_V6, &mut server, 8000);
    let near = world.link_local(Side::Peer);
    let before = settled_segments(&world);
    for host in [PEER_V6.to_owned(), format!("{near}%25{DEVICE}")] {
        let fetched = world.dir.join("fetched").display().to_string();
        let url = format!("http://[{host}]:8000/data");
        world.check(Side::Ours, 60, &World::corelane(&["curl", "-sSfg", "-o", &fetched, &url]));
        assert_eq!(sha256(&file), sha256(fetched.as_ref()), "{host}");
    }
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    world.assert_clean();
}

/// Calls of ipv6(7) on sockets of both kinds, the same under `corelane run` and without.
const CALLS: &str = r"
import errno, socket, sys
peer, near, device = sys.argv[1:4]
def tell(*what): print(*what, flush=True)
def fails(call):
    try: return call()
    except OSError as e: return errno.errorcode[e.errno]
scope = socket.if_nametoindex(device)
for host in [(peer, 7007, 0, 0), (near, 7007, 0, scope)]:
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x2f)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 77)
    s.connect(host)
    tell(s.getpeername(), s.getsockname()[0], s.getsockname()[2:])
    tell([s.getsockopt(socket.IPPROTO_IPV6, o) for o in (socket.IPV6_TCLASS, socket.IPV6_UNICAST_HOPS, socket.IPV6_V6ONLY)])
    tell(fails(lambda: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 300)))
    tell(s.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6, s.recv(100), s.recv(100))
    s.close()
s = socket.socket(socket.AF_INET6)
s.connect(('::ffff:10.77.0.1', 7007))
tell(s.getpeername(), s.getsockname()[0], s.recv(100), s.recv(100)); s.close()
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
tell(fails(lambda: s.connect(('::ffff:10.77.0.1', 7007))))
s = socket.socket(socket.AF_INET6)
tell(fails(lambda: s.connect((near, 7007))))
s = socket.socket(socket.AF_INET6)
tell(fails(lambda: s.connect((peer, 7999))))
";

#[test]
fn calls_on_ipv6_sockets_answer_as_the_kernels_do() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let serve = "import socket\ns=socket.create_server(('::',7007),family=socket.AF_INET6,dualstack_ipv6=True)\nwhile True:\n c,a=s.accept();c.sendall(a[0].encode());c.close()";
    let mut server = world.spawn(Side::Peer, "peer-names", &["python3", "-c", serve]);
    world.wait_for_port_from(Side::Ours, PEER_V6, &mut server, 7007);
    let near = world.link_local(Side::Peer);
    let words = ["python3", "-c", CALLS, PEER_V6, &near, DEVICE];
    let by_kernel = world.check(Side::Ours, 30, &words);
    let before = settled_segments(&world);
    let by_lane = world.check(Side::Ours, 30, &World::corelane(&words));
    assert_eq!(by_lane, by_kernel);
    assert!(by_kernel.contains("ENETUNREACH") && by_kernel.contains("ECONNREFUSED"), "{by_kernel}");
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
}

#[test]
fn a_listener_sees_link_local_peers_with_the_device_as_their_scope() {
    let Some(world) = World::new(&["python3", "ip"]) else { return };
    world.add_ipv6();
    let serve = "import socket\ns=socket.create_server(('::',7008),family=socket.AF_INET6)\nprint('ready',flush=True)\nwhile True:\n c,a=s.accept();print(a[0],a[2:],c.getpeername()==a,c.getsockname()[3]==a[3],flush=True);c.sendall(b'x');c.close()";
    let server = world.spawn(Side::Ours, "names", &World::corelane(&["python3", "-c", serve]));
    wait_until("the server is ready", 20, || server.output().contains("ready"));
    let near = world.link_local(Side::Ours);
    let ask = format!(
        "import socket\ns=socket.create_connection(('{near}%peer0',7008),timeout=20)\nassert s.recv(1)==b'x'"
    );
    // The first connection may still be the kernel's: the listener is a lane's from the first wait on it.
    for _ in 0..3 {
        world.check(Side::Peer, 30, &["python3", "-c", &ask]);
    }
    let before = settled_segments(&world);
    world.check(Side::Peer, 30, &["python3", "-c", &ask]);
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    let index = world.check(Side::Ours, 5, &["cat", &format!("/sys/class/net/{DEVICE}/ifindex")]);
    let line = format!("{} (0, {}) True True", world.link_local(Side::Peer), index.trim());
    wait_until("the server has told of its peer", 10, || {
        server.output().lines().filter(|l| *l == line).count() >= 4
    });
}

#[test]
fn a_tap_device_has_an_ipv6_address_of_its_own() {
    let Some(world) = World::new(&["python3", "curl", "ping", "ip"]) else { return };
    let file = world.random_file("data", 20_000_003);
    let program = program().display().to_string();
    let device = "tap:cl0=fd00:9::2/64,gw=fd00:9::1";
    let words =
        [&program, "run", "--device", device, "--", "python3", "-m", "http.server", "--bind", "::", "8000"];
    let mut server = world.spawn(Side::Ours, "python", &words);
    world.wait_for_port_from(Side::Ours, "fd00:9::2", &mut server, 8000);
    let fetched = world.dir.join("fetched").display().to_string();
    let url = "http://[fd00:9::2]:8000/data";
    world.check(Side::Ours, 60, &["curl", "-sSfg", "-o", &fetched, url]);
    assert_eq!(sha256(&file), sha256(fetched.as_ref()));
    // Nobody but Corelane has the address: neighbour discovery and echo are its own.
    world.check(Side::Ours, 20, &["ping", "-6", "-c", "3", "-i", "0.2", "-s", "4000", "fd00:9::2"]);
    server.assert_running();
}
