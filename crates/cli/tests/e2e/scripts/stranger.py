# stranger.py KEEPER VERSION TOKEN PID [PIDS...|own]: tries what a program must not get of a run. With `own` it is of the run's user.
import array, ctypes, os, socket, struct, sys

keeper, version, token, pid = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])
own = sys.argv[5:] == ["own"]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("\0" + keeper)


def ask(what, request, fds=()):
    s.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
    reply, fds, _, _ = socket.recv_fds(s, 65536, 16)
    if reply[0] == 128:
        text = reply[5 : 5 + struct.unpack_from("<H", reply, 3)[0]].decode()
        print(what, "refused:", text)
    else:
        print(what, "welcome" if reply[0] == 130 else f"done {reply[0]}")
    return reply


ask("hello", struct.pack("<BHI", 1, version, os.getpid()) + token)
if not own:
    # Neither memory nor descriptors nor life of the program, its steward and its keeper.
    for victim in [pid, *map(int, sys.argv[5:])]:
        for name in ("mem", "environ", "fd", "map_files", "ns/net"):
            try:
                path = f"/proc/{victim}/{name}"
                os.listdir(path) if name in ("fd", "map_files") else os.readlink(path) if name == "ns/net" else open(path, "rb").read(1)
                sys.exit(f"{path} is open")
            except PermissionError:
                pass
        try:
            os.kill(victim, 0)
            sys.exit(f"{victim} could be killed")
        except PermissionError:
            pass
    # Wrong secrets and none: no hello, no request.
    t = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    t.connect("\0" + keeper)
    t.send(struct.pack("<BI", 3, 1))
    assert t.recv(100) == b""
    print("all closed")
    sys.exit()

shape = [64, 16, 16, 64, 8, 64, 32]
reply = ask("region", struct.pack("<BHIB", 2, 2, 512, 0) + struct.pack("<16I", *shape, *[0] * 9))
region = struct.unpack_from("<I", reply, 1)[0]
reply = ask("lane", struct.pack("<BI", 3, region))
lane = struct.unpack_from("<H", reply, 1)[0]
mapped = lambda text: bytes(10) + b"\xff\xff" + socket.inet_aton(text)
address, peer = mapped("10.77.0.2"), mapped("10.77.0.1")


def rule(port, addr=address):
    return struct.pack("<IHB", region, lane, 6) + addr + struct.pack("<H", port)


# One flow: local and remote end.
flows = struct.pack("<B", 1) + address + struct.pack("<H", 22) + peer + struct.pack("<H", 4444)
ask("fetch", bytes([16]) + rule(22) + flows)
ask("hand on", bytes([13]) + rule(22) + struct.pack("<H", 1) + flows)
ask("port below 1024", bytes([6]) + rule(22))
# A socket of a namespace in which everybody is root.
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    assert libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
    listener.bind(("10.77.0.2", 9))
    listener.listen()
    socket.send_fds(theirs, [b"x"], [listener.fileno()])
    os._exit(0)
theirs.close()
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
ask("socket of another namespace", bytes([4]) + rule(9), fds)
