"""Urgent data: `serve PORT` is the kernel's side, told line by line what to do; `ask PEER PORT MINE` prints what must be the same on a lane."""
import errno, fcntl, os, select, signal, socket, struct, sys, termios, threading, time

OOB, PEEK, DONTWAIT, WAITALL, TRUNC = (socket.MSG_OOB, socket.MSG_PEEK, socket.MSG_DONTWAIT,
                                       socket.MSG_WAITALL, socket.MSG_TRUNC)
SIOCATMARK, FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP = 0x8905, 0x8901, 0x8902, 0x8903, 0x8904
F_SETOWN_EX, F_GETOWN_EX = 15, 16

def ready(s, events, ms=10000):
    p = select.poll()
    p.register(s, events)
    return p.poll(ms)

def obey(control, d, word, rest):
    if word == 'send':
        d.sendall(rest.encode())
    elif word == 'urgent':
        d.send(rest.encode(), OOB)
    elif word == 'shut':
        d.shutdown(socket.SHUT_WR)
    elif word == 'reset':
        d.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        d.close()
    elif word == 'oob':
        ready(d, select.POLLPRI)
        return repr(d.recv(1, OOB))
    elif word == 'read':
        got = b''
        while len(got) < int(rest):
            got += d.recv(int(rest) - len(got))
        return repr(got)
    return ''

def serve(port):
    own = socket.create_server(('', port + 1), backlog=16)
    def talk(control, addr):
        lines = control.makefile('rw')
        at = lines.readline()
        if not at:
            return
        if int(at) == 0:
            lines.write('%d\n' % 0), lines.flush()
            d, _ = own.accept()
        else:
            d = socket.create_connection((addr[0], int(at)), timeout=10)
        d.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines.write('\n'), lines.flush()
        for line in lines:
            word, _, rest = line.rstrip('\n').partition(' ')
            lines.write(obey(control, d, word, rest) + '\n'), lines.flush()
        d.close()
    s = socket.create_server(('', port), backlog=16)
    while True:
        talk(*s.accept())

class Peer:
    """A connection, `sock`, and one beside it by which its other end is told what to do: what it sent has come when it answers."""
    def __init__(self, listener=None, prepare=lambda s: None):
        self.control = socket.create_connection(PEER, timeout=30).makefile('rw')
        if listener is None:
            self.control.write('0\n'), self.control.flush(), self.control.readline()
            self.sock = socket.socket()
            prepare(self.sock)
            self.sock.connect((PEER[0], PEER[1] + 1))
        else:
            self.control.write('%d\n' % listener.getsockname()[1]), self.control.flush()
            self.sock = listener.accept()[0]
        self.sock.settimeout(None)
        self.control.readline()
    def do(self, what):
        self.control.write(what + '\n'), self.control.flush()
        return self.control.readline().rstrip('\n')
    def done(self):
        self.sock.close()
        self.control.close()

def attempt(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))

def number(s, request):
    return struct.unpack('i', fcntl.ioctl(s, request, b'\0' * 4))[0]

def look(s):
    """At the mark, unread, and what poll says."""
    return number(s, SIOCATMARK), number(s, termios.FIONREAD), sorted(e for _, e in ready(s, select.POLLIN | select.POLLPRI, 0))

