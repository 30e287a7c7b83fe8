"""Connections that go on in a forked child, which waits for them in its own way.

serve ADDR PORT   For each connection reads one line, the way, and has a child echo the rest.
ask ADDR PORT     Tries every way: pieces, each of which is sent when the one before came back.
"""
import os, select, socket, sys

from talk import exchange, line_of

WAYS = ['recv', 'poll', 'select', 'epoll', 'epoll-of-parent', 'back-to-parent', 'stolen']
PIECES = [b'%d' % n * 700 for n in range(6)]

def epoll_of(c):
    epoll = select.epoll()
    epoll.register(c, select.EPOLLIN)
    return epoll

def by_poll(c):
    poll = select.poll()
    poll.register(c, select.POLLIN)
    return poll.poll

def waiter(way, c, epoll):
    """What waits until `c` can be read."""
    if way == 'recv':
        return lambda: None
    if way == 'poll':
        return by_poll(c)
    if way == 'select':
        return lambda: select.select([c], [], [])
    return epoll.poll if epoll else epoll_of(c).poll

def echo(c, wait, pieces=None):
    while pieces != 0:
        wait()
        piece = c.recv(65536)
        if not piece:
            return
        c.sendall(piece)
        if pieces:
            pieces -= 1

def serve_one(c, way):
    epoll = epoll_of(c) if way in ('epoll-of-parent', 'back-to-parent', 'stolen') else None
    done, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        if way == 'back-to-parent':
            echo(c, waiter(way, c, epoll), 3)
        elif way == 'stolen':
            # With a wait of its own, and open after that.
            echo(c, waiter(way, c, None), 1)
            os.read(done, 1)
        else:
            echo(c, waiter(way, c, epoll))
        os._exit(0)
    os.close(done)
    if way == 'back-to-parent':
        status = os.waitpid(pid, 0)[1]
        echo(c, waiter(way, c, epoll))
    elif way == 'stolen':
        while c.recv(1, socket.MSG_PEEK) == PIECES[0][:1]:
            pass
        echo(c, waiter(way, c, epoll))
        os.close(end)
        status = os.waitpid(pid, 0)[1]
    else:
        c.close()
        status = os.waitpid(pid, 0)[1]
    os.close(end) if way != 'stolen' else None
    c.close()
    return status

def serve(addr, port):
    s = socket.create_server((addr, port))
    print('ready', flush=True)
    statuses = []
    for _ in WAYS:
        c, _ = s.accept()
        statuses.append(serve_one(c, line_of(c)))
    print(statuses, flush=True)

def ask(addr, port):
    for way in WAYS:
        c = socket.create_connection((addr, port), timeout=20)
        c.sendall(way.encode() + b'\n')
        try:
            print(way, [exchange(c, piece) for piece in PIECES], flush=True)
        except TimeoutError:
            print(way, 'hangs', flush=True)
        c.close()

if __name__ == '__main__':
    {'serve': serve, 'ask': ask}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
