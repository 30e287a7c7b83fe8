"""Connections that stay open over exec.

serve ADDR PORT   For each connection reads one line, the way to exec, and has /bin/cat echo the rest.
ask ADDR PORT     Tries every way, with much data, some of it before the exec.
client ADDR PORT  Connects to an echo server, execs itself, and goes on with the connection and a copy of it.
"""
import ctypes, os, socket, subprocess, sys, threading

from talk import line_of

WAYS = ['execv', 'execve', 'execvp', 'execl', 'execlp', 'execle', 'popen']
libc = ctypes.CDLL(None)

def become_cat(way):
    cat = [b'/bin/cat', b'-', b'-', b'-', b'-', b'-']
    env = (ctypes.c_char_p * 3)(b'A=1', b'B=2', None)
    if way == 'execv':
        os.execv('/bin/cat', ['cat'])
    elif way == 'execve':
        os.execve('/bin/cat', ['cat'], {'A': '1'})
    elif way == 'execvp':
        os.execvp('cat', ['cat'])
    elif way == 'execl':
        libc.execl(cat[0], *cat, None)
    elif way == 'execlp':
        libc.execlp(b'cat', b'cat', None)
    elif way == 'execle':
        libc.execle(cat[0], *cat, None, env)

def serve(addr, port):
    s = socket.create_server((addr, port))
    children = []
    print('ready', os.getpid(), flush=True)
    for _ in WAYS:
        c, _ = s.accept()
        way = line_of(c)
        if way == 'popen':
            children.append(subprocess.Popen(['/bin/cat'], stdin=c, stdout=c).pid)
        else:
            pid = os.fork()
            if pid == 0:
                os.dup2(c.fileno(), 0)
                os.dup2(c.fileno(), 1)
                # Not found: the connection is as good as before.
                libc.execl(b'/bin/absent', b'absent', None)
                become_cat(way)
                os._exit(3)
            children.append(pid)
        c.close()
    print([os.waitpid(pid, 0)[1] for pid in children], flush=True)

def ask(addr, port):
    data = bytes(range(256)) * 4096
    for way in WAYS:
        c = socket.create_connection((addr, port), timeout=30)
        c.sendall(way.encode() + b'\nbegin')
        sender = threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)))
        sender.start()
        got = b''
        while True:
            piece = c.recv(65536)
            if not piece:
                break
            got += piece
        sender.join()
        print(way, got == b'begin' + data, flush=True)

def client(addr, port):
    c = socket.create_connection((addr, port), timeout=30)
    c.settimeout(None)
    c.sendall(b'echo\nbefore')
    closed = socket.create_connection((addr, port))
    closed.sendall(b'x')
    c.set_inheritable(True)
    twin = os.dup(c.fileno())
    os.set_inheritable(twin, True)
    os.execv(sys.executable, [sys.executable, __file__, 'go-on', str(c.fileno()), str(twin)])

def go_on(first, second):
    a, b = socket.socket(fileno=first), socket.socket(fileno=second)
    print(a.recv(6, socket.MSG_WAITALL), a.getpeername() == b.getpeername(), a.family == socket.AF_INET)
    b.sendall(b'after')
    print(a.recv(5, socket.MSG_WAITALL))
    a.close()
    b.sendall(b'end')
    print(b.recv(3, socket.MSG_WAITALL))

if __name__ == '__main__':
    what, first, second = sys.argv[1:4]
    if what == 'go-on':
        go_on(int(first), int(second))
    else:
        {'serve': serve, 'ask': ask, 'client': client}[what](first, int(second))
