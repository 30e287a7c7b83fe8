"""Has an AF_XDP socket on a queue, until it is ended: DEVICE QUEUE."""
import ctypes, mmap, socket, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
SOL_XDP, RX_RING, UMEM_REG, FILL_RING, COMPLETION_RING = 283, 2, 4, 5, 6
memory = mmap.mmap(-1, 64 * 4096)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
s = socket.socket(44, socket.SOCK_RAW)
s.setsockopt(SOL_XDP, UMEM_REG, struct.pack("QQIIII", at, 64 * 4096, 4096, 0, 0, 0))
for ring in (FILL_RING, COMPLETION_RING, RX_RING):
    s.setsockopt(SOL_XDP, ring, struct.pack("I", 64))
address = struct.pack("HHIII", 44, 0, socket.if_nametoindex(sys.argv[1]), int(sys.argv[2]), 0)
if libc.bind(s.fileno(), address, len(address)):
    sys.exit(f"bind: errno {ctypes.get_errno()}")
print("holds", flush=True)
time.sleep(600)
