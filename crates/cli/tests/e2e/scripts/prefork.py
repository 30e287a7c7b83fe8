"""A server whose workers share a listener. `serve ADDR PORT WORKERS`: each waits on the listener, then does what files in the folder say:
`closeN`: worker N closes its listener and goes on without it; `go`: workers accept and answer `N LINE`. A worker that was killed is
started anew, with the next number, once the file `respawn` is there. `ask ADDR PORT COUNT`: opens COUNT connections, sends a line on each, says
`open`, and prints how many were answered and by how many workers."""
import ctypes, os, select, signal, socket, sys, time

def worker(number, listener):
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.poll(0)
    open("worker%d.pid" % number, "w").write(str(os.getpid()))
    closed = False
    while not os.path.exists("go"):
        if not closed and os.path.exists("close%d" % number):
            poll.unregister(listener)
            listener.close()
            closed = True
            open("closed%d" % number, "w").close()
        # The socket is not looked at meanwhile: what comes waits.
        time.sleep(0.01)
    if closed:
        time.sleep(60)
    while True:
        poll.poll()
        try:
            listener.setblocking(False)
            s, _ = listener.accept()
        except BlockingIOError:
            continue
        s.setblocking(True)
        line = s.makefile("rb").readline()
        s.sendall(b"%d " % number + line)
        s.close()

def start(number, listener):
    pid = os.fork()
    if pid == 0:
        # PR_SET_PDEATHSIG: workers end with the server.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        worker(number, listener)
    return pid

if sys.argv[1] == "serve":
    listener = socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=128)
    count = int(sys.argv[4])
    for number in range(count):
        start(number, listener)
    while True:
        os.wait()
        while not os.path.exists("respawn"):
            time.sleep(0.01)
        start(count, listener)
        count += 1
else:
    conns = [socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) for _ in range(int(sys.argv[4]))]
    for at, s in enumerate(conns):
        s.sendall(b"line %d\n" % at)
    open("asked", "w").close()
    answered, workers = 0, set()
    for at, s in enumerate(conns):
        s.settimeout(20)
        try:
            number, line = s.makefile("rb").readline().split(b" ", 1)
        except (OSError, ValueError) as error:
            print("connection", at, repr(error))
            continue
        workers.add(number)
        answered += line == b"line %d\n" % at
    print(answered, len(workers))
