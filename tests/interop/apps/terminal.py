"""Runs a command on a terminal of its own and types Ctrl-C once it says "ready". Prints what it printed."""

import os
import pty
import sys

pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
printed, typed = b"", False
while True:
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    if not read:
        break
    printed += read
    if b"ready" in printed and not typed:
        os.write(terminal, b"\x03")
        typed = True
_, status = os.waitpid(pid, 0)
print(printed.decode())
print("status %d" % os.waitstatus_to_exitcode(status))
