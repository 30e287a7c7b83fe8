"""A router that answers each SYN to 10.79.0.N with the ICMP error of code N, and a client that asks for all of them."""
import errno, socket, struct, sys, time

CODES = [0, 1, 3, 9, 10, 13]

def checksum(b):
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff

def router(device):
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    tap.bind((device, 0))
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    open('ready', 'w').close()
    while True:
        frame = tap.recv(65536)
        ip = frame[14:]
        if ip[9] != 6 or ip[16:19] != bytes([10, 79, 0]):
            continue
        kind, code = (11, 0) if ip[19] == 200 else (3, ip[19])
        quoted = ip[:(ip[0] & 15) * 4 + 8]
        message = struct.pack('>BBHI', kind, code, 0, 0) + quoted
        message = message[:2] + struct.pack('>H', checksum(message)) + message[4:]
        raw.sendto(message, (socket.inet_ntoa(ip[12:16]), 0))

def ask():
    for n in CODES + [200]:
        s = socket.socket()
        s.settimeout(20)
        t = time.time()
        try:
            s.connect(('10.79.0.%d' % n, 80))
            r = 'connected'
        except OSError as e:
            r = errno.errorcode.get(e.errno, repr(e))
        print(n, r, 'at once' if time.time() - t < 0.9 else 'late', flush=True)
        s.close()

if sys.argv[1] == 'router':
    router(sys.argv[2])
else:
    ask()