def inline(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

def beside_the_stream():
    p = Peer()
    s, out = p.sock, []
    out.append((look(s), attempt(lambda: s.recv(1, OOB))))
    p.do('urgent abcU')
    p.do('send def')
    out += [look(s), s.recv(9, OOB | PEEK), s.recv(9, OOB), attempt(lambda: s.recv(1, OOB)), look(s)]
    out += [s.recv(2), look(s), s.recv(100), look(s), s.recv(100, PEEK), look(s), s.recv(1), look(s), s.recv(100), look(s)]
    out.append(attempt(lambda: s.recv(100, DONTWAIT)))
    p.done()
    return out

def in_line():
    p = Peer()
    s, out = p.sock, []
    out.append(s.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
    inline(s)
    out.append(s.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
    p.do('urgent abcU')
    p.do('send def')
    out += [look(s), attempt(lambda: s.recv(1, OOB)), s.recv(100), look(s), s.recv(100, PEEK), s.recv(100), look(s)]
    p.done()
    return out

def switched_while_it_waits():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    inline(s)
    out += [attempt(lambda: s.recv(1, OOB)), look(s)]
    s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
    out += [attempt(lambda: s.recv(1, OOB)), s.recv(100), look(s)]
    p.done()
    return out

def one_call_and_the_mark():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    p.do('send defgh')
    a, b = bytearray(3), bytearray(3)
    out.append((s.recvmsg_into([a, b], 0, PEEK)[0], bytes(a), bytes(b)))
    out.append((s.recvmsg_into([a, b])[0], bytes(a), bytes(b), look(s)))
    out.append((s.recvmsg_into([a, b], 0, PEEK)[0], bytes(a), bytes(b), look(s)))
    out.append((s.recvmsg_into([a, b])[0], bytes(a), bytes(b), look(s)))
    p.do('urgent ijU')
    p.do('send kl')
    out.append((s.recv(100, WAITALL), look(s)))
    out.append((s.recv(2, WAITALL), look(s)))
    out.append(s.recv(0))
    p.do('urgent mnU')
    p.do('send op')
    buf = bytearray(9)
    out.append((s.recv_into(buf, 9, TRUNC), bytes(buf), look(s)))
    out.append((s.recv_into(buf, 9, TRUNC), bytes(buf), look(s)))
    p.done()
    return out

def waitall_ends_at_a_mark_that_comes_later():
    p = Peer()
    s, got = p.sock, []
    p.do('send abc')
    t = threading.Thread(target=lambda: got.append(s.recv(6, WAITALL)))
    t.start()
    while number(s, termios.FIONREAD):
        time.sleep(0.01)
    p.do('urgent U')
    p.do('send defghi')
    t.join(10)
    out = [got, look(s), s.recv(100)]
    p.done()
    return out

def messages():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    out.append(s.recvmsg(10, 0, OOB | PEEK)[0:3])
    out.append(s.recvmsg(10, 0, OOB)[0:3])
    out.append(attempt(lambda: s.recvmsg(10, 0, OOB)))
    out.append(s.recvmsg(10)[0:3])
    p.do('urgent V')
    out.append(s.recvmsg(0, 0, OOB)[0:3])
    out.append(attempt(lambda: s.recvmsg(10, 0, OOB)))
    p.done()
    return out

def two_urgent_bytes():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    p.do('urgent defV')
    out += [look(s), s.recv(1, OOB), s.recv(100), look(s), attempt(lambda: s.recv(100, DONTWAIT)), look(s)]
    p.do('urgent W')
    p.do('urgent X')
    out += [look(s), s.recv(1, OOB), look(s), attempt(lambda: s.recv(100, DONTWAIT)), look(s)]
    p.do('urgent Y')
    out += [s.recv(1, OOB)]
    p.do('urgent ghZ')
    out += [look(s), s.recv(100), s.recv(1, OOB), look(s)]
    p.done()
    return out

def the_end_of_the_stream():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    p.do('shut')
    out += [look(s), s.recv(100), look(s), s.recv(1, OOB), s.recv(100), s.recv(100), attempt(lambda: s.recv(1, OOB)), look(s)]
    p.done()
    p = Peer()
    s = p.sock
    p.do('urgent abcU')
    p.do('reset')
    out += [ready(s, select.POLLHUP)[0][1] & select.POLLHUP != 0, attempt(lambda: s.recv(1, OOB))]
    p.done()
    return out

def sent_by_us():
    p = Peer()
    s, out = p.sock, []
    out += [s.send(b'abcU', OOB), p.do('oob'), p.do('read 3')]
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    out += [s.sendmsg([b'de', b'fgV'], [], OOB), p.do('oob'), p.do('read 4'), s.send(b'', OOB)]
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    s.sendall(b'x' * 100000, OOB)
    out += [len(p.do('read 99999')), p.do('oob')]
    s.sendall(b'plain')
    out.append(p.do('read 5'))
    p.done()
    return out

def select_and_epoll():
    p = Peer()
    s, out = p.sock, []
    p.do('urgent abcU')
    out.append([len(x) for x in select.select([s], [], [s], 10)])
    level, edge, once = select.epoll(), select.epoll(), select.epoll()
    level.register(s, select.EPOLLPRI)
    edge.register(s, select.EPOLLPRI | select.EPOLLET)
    once.register(s, select.EPOLLPRI | select.EPOLLIN | select.EPOLLONESHOT)
    events = lambda e: [m for _, m in e.poll(0)]
    out += [[events(e) for e in (level, edge, once)] for _ in range(2)]
    p.do('urgent defV')
    out += [[events(e) for e in (level, edge, once)] for _ in range(2)]
    s.recv(1, OOB)
    out += [[events(e) for e in (level, edge, once)], [len(x) for x in select.select([s], [], [s], 0)]]
    out.append((s.recv(100), [len(x) for x in select.select([s], [], [s], 0)]))
    p.done()
    return out

def a_sleeper_is_woken():
    p = Peer()
    s, out = p.sock, []
    t = threading.Timer(0.3, lambda: p.do('urgent U'))
    t.start()
    out.append([len(x) for x in select.select([], [], [s], 10)])
    out.append(s.recv(1, OOB))
    t.join()
    p.done()
    return out

def signals():
    out, hits = [], []
    signal.signal(signal.SIGURG, lambda *_: hits.append(1))
    me = os.getpid()
    p = Peer()
    s = p.sock
    out += [fcntl.fcntl(s, fcntl.F_GETOWN), number(s, FIOGETOWN), number(s, SIOCGPGRP)]
    out += [fcntl.fcntl(s, fcntl.F_SETOWN, me), fcntl.fcntl(s, fcntl.F_GETOWN) == me, number(s, SIOCGPGRP) == me]
    p.do('urgent abcU')
    out += [ready(s, select.POLLPRI)[0][1], len(hits)]
    p.do('urgent V')
    out += [s.recv(100), s.recv(1, OOB), len(hits)]
    owner = fcntl.fcntl(s, F_GETOWN_EX, b'\0' * 8)
    out.append(struct.unpack('ii', owner) == (1, me))
    out.append(attempt(lambda: fcntl.fcntl(s, fcntl.F_SETOWN, 1 << 30)))
    out.append(attempt(lambda: fcntl.fcntl(s, F_SETOWN_EX, struct.pack('ii', 7, me))) and None)
    fcntl.fcntl(s, F_SETOWN_EX, struct.pack('ii', 2, os.getpgrp()))
    out += [struct.unpack('ii', fcntl.fcntl(s, F_GETOWN_EX, b'\0' * 8)) == (2, os.getpgrp()), number(s, SIOCGPGRP) == -os.getpgrp()]
    fcntl.fcntl(s, F_SETOWN_EX, struct.pack('ii', 0, threading.get_native_id()))
    out.append(struct.unpack('ii', fcntl.fcntl(s, F_GETOWN_EX, b'\0' * 8)) == (0, threading.get_native_id()))
    p.do('urgent W')
    out += [ready(s, select.POLLPRI)[0][1], len(hits)]
    fcntl.ioctl(s, FIOSETOWN, struct.pack('i', 0))
    out.append(fcntl.fcntl(s, fcntl.F_GETOWN))
    p.do('urgent X')
    out += [s.recv(1, OOB), len(hits)]
    fcntl.ioctl(s, SIOCSPGRP, struct.pack('i', me))
    p.do('send y')
    p.do('urgent zY')
    out += [ready(s, select.POLLPRI)[0][1], len(hits)]
    p.done()
    p = Peer(prepare=lambda s: fcntl.fcntl(s, fcntl.F_SETOWN, me))
    out += [fcntl.fcntl(p.sock, fcntl.F_GETOWN) == me]
    p.do('urgent U')
    out += [ready(p.sock, select.POLLPRI)[0][1], len(hits)]
    p.done()
    signal.signal(signal.SIGURG, signal.SIG_DFL)
    return out

def a_handler_reads_what_it_is_told_of():
    """On a lane the signal may come when the stream is beyond the urgent byte: the handler reads then, too, and finds none."""
    p = Peer()
    s, got = p.sock, []
    signal.signal(signal.SIGURG, lambda *_: got.append(attempt(lambda: s.recv(1, OOB))))
    fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
    def send():
        p.do('urgent abcU')
        until = time.monotonic() + 10
        while not got and time.monotonic() < until:
            time.sleep(0.01)
        p.do('send end')
    t = threading.Timer(0.3, send)
    t.start()
    data = b''
    while not data.endswith(b'end'):
        data += s.recv(100)
    t.join()
    signal.signal(signal.SIGURG, signal.SIG_DFL)
    p.done()
    return [one in (b'U', 'EINVAL') for one in got[:1]], data

def accepted():
    l = socket.create_server((MINE, 0))
    inline(l)
    p = Peer(l)
    s, out = p.sock, []
    out.append(s.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
    p.do('urgent abcU')
    out += [s.recv(100), look(s), s.recv(100)]
    s.send(b'xyzV', OOB)
    out += [p.do('oob'), p.do('read 3')]
    p.done()
    l.close()
    return out

def option_before_it_connects():
    p = Peer(prepare=inline)
    s, out = p.sock, []
    out.append(s.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
    p.do('urgent abcU')
    out += [s.recv(100), look(s), s.recv(100), look(s)]
    p.done()
    return out

def a_pipe_does_not_pass_the_mark():
    p = Peer()
    s, out = p.sock, []
    s.setblocking(False)
    r, w = os.pipe()
    p.do('urgent abcU')
    p.do('send def')
    move = lambda: attempt(lambda: os.splice(s.fileno(), w, 100))
    out += [move(), os.read(r, 100), look(s), move(), look(s)]
    s.setblocking(True)
    out += [move(), look(s)]
    s.setblocking(False)
    out += [s.recv(1), move(), os.read(r, 100), move()]
    p.done()
    os.close(r), os.close(w)
    return out

def a_child_reads_it():
    p = Peer()
    s = p.sock
    p.do('urgent abcU')
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, repr((s.recv(1, OOB), s.recv(100), look(s))).encode())
        os._exit(0)
    os.wait()
    out = [os.read(r, 1000), attempt(lambda: s.recv(1, OOB)), look(s)]
    p.done()
    os.close(r), os.close(w)
    return out

def not_connected():
    s = socket.socket()
    out = [attempt(lambda: s.recv(1, OOB)), number(s, SIOCATMARK)]
    s.close()
    return out

if __name__ != '__main__':
    pass
elif sys.argv[1] == 'serve':
    serve(int(sys.argv[2]))
else:
    PEER, MINE = (sys.argv[2], int(sys.argv[3])), sys.argv[4]
    for test in (beside_the_stream, in_line, switched_while_it_waits, one_call_and_the_mark,
                 waitall_ends_at_a_mark_that_comes_later, messages, two_urgent_bytes, the_end_of_the_stream, sent_by_us,
                 select_and_epoll, a_sleeper_is_woken, signals, a_handler_reads_what_it_is_told_of, accepted,
                 option_before_it_connects, a_pipe_does_not_pass_the_mark, a_child_reads_it, not_connected):
        try:
            print(test.__name__, test(), flush=True)
        except Exception as e:
            print(test.__name__, 'raised', repr(e), flush=True)
