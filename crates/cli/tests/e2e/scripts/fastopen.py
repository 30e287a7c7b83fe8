"""TCP Fast Open: `serve ADDRESS PORT`, or `ask ADDRESS PORT`, which prints what must be the same on the kernel and on a lane."""
import ctypes, errno, select, socket, struct, sys, threading, time

TCP = socket.IPPROTO_TCP
FASTOPEN, CONNECT, KEY, NO_COOKIE = 23, 30, 33, 34
MSG_FASTOPEN = 0x20000000
TO = (sys.argv[2], int(sys.argv[3]))

def syn_data(c):
    return c.getsockopt(TCP, socket.TCP_INFO, 200)[5] & 32 != 0

def attempt(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode[e.errno]

def serve():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(TO)
    s.setsockopt(TCP, FASTOPEN, 16)
    s.listen(64)
    while True:
        c, _ = s.accept()
        threading.Thread(target=answer, args=(c,), daemon=True).start()

def answer(c):
    total, early = 0, None
    while True:
        d = c.recv(65536)
        if not d:
            break
        early = syn_data(c) if early is None else early
        total += len(d)
        if d.endswith(b'.'):
            c.sendall(b'%d %s' % (total, b'early' if early else b'late'))
    c.close()

class Message(ctypes.Structure):
    _fields_ = [('name', ctypes.c_char_p), ('name_len', ctypes.c_uint), ('parts', ctypes.c_void_p), ('count', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('control_len', ctypes.c_size_t), ('flags', ctypes.c_int), ('room', ctypes.c_int), ('sent', ctypes.c_uint)]

class Part(ctypes.Structure):
    _fields_ = [('base', ctypes.c_char_p), ('len', ctypes.c_size_t)]

def several(c, texts, to):
    name = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(to[1]), socket.inet_aton(to[0]))
    parts = [Part(text, len(text)) for text in texts]
    messages = (Message * len(texts))(*[
        Message(name, len(name), ctypes.addressof(part), 1, None, 0, 0, 0, 0) for part in parts])
    libc = ctypes.CDLL(None, use_errno=True)
    n = libc.sendmmsg(c.fileno(), messages, len(texts), MSG_FASTOPEN | socket.MSG_NOSIGNAL)
    return errno.errorcode[ctypes.get_errno()] if n < 0 else (n, [m.sent for m in messages])

def heard(c):
    c.settimeout(10)
    return c.recv(100), syn_data(c)

def ask():
    def fresh(blocking=True):
        c = socket.socket()
        c.setblocking(blocking)
        return c
    c = fresh()
    yield 'blocking, without a cookie', c.sendto(b'one.', MSG_FASTOPEN, TO), heard(c)
    c = fresh()
    yield 'blocking, with one', c.sendto(b'two.', MSG_FASTOPEN, TO), heard(c), c.getpeername() == TO
    yield 'on a connection', attempt(lambda: c.sendto(b'x', MSG_FASTOPEN, TO)), attempt(lambda: c.connect(TO))
    yield 'its options', [attempt(lambda: c.setsockopt(TCP, o, v)) for o, v in
                          [(FASTOPEN, 1), (CONNECT, 1), (CONNECT, 2), (NO_COOKIE, 1), (KEY, b'short')]]
    c = fresh(False)
    r = [attempt(lambda: c.sendto(b'three.', MSG_FASTOPEN, TO))]
    p = select.poll()
    p.register(c, select.POLLIN)
    r.append(p.poll(10000)[0][1])
    yield 'not blocking, with a cookie', r, heard(c)
    c = fresh()
    yield 'more than a SYN holds', c.sendto(b'x' * 19999 + b'.', MSG_FASTOPEN, TO), heard(c)[1]
    c = fresh()
    c.setsockopt(TCP, CONNECT, 1)
    r = [c.getsockopt(TCP, CONNECT), attempt(lambda: c.connect(TO)), attempt(c.getpeername)]
    p = select.poll()
    p.register(c, select.POLLIN | select.POLLOUT)
    r.append(p.poll(0)[0][1])
    yield 'connect that waits for the first write', r, c.send(b'four.'), heard(c)
    c = fresh(False)
    c.setsockopt(TCP, CONNECT, 1)
    e = select.epoll()
    e.register(c, select.EPOLLOUT)
    r = [attempt(lambda: c.connect(TO)), attempt(lambda: c.connect(TO)), [ev for _, ev in e.poll(5)], c.send(b'five.')]
    yield 'the same, not blocking', r, heard(c)
    c = fresh()
    yield 'sendmsg', c.sendmsg([b'si', b'x.'], [], MSG_FASTOPEN, TO), heard(c)
    c = fresh()
    yield 'sendmmsg', several(c, [b'sev', b'en.'], TO), c.send(b'en.'), heard(c)
    c = fresh(False)
    yield 'sendmmsg, not blocking', several(c, [b'eight.'], TO), heard(c)
    c = fresh()
    yield 'sendmmsg, refused', several(c, [b'x', b'y'], (TO[0], 1)), several(c, [], TO)
    c = fresh()
    yield 'refused', attempt(lambda: c.sendto(b'x', MSG_FASTOPEN, (TO[0], 1)))
    c = fresh()
    yield 'nowhere', attempt(lambda: c.send(b'x', MSG_FASTOPEN | socket.MSG_NOSIGNAL))
    c = fresh()
    c.setsockopt(TCP, CONNECT, 1)
    c.connect(TO)
    c.close()
    yield 'closed before the first write',
    c = fresh()
    c.setsockopt(TCP, NO_COOKIE, 1)
    yield 'values', [attempt(lambda: c.setsockopt(TCP, o, v)) for o, v in [(CONNECT, 2), (NO_COOKIE, 2), (FASTOPEN, -1)]]

if sys.argv[1] == 'serve':
    serve()
for line in ask():
    print(*line, flush=True)
