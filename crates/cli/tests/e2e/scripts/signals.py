"""SIGIO and SIGURG: `LIB PEER PORT MINE` prints what must be the same on a lane; the other end is urgent.py's."""
import ctypes, fcntl, os, select, signal, socket, struct, sys, threading, time
import urgent
from urgent import Peer, attempt, ready

F_SETSIG, F_GETSIG, F_SETOWN_EX, FIOASYNC = 10, 11, 15, 0x5452
RT = signal.SIGRTMIN + 1
NAMES = {signal.SIGIO: 'IO', signal.SIGURG: 'URG', RT: 'RT'}
LIB = ctypes.CDLL(sys.argv[1])
ME = os.getpid()

class Note(ctypes.Structure):
    _fields_ = [('signal', ctypes.c_int), ('code', ctypes.c_int), ('fd', ctypes.c_int), ('tid', ctypes.c_int), ('band', ctypes.c_long)]

NOTES, NOTED = (Note * 256).in_dll(LIB, 'notes'), ctypes.c_int.in_dll(LIB, 'noted')

def show(n, fds):
    return NAMES.get(n.signal, n.signal), n.code, fds.get(n.fd, n.fd), n.band

def told(wanted, fds={}, wait=lambda: time.sleep(0.005)):
    """The different signals that came, once there are so many. The program makes no call on a socket meanwhile."""
    until = time.monotonic() + 10
    while True:
        got = sorted({show(n, fds) for n in NOTES[:NOTED.value]}, key=repr)
        if len(got) >= wanted or time.monotonic() > until:
            NOTED.value = 0
            return got
        wait()

def ask(s, sig=RT, owner=ME):
    if sig:
        fcntl.fcntl(s, F_SETSIG, sig)
    fcntl.fcntl(s, fcntl.F_SETOWN, owner)
    fcntl.fcntl(s, fcntl.F_SETFL, fcntl.fcntl(s, fcntl.F_GETFL) | os.O_ASYNC)

def is_async(s):
    return fcntl.fcntl(s, fcntl.F_GETFL) & os.O_ASYNC != 0

def plain_while_it_sleeps_and_while_it_computes():
    out = []
    for wait in (lambda: time.sleep(0.005), lambda: sum(range(1000))):
        p = Peer()
        ask(p.sock, 0)
        out.append(is_async(p.sock))
        for _ in range(3):
            p.do('send x')
            out.append(told(1, wait=wait))
        out.append(p.sock.recv(10))
        p.done()
    return out

def each_happening():
    p = Peer()
    s, out = p.sock, []
    ask(s)
    fds = {s.fileno(): 's'}
    out.append(fcntl.fcntl(s, F_GETSIG) == RT)
    p.do('send x')
    out.append(told(1, fds))
    p.do('urgent U')
    out.append(told(3, fds))
    out += [s.recv(1, socket.MSG_OOB), s.recv(10)]
    p.do('shut')
    out += [told(1, fds), s.recv(10)]
    p.done()
    p = Peer()
    s = p.sock
    ask(s)
    fds = {s.fileno(): 's'}
    s.shutdown(socket.SHUT_WR)
    p.do('shut')
    out += [told(1, fds), s.recv(10)]
    p.done()
    p = Peer()
    s = p.sock
    ask(s)
    fds = {s.fileno(): 's'}
    p.do('reset')
    out += [told(1, fds), attempt(lambda: s.recv(10))]
    p.done()
    return out

def room_to_write():
    p = Peer()
    s, n = p.sock, 0
    s.setblocking(False)
    ask(s)
    while True:
        try:
            n += s.send(b'x' * 65536)
        except BlockingIOError:
            if not ready(s, select.POLLOUT, 300):
                break
    told(0)
    p.do('read %d' % n)
    out = told(1, {s.fileno(): 's'})
    p.done()
    return out

def asked_for_before_it_connects():
    p = Peer(prepare=ask)
    s = p.sock
    fds, out = {s.fileno(): 's'}, [is_async(p.sock), fcntl.fcntl(p.sock, fcntl.F_GETOWN) == ME, fcntl.fcntl(p.sock, F_GETSIG) == RT]
    out.append(told(1, fds))
    p.do('send x')
    out.append(told(1, fds))
    p.done()
    return out

