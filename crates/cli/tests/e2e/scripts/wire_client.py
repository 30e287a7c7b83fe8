"""`wire_client.py ADDRESS PORT CONNECTIONS BYTES`: each connection sends BYTES and must get the same back; prints who answered, then
`all good`. With `hold` in place of BYTES: one exchange, then waits for the end of the connection and says how it came."""
import os, random, socket, sys, threading

address, port, count, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


def exactly(connection, wanted):
    got = bytearray()
    while len(got) < wanted:
        data = connection.recv(min(1 << 20, wanted - len(got)))
        assert data, "the connection ended early"
        got += data
    return bytes(got)


print("client", os.getpid(), flush=True)
for number in range(count):
    connection = socket.create_connection((address, port), timeout=60)
    assert connection.getpeername()[:2] == (address, port), connection.getpeername()
    print("pid", int(exactly(connection, 11)), flush=True)
    if what == "hold":
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        print("held", flush=True)
        try:
            end = "end" if connection.recv(10) == b"" else "data"
        except ConnectionResetError:
            end = "reset"
        print("ended by", end, flush=True)
        continue
    data = random.Random(number).randbytes(int(what))
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    assert exactly(connection, len(data)) == data, "other bytes came back"
    sender.join()
    connection.close()
print("all good", flush=True)
