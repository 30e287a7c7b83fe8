"""Values of many sizes through pipelines, and subscriptions, byte for byte."""
import os, socket, sys

address = (sys.argv[1], int(sys.argv[2]))

class Client:
    def __init__(self):
        self.s = socket.create_connection(address, timeout=20)
        self.f = self.s.makefile('rb')
    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.s.sendall(b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(w), w) for w in words))
    def answer(self):
        line = self.f.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b'$':
            n = int(rest)
            return self.f.read(n + 2)[:-2] if n >= 0 else None
        if kind == b'*':
            return [self.answer() for _ in range(int(rest))]
        return int(rest) if kind == b':' else rest

c = Client()
values = {'k%d' % n: os.urandom(n * n * 7) for n in range(0, 500, 9)}
for k, v in values.items():
    c.send('SET', k, v)
assert all(c.answer() == b'OK' for _ in values)
for k in values:
    c.send('GET', k)
assert all(c.answer() == v for v in values.values())
big = os.urandom(8_000_003)
c.send('SET', 'big', big)
assert c.answer() == b'OK'
others = [Client() for _ in range(20)]
for o in others:
    o.send('GET', 'big')
assert all(o.answer() == big for o in others)
for o in others:
    o.send('SUBSCRIBE', 'news')
    assert o.answer()[0] == b'subscribe'
for n in range(50):
    c.send('PUBLISH', 'news', n)
    assert c.answer() == 20
for o in others:
    assert [int(o.answer()[2]) for _ in range(50)] == list(range(50))
blocked = others[0]
b = Client()
b.send('BLPOP', 'list', 5)
c.send('RPUSH', 'list', 'x')
assert c.answer() == 1 and b.answer() == [b'list', b'x']
print('unchanged')
