"""Connections that are sent to another process (SCM_RIGHTS), in the middle of what they do.

serve ADDR PORT SEEN   Reads one line of each connection, the way; echoes the first part itself, then sends the connection on. Waits once for the file SEEN.
ask ADDR PORT     Tries every way, and looks at every byte.
echo FD           Receives connections by the socket FD, and echoes.
"""
import os, select, socket, subprocess, sys, threading, time

from talk import line_of

# plain: to a program that knows nothing of lanes. child: to a process forked before. kept: the sender goes on with its own descriptor, by epoll. late: the
# client has closed its direction. shut: the server has. idle: nothing is under way. slow: the client reads nothing until the connection is sent on.
WAYS = ['plain', 'child', 'kept', 'late', 'shut', 'idle', 'slow']
FIRST = 100_000
DATA = bytes(i * 7 % 251 for i in range(3_000_000))

def echo(c):
    while piece := c.recv(65536):
        c.sendall(piece)

def echo_by_epoll(c, ep):
    c.setblocking(False)
    waiting, wants, open_ = b'', 0, True
    while open_ or waiting:
        events = (select.EPOLLIN if open_ and len(waiting) < 1 << 20 else 0) | (select.EPOLLOUT if waiting else 0)
        ep.modify(c, events)
        for _, ready in ep.poll(20):
            if ready & select.EPOLLIN:
                piece = c.recv(65536)
                open_ = bool(piece)
                waiting += piece
            if waiting and ready & select.EPOLLOUT:
                waiting = waiting[c.send(waiting):]

def receive(fd):
    by = socket.socket(fileno=fd)
    while True:
        said, fds, _, _ = socket.recv_fds(by, 16, 4)
        if not said:
            return
        c = socket.socket(fileno=fds[0])
        if said == b'shut':
            # Only what comes in is left: its number of bytes goes back by the other socket. Not before the sender has looked at it, since it ends then.
            by.recv(4)
            n = 0
            while piece := c.recv(65536):
                n += len(piece)
            by.sendall(b'%d' % n)
        elif said == b'kept':
            by.sendall(by.recv(4))
        else:
            echo(c)
            by.sendall(b'done')
        c.close()

def serve(addr, port):
    s = socket.create_server((addr, port), family=socket.AF_INET6 if ':' in addr else socket.AF_INET)
    own, other = socket.socketpair()
    child = os.fork()
    if child == 0:
        own.close()
        s.close()
        receive(other.detach())
        os._exit(0)
    other.close()
    to_plain, other = socket.socketpair()
    bare = {k: v for k, v in os.environ.items() if k != 'LD_PRELOAD' and not k.startswith('CORELANE')}
    words = [sys.executable, __file__, 'echo', str(other.fileno())]
    plain = subprocess.Popen(words, pass_fds=[other.fileno()], env=bare)
    other.close()
    print('ready', os.getpid(), flush=True)
    control, _ = s.accept()
    for _ in WAYS:
        c, _ = s.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        way = line_of(c)
        ep = select.epoll()
        ep.register(c, select.EPOLLIN)
        if way not in ('idle', 'shut', 'slow'):
            left = FIRST
            while left:
                piece = c.recv(min(left, 65536))
                c.sendall(piece)
                left -= len(piece)
        elif way == 'shut':
            c.sendall(b'bye')
            c.shutdown(socket.SHUT_WR)
        elif way == 'slow':
            # As much as goes in, so that there is something unacknowledged and something unsent.
            c.setblocking(False)
            n = 0
            try:
                while n < 2_000_000:
                    n += c.send(DATA[n:n + 65536])
            except BlockingIOError:
                pass
            c.setblocking(True)
        if way == 'late':
            # Until the end of the client's data is there.
            poll = select.poll()
            poll.register(c, select.POLLRDHUP)
            poll.poll(20_000)
        to = to_plain if way in ('plain', 'late', 'shut', 'slow') else own
        before = c.getsockname(), c.getpeername()
        socket.send_fds(to, [way.encode()], [c.fileno()])
        same = before == (c.getsockname(), c.getpeername())
        nodelay = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        keep = c.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        print(way, 'same ends', same, 'options', nodelay, keep, flush=True)
        if way == 'shut':
            to.sendall(b'read')
        if way == 'slow':
            control.sendall(b'go')
        if way == 'kept':
            echo_by_epoll(c, ep)
            c.shutdown(socket.SHUT_WR)
            to.sendall(b'over')
            print(os.getpid(), 'goes on with', c.fileno(), flush=True)
            # Until the test has seen what is said of us.
            while len(sys.argv) > 4 and not os.path.exists(sys.argv[4]):
                time.sleep(0.02)
        c.close()
        ep.close()
        print(way, to.recv(16).decode(), flush=True)
    own.close()
    to_plain.close()
    print(os.waitpid(child, 0)[1], plain.wait(), flush=True)

def read_all(c, most=None):
    got = bytearray()
    while most is None or len(got) < most:
        piece = c.recv(65536)
        if not piece:
            break
        got += piece
    return bytes(got)

def ask(addr, port):
    control = socket.create_connection((addr, port), timeout=60)
    for way in WAYS:
        c = socket.create_connection((addr, port), timeout=30)
        c.sendall(way.encode() + b'\n')
        if way == 'idle':
            c.sendall(b'hello')
            c.shutdown(socket.SHUT_WR)
            print(way, read_all(c) == b'hello', flush=True)
        elif way == 'shut':
            print(way, read_all(c) == b'bye', flush=True)
            c.sendall(DATA)
            c.shutdown(socket.SHUT_WR)
        elif way == 'late':
            # All of it fits into the buffers, so that the end comes before the connection goes on.
            data = DATA[:FIRST + 30_000]
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            print(way, read_all(c) == data, flush=True)
        elif way == 'slow':
            # The server says when.
            control.recv(2)
            sender = threading.Thread(target=lambda: (c.sendall(DATA), c.shutdown(socket.SHUT_WR)))
            sender.start()
            got = read_all(c)
            sender.join()
            n = len(got) - len(DATA)
            print(way, n > 0 and got == DATA[:n] + DATA, flush=True)
        else:
            sender = threading.Thread(target=lambda: (c.sendall(DATA), c.shutdown(socket.SHUT_WR)))
            sender.start()
            got = read_all(c)
            sender.join()
            print(way, got == DATA, flush=True)

if __name__ == '__main__':
    what = sys.argv[1]
    if what == 'echo':
        receive(int(sys.argv[2]))
    else:
        {'serve': serve, 'ask': ask}[what](sys.argv[2], int(sys.argv[3]))
