"""Workers that share a listener, and a client with many connections. `serve ADDR PORT WORKERS`: each answers a line with its process id in front.
`ask ADDR PORT COUNT`: says a few lines on each of COUNT connections until all of WORKERS (a fourth number) answer, writes their ids to the file `workers`, waits
for the file `killed` with one of them, and says the same on what is left and on COUNT new connections. Prints how many lines were right each time."""
import ctypes, os, selectors, signal, socket, sys, time

def worker(listener):
    events = selectors.DefaultSelector()
    listener.setblocking(False)
    events.register(listener, selectors.EVENT_READ)
    rest = {}
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                try:
                    s, _ = listener.accept()
                except BlockingIOError:
                    continue
                events.register(s, selectors.EVENT_READ)
                rest[s] = b""
                continue
            s = key.fileobj
            data = s.recv(65536)
            if not data:
                events.unregister(s)
                s.close()
                continue
            *lines, rest[s] = (rest[s] + data).split(b"\n")
            for line in lines:
                s.setblocking(True)
                s.sendall(b"%d %s\n" % (os.getpid(), line))

def connect():
    s = socket.create_connection((sys.argv[2], int(sys.argv[3])), 20)
    return s, s.makefile("rb")

def say(conns, lines):
    """A line of each length on all of `conns`: how many came back as they were, and from whom."""
    right, owners = 0, {}
    for at in range(lines):
        text = lambda n: b"%d-%d-" % (at, n) + b"x" * (997 * at)
        for n, (s, _) in enumerate(conns):
            s.sendall(text(n) + b"\n")
        for n, (s, file) in enumerate(conns):
            owner, line = file.readline().rstrip(b"\n").split(b" ", 1)
            right += line == text(n) and owners.setdefault(n, owner) == owner
    return right, [owners[n] for n in range(len(conns))]

if sys.argv[1] == "serve":
    listener = socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=512)
    for _ in range(int(sys.argv[4])):
        if os.fork() == 0:
            # PR_SET_PDEATHSIG: workers end with the server.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            worker(listener)
    while True:
        os.wait()
else:
    count, workers = int(sys.argv[4]), int(sys.argv[5])
    # The first ones may be the kernel's, and all of one worker.
    for _ in range(100):
        conns = [connect() for _ in range(count)]
        right, owners = say(conns, 5)
        if len(set(owners)) == workers:
            break
        for s, _ in conns:
            s.close()
        time.sleep(0.05)
    print(right, len(set(owners)), flush=True)
    open("workers.tmp", "wb").write(b" ".join(set(owners)))
    os.rename("workers.tmp", "workers")
    while not os.path.exists("killed"):
        time.sleep(0.01)
    killed = open("killed", "rb").read()
    left = [conn for conn, owner in zip(conns, owners) if owner != killed]
    right, owners = say(left, 5)
    print(right == 5 * len(left), killed in owners, flush=True)
    right, owners = say([connect() for _ in range(count)], 5)
    print(right, killed in owners, flush=True)
