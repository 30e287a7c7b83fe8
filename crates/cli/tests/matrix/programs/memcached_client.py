"""Many connections to memcached's threads at once; each reads back what another one stored."""
import hashlib, os, socket, sys, threading

address = (sys.argv[1], int(sys.argv[2]))
KEYS, THREADS = 150, 16

def value(k):
    h = hashlib.sha256(k.encode()).digest()
    return h * (1 + h[0] * h[1] % 900)

wrong = []
def work(n):
    s = socket.create_connection(address, timeout=20)
    f = s.makefile('rb')
    for i in range(KEYS):
        k = 'key-%d-%d' % (n, i)
        v = value(k)
        s.sendall(b'set %s 0 0 %d\r\n%s\r\n' % (k.encode(), len(v), v))
        if f.readline() != b'STORED\r\n':
            wrong.append(k)
    barrier.wait(60)
    keys = ['key-%d-%d' % ((n + 1) % THREADS, i) for i in range(KEYS)]
    s.sendall(b''.join(b'get %s\r\n' % k.encode() for k in keys))
    for k in keys:
        head = f.readline().split()
        data = f.read(int(head[3]) + 2)[:-2]
        if data != value(k) or f.readline() != b'END\r\n':
            wrong.append(k)
    s.close()

barrier = threading.Barrier(THREADS)
threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong, wrong
s = socket.create_connection(address, timeout=20)
big = os.urandom(3_000_000)
s.sendall(b'set big 0 0 %d\r\n' % len(big) + big + b'\r\nget big\r\n')
f = s.makefile('rb')
assert f.readline() == b'STORED\r\n'
assert f.readline().startswith(b'VALUE') and f.read(len(big)) == big
print('unchanged')
