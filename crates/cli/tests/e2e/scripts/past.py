"""Connections that are used where no lane follows: stdio, programs without the library; and many programs at once.

serve ADDR PORT STATIC   Reads the way from each connection, and has the rest of it echoed in that way. STATIC is a statically linked echo program.
ask ADDR PORT            Tries every way, with much data, some of it before the connection goes on.
echo FD                  Echoes what comes by FD.
"""
import ctypes, os, socket, sys, threading

from talk import line_of

WAYS = ['sed', 'static', 'bare', 'spawn', 'file', 'print', 'listens']
MANY = 20
DATA = b''.join(b'%d of many lines\n' % n for n in range(60_000))
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.fgets.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
libc.fgets.restype = ctypes.c_void_p
libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]

def echo(fd):
    while piece := os.read(fd, 65536):
        while piece:
            piece = piece[os.write(fd, piece):]

def by_file(fd):
    """As C programs do: one stream to read, one to write."""
    reads, writes = libc.fdopen(fd, b'r'), libc.fdopen(os.dup(fd), b'w')
    line = ctypes.create_string_buffer(100)
    while libc.fgets(line, len(line), reads):
        libc.fputs(line.value, writes)
    libc.fclose(writes)
    libc.fclose(reads)

def by_print(fd):
    reads = os.fdopen(os.dup(fd), 'rb')
    libc.dprintf(fd, b'%s %d %.3f %s\n', b'said', 7, ctypes.c_double(2.5), b'by dprintf')
    for line in reads:
        libc.dprintf(fd, b'%s', line)

def child(way, c, static):
    fd = c.fileno()
    os.set_inheritable(fd, True)
    if way == 'sed':
        os.dup2(fd, 0)
        os.dup2(fd, 1)
        os.execvp('sed', ['sed', '-u', ''])
    elif way == 'static':
        os.execv(static, [static, str(fd)])
    elif way == 'bare':
        os.execve(sys.executable, [sys.executable, __file__, 'echo', str(fd)], {'LD_PRELOAD': ''})
    elif way == 'file':
        by_file(fd)
    elif way == 'print':
        by_print(fd)
    else:
        os.execv(sys.executable, [sys.executable, __file__, 'echo', str(fd)])

def serve(addr, port, static):
    s = socket.create_server((addr, port), backlog=64)
    print('ready', os.getpid(), flush=True)
    children = []
    for _ in range(len(WAYS) - 1 + MANY):
        c, _ = s.accept()
        way = line_of(c)
        if way == 'spawn':
            dups = [(os.POSIX_SPAWN_DUP2, c.fileno(), 0), (os.POSIX_SPAWN_DUP2, c.fileno(), 1)]
            pid = os.posix_spawn('/bin/cat', ['cat'], os.environ, file_actions=dups)
        else:
            pid = os.fork()
            if pid == 0:
                # What the program needs none of.
                s.close()
                child(way, c, static)
                os._exit(0)
        children.append(pid)
        c.close()
    print([os.waitpid(pid, 0)[1] for pid in children], flush=True)
    # At last a process that listens on its own lane executes another program.
    c, _ = s.accept()
    line_of(c)
    child('listens', c, static)

def ask_one(addr, port, way):
    c = socket.create_connection((addr, port), timeout=60)
    c.sendall(way.encode() + b'\n' + DATA[:10])
    sender = threading.Thread(target=lambda: (c.sendall(DATA[10:]), c.shutdown(socket.SHUT_WR)))
    sender.start()
    got = bytearray()
    while piece := c.recv(65536):
        got += piece
    sender.join()
    wanted = DATA
    if way == 'print':
        wanted = b'said 7 2.500 by dprintf\n' + DATA
    return bytes(got) == wanted

def ask(addr, port):
    for way in WAYS[:-1]:
        print(way, ask_one(addr, port, way), flush=True)
    # All of them at one time: each holds its connection until all are there.
    conns, results = [socket.create_connection((addr, port), timeout=60) for _ in range(MANY)], []
    for c in conns:
        c.sendall(b'many\nfirst ')
    for c in conns:
        results.append(c.recv(6, socket.MSG_WAITALL) == b'first ')
    for c in conns:
        c.sendall(b'second')
        c.shutdown(socket.SHUT_WR)
    for c in conns:
        results.append(c.recv(7, socket.MSG_WAITALL) == b'second')
    print('many', all(results), flush=True)
    print(WAYS[-1], ask_one(addr, port, WAYS[-1]), flush=True)

if __name__ == '__main__':
    what = sys.argv[1]
    if what == 'echo':
        echo(int(sys.argv[2]))
    elif what == 'serve':
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        ask(sys.argv[2], int(sys.argv[3]))
