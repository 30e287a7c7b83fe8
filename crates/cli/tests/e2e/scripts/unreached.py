# Starts a program that no library comes into in every way there is, and looks how it ends.
import os
import subprocess
import sys
import time

program = sys.argv[1]
print("returned", subprocess.run([program, "a", "b"]).returncode)
print("aborted", subprocess.run([program, "abort"]).returncode)
print("spawned", os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(program, [program], os.environ), 0)[1]))
waits = subprocess.Popen([program, "waits"], stdout=subprocess.PIPE, text=True)
number = int(waits.stdout.readline())
waits.terminate()
print("terminated", waits.wait())
waits = subprocess.Popen([program, "waits"], stdout=subprocess.PIPE, text=True)
number = int(waits.stdout.readline())
waits.kill()
print("killed", waits.wait())
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        with open(f"/proc/{number}/status") as status:
            if "State:\tZ" in status.read():
                break
    except (FileNotFoundError, ProcessLookupError):  # the latter while it reads
        break
    time.sleep(0.01)
else:
    print("it runs on")
os.chmod(program, 0o600)
try:
    subprocess.run([program])
except PermissionError as error:
    print("refused", error.errno)
