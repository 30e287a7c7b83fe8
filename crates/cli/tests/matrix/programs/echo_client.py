"""echo_client.py HOST PORT CONNECTIONS BYTES: each connection sends so many random bytes and must get them back, however the server cuts them."""
import hashlib, os, socket, sys, threading

host, port, connections, size = sys.argv[1], *map(int, sys.argv[2:5])
good = []

def one(n):
    data = os.urandom(size + n)
    c = socket.create_connection((host, port), timeout=40)
    def send():
        at = 0
        while at < len(data):
            at += c.send(data[at:at + 1 + (n * 7919 + at) % 30000])
        c.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send)
    t.start()
    got = hashlib.sha256()
    while True:
        d = c.recv(1 + n * 3001)
        if not d:
            break
        got.update(d)
    t.join()
    c.close()
    if got.digest() == hashlib.sha256(data).digest():
        good.append(n)

for round in range(2):
    good.clear()
    threads = [threading.Thread(target=one, args=(n,)) for n in range(connections)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(good) == connections, '%d of %d came back unchanged' % (len(good), connections)
print(len(good), 'unchanged')
