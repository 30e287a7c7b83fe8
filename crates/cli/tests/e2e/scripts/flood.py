"""A SYN flood from addresses of the device's own network that nobody has, beside connections of somebody who means it.

flood.py ADDRESS PORT DEVICE SYNS OPENINGS: floods until so many SYNs are sent and so many connections were opened and used meanwhile. Those that
were open before it must get every byte back all the time.
"""
import os, select, socket, struct, sys, threading, time

ADDRESS, PORT, DEVICE, SYNS, OPENINGS = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])


def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def syn(mac_to, mac_from, n):
    source = socket.inet_aton(ADDRESS)[:3] + bytes([10 + n % 200])
    target = socket.inet_aton(ADDRESS)
    tcp = struct.pack('!HHIIBBHHHBBH', 1024 + n // 200 % 60000, PORT, n * 2654435761 & 0xffffffff, 0, 6 << 4, 2, 64240, 0, 0, 2, 4, 1460)
    pseudo = source + target + struct.pack('!BBH', 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), n & 0xffff, 0, 64, 6, 0) + source + target
    ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
    return mac_to + mac_from + b'\x08\x00' + ip + tcp


def flood(told, tell):
    """In a process of its own: SYNs until it is told that there were enough openings."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((DEVICE, 0x0800))
    mac_from = link.getsockname()[4]
    neighbours = os.popen('ip neigh show %s' % ADDRESS).read().split()
    mac_to = bytes.fromhex(neighbours[neighbours.index('lladdr') + 1].replace(':', ''))
    sent = 0
    while sent < SYNS or not select.select([told], [], [], 0)[0]:
        for _ in range(64):
            try:
                link.send(syn(mac_to, mac_from, sent))
                sent += 1
            except OSError:  # the device's queue is full
                time.sleep(0.001)
        if sent == 64:
            os.write(tell, b'+')
    os.write(tell, b'%d' % sent)


def rounds(c, message, count):
    for _ in range(count):
        c.sendall(message)
        back = b''
        while len(back) < len(message):
            piece = c.recv(65536)
            assert piece, 'an end without a close'
            back += piece
        assert back == message, 'other bytes came back'


def established(c, number, over, done):
    message = bytes((number + i) % 251 for i in range(5000))
    count = 0
    while not over.is_set():
        rounds(c, message, 1)
        count += 1
    done.append(count)


def connect():
    c = socket.create_connection((ADDRESS, PORT), timeout=30)
    c.settimeout(30)
    return c


before = [connect() for _ in range(8)]
for c in before:
    rounds(c, b'x' * 100, 1)
told, tell_child = os.pipe()
heard, tell = os.pipe()
if os.fork() == 0:
    try:
        flood(told, tell)
    finally:
        os._exit(0)
os.close(tell)
assert os.read(heard, 1) == b'+', 'the flood does not begin'
over, done = threading.Event(), []
threads = [threading.Thread(target=established, args=(c, n, over, done)) for n, c in enumerate(before)]
for thread in threads:
    thread.start()
for n in range(OPENINGS):
    c = connect()
    rounds(c, b'n%d' % n, 3)
    c.close()
os.write(tell_child, b'.')
sent = os.read(heard, 100)
over.set()
for thread in threads:
    thread.join()
assert len(done) == len(before) and min(done) > 0, 'a connection was lost: %s' % done
# All is as it was.
for c in before + [connect()]:
    rounds(c, b'y' * 20000, 2)
print('flooded', sent.decode(), 'rounds', sum(done))