def listeners():
    out = []
    for late in (False, True):
        l = socket.create_server((urgent.MINE, 0))
        l.setblocking(False)
        if late:
            out.append(attempt(l.accept))
        ask(l)
        if not late:
            out.append(attempt(l.accept))
        control = socket.create_connection(urgent.PEER, timeout=30)
        control.sendall(b'%d\n' % l.getsockname()[1])
        out.append(told(1, {l.fileno(): 'l'}))
        c, _ = l.accept()
        out += [is_async(c), fcntl.fcntl(c, fcntl.F_GETOWN), fcntl.fcntl(c, F_GETSIG), is_async(l)]
        lines = control.makefile('r')
        lines.readline()
        control.sendall(b'send x\n')
        lines.readline()
        ready(c, select.POLLIN)
        out += [c.recv(10), told(0)]
        c.close(), lines.close(), control.close(), l.close()
    return out

def another_process():
    p = Peer()
    s, out = p.sock, []
    r, w = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [RT])
    child = os.fork()
    if child == 0:
        n = Note()
        while True:
            LIB.await_(RT, ctypes.byref(n))
            os.write(w, repr(show(n, {s.fileno(): 's'})).encode())
            if n.signal < 0:
                os._exit(0)
    ask(s, owner=child)
    p.do('send x')
    out.append(os.read(r, 100))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [RT])
    p.do('send y')
    out += [ready(s, select.POLLIN)[0][1], s.recv(1), told(0)]
    os.close(r), os.close(w)
    p.done()
    return out

def waited_for():
    p = Peer()
    s, n = p.sock, Note()
    signal.pthread_sigmask(signal.SIG_BLOCK, [RT])
    ask(s)
    p.do('send x')
    out = [LIB.await_(RT, ctypes.byref(n)) == RT, show(n, {s.fileno(): 's'})]
    s.close()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [RT])
    told(0)
    p.done()
    return out

def a_thread():
    p = Peer()
    s, out, go, tid = p.sock, [], threading.Event(), []
    t = threading.Thread(target=lambda: (tid.append(threading.get_native_id()), go.wait()))
    t.start()
    while not tid:
        time.sleep(0.01)
    fcntl.fcntl(s, F_SETSIG, RT)
    fcntl.fcntl(s, F_SETOWN_EX, struct.pack('ii', 0, tid[0]))
    fcntl.ioctl(s, FIOASYNC, struct.pack('i', 1))
    p.do('send x')
    while not NOTED.value:
        time.sleep(0.01)
    out += [NOTES[0].tid == tid[0], told(1, {s.fileno(): 's'})]
    go.set()
    t.join()
    p.done()
    return out

def a_group():
    p = Peer()
    os.setpgid(0, 0)  # whoever runs this test is in another one
    ask(p.sock, 0, -os.getpgrp())
    p.do('send x')
    out = told(1)
    p.done()
    return out

def switched_off():
    p = Peer()
    s, out = p.sock, []
    out.append(attempt(lambda: fcntl.fcntl(s, F_SETSIG, 65)))
    ask(s)
    def quiet():
        p.do('send x')
        return ready(s, select.POLLIN)[0][1], s.recv(10), told(0), is_async(s)
    fcntl.fcntl(s, fcntl.F_SETFL, fcntl.fcntl(s, fcntl.F_GETFL) & ~os.O_ASYNC)
    out.append(quiet())
    fcntl.ioctl(s, FIOASYNC, struct.pack('i', 1))
    out.append(is_async(s))
    p.do('send x')
    out += [told(1, {s.fileno(): 's'}), s.recv(1)]
    fcntl.ioctl(s, FIOASYNC, struct.pack('i', 0))
    out.append(quiet())
    fcntl.ioctl(s, FIOASYNC, struct.pack('i', 1))
    fcntl.fcntl(s, fcntl.F_SETOWN, 0)
    out.append(quiet())
    s.setblocking(False)
    out.append(is_async(s))
    p.done()
    return out

def urgent_bytes_alone():
    p = Peer()
    s, out = p.sock, []
    fcntl.fcntl(s, fcntl.F_SETOWN, ME)
    p.do('send x')
    p.do('urgent U')
    out += [told(1), s.recv(1, socket.MSG_OOB)]
    p.done()
    return out

LIB.await_ = LIB['await']
urgent.PEER, urgent.MINE = (sys.argv[2], int(sys.argv[3])), sys.argv[4]
for number in (signal.SIGIO, signal.SIGURG, RT):
    LIB.watch(int(number))
for test in (plain_while_it_sleeps_and_while_it_computes, each_happening, room_to_write, asked_for_before_it_connects, listeners,
             another_process, waited_for, a_thread, a_group, switched_off, urgent_bytes_alone):
    try:
        print(test.__name__, test(), flush=True)
    except Exception as e:
        print(test.__name__, 'raised', repr(e), flush=True)
