"""Connections whose peer goes without a word. `serve ADDR PORT COUNT`: two workers share a listener; the first one accepts nothing, the second one
accepts COUNT connections once the file `go` is there, answers a line on each, and says `all ended` when every one is over. `ask ADDR PORT COUNT`: opens COUNT
connections, sends a line on each, writes the file `asked`, reads the answers, writes `answered` and waits."""
import ctypes, os, select, signal, socket, sys, time

def first(listener):
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.poll(0)
    open("first.pid", "w").write(str(os.getpid()))
    time.sleep(600)

def second(listener, count):
    while not os.path.exists("go"):
        time.sleep(0.01)
    conns = [listener.accept()[0] for _ in range(count)]
    for s in conns:
        s.sendall(s.recv(100))
    for s in conns:
        try:
            assert s.recv(1) == b""
        except ConnectionError:
            pass
    os.write(1, b"all ended\n")
    time.sleep(600)

count = int(sys.argv[4])
if sys.argv[1] == "serve":
    listener = socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=128)
    for work in (lambda: first(listener), lambda: second(listener, count)):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            work()
    while True:
        os.wait()
else:
    conns = [socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) for _ in range(count)]
    for at, s in enumerate(conns):
        s.sendall(b"line %d\n" % at)
    open("asked", "w").close()
    for at, s in enumerate(conns):
        assert s.recv(100) == b"line %d\n" % at
    open("answered", "w").close()
    time.sleep(600)
