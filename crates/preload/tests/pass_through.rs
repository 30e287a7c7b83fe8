//! Real programs with the library loaded and no keeper behind it: everything goes to the kernel, and works as without.
//!
//! Each runs twice: with the library switched off (no `CORELANE_KEEPER`), and with a keeper named that is not there, where the whole
//! machinery of tables, epoll sets and waits runs and ends at the kernel.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::PathBuf;
use std::process::{Command, Output};

fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("libcorelane_preload.so")
}

fn run(keeper: bool, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program).args(args);
    command.env("LD_PRELOAD", library()).env("CORELANE_QUIET", "1");
    command.env_remove("CORELANE_KEEPER").env_remove("CORELANE_TOKEN");
    if keeper {
        command.env("CORELANE_KEEPER", "corelane-test-nobody-listens-here");
        command.env("CORELANE_TOKEN", "00112233445566778899aabbccddeeff");
    }
    command.output().unwrap()
}

fn expect(program: &str, args: &[&str], wanted: &str) {
    for keeper in [false, true] {
        let output = run(keeper, program, args);
        let got = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            got, wanted,
            "{program}, keeper named: {keeper}; status {:?}, errors: {errors}",
            output.status
        );
        assert!(output.status.success(), "{program}: {errors}");
    }
}

#[test]
fn bash_pipes_forks_and_moves_descriptors() {
    let script = "echo hi | cat; for i in 1 2; do (echo $i) & wait; done; exec 9>&1; echo nine >&9; exec 9>&-; \
                  cat <(echo sub) ; echo to-err 2>&1 >/dev/null; read x <<< here; echo $x";
    expect("bash", &["-c", script], "hi\n1\n2\nnine\nsub\nhere\n");
}

#[test]
fn python_runs_children_that_close_every_descriptor() {
    let script = "import subprocess,os\n\
        p=subprocess.run(['sh','-c','cat; echo end'],input=b'in\\n',capture_output=True,close_fds=True)\n\
        print(p.stdout.decode(),end='')\n\
        r,w=os.pipe(); pid=os.fork()\n\
        if pid==0:\n  os.closerange(3,w); os.write(w,b'child'); os._exit(7)\n\
        os.close(w); print(os.read(r,10).decode(), os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))";
    expect("python3", &["-c", script], "in\nend\nchild 7\n");
}

#[test]
fn a_threaded_echo_over_loopback_comes_back_whole() {
    let script = "import socket,threading\n\
        s=socket.create_server(('127.0.0.1',0)); p=s.getsockname()[1]\n\
        def serve():\n  c,_=s.accept()\n  f=c.makefile('rwb')\n  for line in f: f.write(line.upper()); f.flush()\n  c.close()\n\
        t=threading.Thread(target=serve); t.start()\n\
        c=socket.create_connection(('127.0.0.1',p),timeout=10)\n\
        c.sendall(b'one\\ntwo\\n'); c.shutdown(socket.SHUT_WR)\n\
        d=b''\n\
        while True:\n  x=c.recv(3)\n  if not x: break\n  d+=x\n\
        print(d.decode(),end=''); t.join()";
    expect("python3", &["-c", script], "ONE\nTWO\n");
}

#[test]
fn asyncio_serves_and_connects_by_epoll() {
    let script = "import asyncio\n\
        async def serve(r,w):\n  w.write(await r.read(100)); await w.drain(); w.close()\n\
        async def main():\n  s=await asyncio.start_server(serve,'127.0.0.1',0); p=s.sockets[0].getsockname()[1]\n  \
          async def one(i):\n    r,w=await asyncio.open_connection('127.0.0.1',p); w.write(b'%d'%i); w.write_eof()\n    \
            d=await r.read(); w.close(); return int(d)\n  \
          print(sum(await asyncio.gather(*[one(i) for i in range(50)])))\n\
        asyncio.run(main())";
    expect("python3", &["-c", script], "1225\n");
}

#[test]
fn select_and_poll_say_what_is_ready() {
    let script = "import select,socket\n\
        s=socket.create_server(('127.0.0.1',0)); p=s.getsockname()[1]\n\
        print(select.select([s],[],[],0)[0]==[])\n\
        c=socket.socket(); c.setblocking(False)\n\
        try: c.connect(('127.0.0.1',p))\n\
        except BlockingIOError: pass\n\
        print(select.select([s],[],[],5)[0]==[s]); a,_=s.accept()\n\
        q=select.poll(); q.register(c,select.POLLIN|select.POLLOUT); print(q.poll(5000)==[(c.fileno(),select.POLLOUT)])\n\
        a.sendall(b'x'); q.modify(c,select.POLLIN); print(q.poll(5000)==[(c.fileno(),select.POLLIN)])\n\
        print(c.getsockopt(socket.SOL_SOCKET,socket.SO_ERROR), c.recv(5))";
    expect("python3", &["-c", script], "True\nTrue\nTrue\nTrue\n0 b'x'\n");
}

#[test]
fn a_refused_connection_and_a_taken_port_give_the_kernels_errors() {
    let script = "import socket,errno\n\
        s=socket.socket(); s.bind(('127.0.0.1',0)); p=s.getsockname()[1]\n\
        c=socket.socket(); print(errno.errorcode[c.connect_ex(('127.0.0.1',p))])\n\
        s.listen(); t=socket.socket()\n\
        try: t.bind(('127.0.0.1',p))\n\
        except OSError as e: print(errno.errorcode[e.errno])";
    expect("python3", &["-c", script], "ECONNREFUSED\nEADDRINUSE\n");
}

#[test]
fn curl_fetches_from_python() {
    let script = "{ cd $(mktemp -d) && seq 100000 > f && exec python3 -u -m http.server 0 --bind 127.0.0.1 >log 2>&1; } & pid=$!; \
        cd /; for i in $(seq 100); do d=$(readlink /proc/$pid/cwd); p=$(sed -n 's/.*port \\([0-9]*\\).*/\\1/p' $d/log 2>/dev/null); \
        [ -n \"$p\" ] && break; sleep 0.05; done; curl -s http://127.0.0.1:$p/f | md5sum; kill $pid; wait $pid 2>/dev/null; rm -rf $d";
    let wanted = Command::new("bash").args(["-c", "seq 100000 | md5sum"]).output().unwrap();
    expect("bash", &["-c", script], &String::from_utf8_lossy(&wanted.stdout));
}
