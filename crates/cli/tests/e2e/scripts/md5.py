# TCP_MD5SIG and TCP_MD5SIG_EXT (RFC 2385), the same under `corelane run` and without.
import errno, hashlib, os, socket, struct, sys, threading

MD5, EXT, PREFIX = 14, 32, 1


def family(host):
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def sig(host, key, prefix=None, keylen=None, fam=None):
    fam = fam or family(host)
    addr = socket.inet_pton(fam, host)
    where = struct.pack('=HH', fam, 0) + (b'\0' * 4 if fam == socket.AF_INET6 else b'') + addr
    flags, bits = (0, 0) if prefix is None else (PREFIX, prefix)
    return where.ljust(128, b'\0') + struct.pack('=BBHi', flags, bits, len(key) if keylen is None else keylen, 0) + key.ljust(80, b'\0')


def put(s, host, key, prefix=None, **more):
    option = MD5 if prefix is None else EXT
    s.setsockopt(socket.IPPROTO_TCP, option, sig(host, key, prefix, **more))


def name(call):
    try:
        return repr(call())
    except OSError as e:
        return errno.errorcode.get(e.errno, 'timed out')


def data(seed, length):
    block = hashlib.sha256(seed.encode()).digest()
    return block * (length // len(block)) + block[:length % len(block)]


def drain(c, length):
    got = bytearray()
    while len(got) < length:
        piece = c.recv(1 << 16)
        if not piece:
            break
        got += piece
    return bytes(got)


THERE, BACK = data('there', 3_000_001), data('back', 2_000_003)


def serve(host, port, peer, nets):
    s = socket.socket(family(host))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if nets:
        put(s, nets.split('/')[0], b'of the net', int(nets.split('/')[1]))
    put(s, peer, b'only for you')
    s.bind((host, int(port)))
    s.listen()
    print('ready', flush=True)
    s.settimeout(1000)
    while True:
        c, _ = s.accept()

        def talk(c=c):
            c.settimeout(60)
            with c:
                got = drain(c, len(THERE))
                c.sendall(BACK)
                print('good' if got == THERE else 'bad', len(got), flush=True)
        threading.Thread(target=talk, daemon=True).start()


def ask(host, port, bind, key, wait):
    s = socket.socket(family(host))
    if key != '-':
        put(s, host, key.encode())
    s.bind((bind, 0))
    s.settimeout(float(wait))
    try:
        s.connect((host, int(port)))
    except OSError as e:
        print('refused' if e.errno else 'timed out', flush=True)
        return
    sender = threading.Thread(target=lambda: s.sendall(THERE))
    s.settimeout(60)
    sender.start()
    got = drain(s, len(BACK))
    sender.join()
    print('good' if got == BACK else 'bad', len(got), flush=True)


def errors(host, port):
    fam = family(host)
    other = socket.AF_INET if fam == socket.AF_INET6 else socket.AF_INET6
    bits = 32 if fam == socket.AF_INET else 128
    away = '192.0.2.9' if fam == socket.AF_INET else '2001:db8::9'

    def each(what, s):
        tries = [
            ('add', lambda: put(s, away, b'k')),
            ('again', lambda: put(s, away, b'another')),
            ('with a prefix', lambda: put(s, away, b'k', 8)),
            ('too long a prefix', lambda: put(s, away, b'k', bits + 1)),
            ('remove', lambda: put(s, away, b'')),
            ('remove once more', lambda: put(s, away, b'')),
            ('remove the other', lambda: put(s, away, b'', 8)),
            ('too long', lambda: put(s, away, b'k' * 80, keylen=81)),
            ('as long as can be', lambda: put(s, away, b'k' * 80)),
            ('another family', lambda: put(s, '::1' if other == socket.AF_INET6 else '127.0.0.1', b'k', fam=other)),
            ('short', lambda: s.setsockopt(socket.IPPROTO_TCP, MD5, sig(away, b'k')[:-1])),
            ('no such domain', lambda: s.setsockopt(socket.IPPROTO_TCP, EXT, sig(away, b'k', 8)[:128] + struct.pack('=BBHi', 2, 0, 1, 9999) + b'k'.ljust(80, b'\0'))),
            ('get', lambda: s.getsockopt(socket.IPPROTO_TCP, MD5, 300)),
            ('get the other', lambda: s.getsockopt(socket.IPPROTO_TCP, EXT, 300)),
        ]
        for title, call in tries:
            print(what, title, name(call), flush=True)

    each('fresh', socket.socket(fam))
    c = socket.create_connection((host, int(port)), timeout=20)
    each('connected', c)
    # A key for the peer itself: it has none, so nothing is understood any more.
    put(c, host, b'k')
    c.settimeout(0.7)
    c.sendall(b'x')
    print('with a key on one side', name(lambda: c.recv(1)), flush=True)
    put(c, host, b'')
    c.settimeout(20)
    print('without', name(lambda: c.recv(1)), flush=True)
    if fam == socket.AF_INET6:
        s = socket.socket(fam)
        for prefix in (None, 32, 33):
            print('mapped', prefix, name(lambda: put(s, '::ffff:192.0.2.9', b'k', prefix)), flush=True)


def echo(host, port):
    s = socket.create_server((host, int(port)), family=family(host))
    while True:
        c, _ = s.accept()
        threading.Thread(target=lambda c=c: ([c.sendall(b) for b in iter(lambda: c.recv(100), b'')], c.close()), daemon=True).start()


globals()[sys.argv[1]](*sys.argv[2:])
