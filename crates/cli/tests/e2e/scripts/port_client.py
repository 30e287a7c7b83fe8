"""`port_client.py ADDRESS PORT FROM LOCAL COUNT`: from the address FROM, its port LOCAL and those after it, COUNT connections. The
server closes each first, so that it has them in TIME-WAIT. Then prints `all good`."""
import socket, sys

address, port, source, local, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
for number in range(count):
    connection = socket.socket()
    connection.settimeout(20)
    connection.bind((source, local + number))
    connection.connect((address, port))
    connection.sendall(b"bye")
    while connection.recv(100):
        pass
    connection.close()
print("all good", flush=True)
