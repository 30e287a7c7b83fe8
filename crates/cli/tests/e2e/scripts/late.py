"""A server that waits on its listener only when told to, and its clients: connections from before go on, byte for byte."""
import os, socket, sys, threading, time

WHAT, ADDRESS, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
EARLY, BYTES = 30, 400_000

def is_kernels(port):
    """Has the kernel a connection with this remote port? Read without a socket."""
    for family in ('tcp', 'tcp6'):
        with open('/proc/self/net/' + family) as f:
            if any(line.split()[2].endswith(':%04X' % port) for line in f.readlines()[1:]):
                return True
    return False

def echo(c, port):
    c.sendall(b'K' if is_kernels(port) else b'L')
    while True:
        d = c.recv(65536)
        if not d:
            break
        c.sendall(d)
    c.close()

def serve():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((ADDRESS, PORT))
    s.listen(1000)
    open('listening', 'w').close()
    while not os.path.exists('go'):
        time.sleep(0.002)
    while True:
        c, peer = s.accept()
        threading.Thread(target=echo, args=(c, peer[1]), daemon=True).start()

def talk(c, seed, total, out):
    try:
        data = bytes((seed + i * 7 + i // 251) % 256 for i in range(total))
        def put():
            for at in range(0, total, 4000):
                c.sendall(data[at:at + 4000])
            c.shutdown(socket.SHUT_WR)
        writer = threading.Thread(target=put)
        writer.start()
        got = bytearray()
        while True:
            d = c.recv(65536)
            if not d:
                break
            got += d
        writer.join()
        c.close()
        out[seed] = chr(got[0]) if bytes(got[1:]) == data else 'broken after %d' % len(got)
    except OSError as e:
        out[seed] = repr(e)

def ask():
    out, threads = {}, []
    def start(seed, total):
        try:
            c = socket.create_connection((ADDRESS, PORT), timeout=20)
        except OSError as e:
            out[seed] = 'connect: ' + repr(e)
            return
        threads.append(threading.Thread(target=talk, args=(c, seed, total, out)))
        threads[-1].start()
    for seed in range(EARLY):
        start(seed, BYTES)
    open('go', 'w').close()
    # Over the moment at which the port becomes the lane's.
    for seed in range(1000, 1200):
        start(seed, 5000)
        time.sleep(0.001)
    for t in threads:
        t.join()
    for seed in range(2000, 2010):
        start(seed, 5000)
    for t in threads:
        t.join()
    kinds = lambda start, end: ''.join(sorted(set(v for k, v in out.items() if start <= k < end)))
    print('early', kinds(0, 1000))
    print('between', kinds(1000, 2000) in ('K', 'L', 'KL') or kinds(1000, 2000))
    print('late', kinds(2000, 3000))

{'serve': serve, 'ask': ask}[WHAT]()
