#!/usr/bin/env python3
"""Lists the functions that running processes of a program enter, for scripts/link-in-order.

    make release && cp target/release/tamada /tmp/traced/tamada     start two members and an etcd with it, wait a
    minute, let something ask their REST API as HAProxy and Prometheus do, and then, as root:
    scripts/idle-functions.py /tmp/traced/tamada > scripts/idle-functions.txt

Every function gets a breakpoint that is removed when it is first hit, so the processes run almost normally. Do not use them for
anything else afterwards.
"""
import ctypes, os, signal, struct, subprocess, sys, time

GETREGS, SETREGS, CONT, SEIZE, INTERRUPT, DETACH = 12, 13, 7, 0x4206, 0x4207, 17
FOLLOW = 2 | 4 | 8 | 16  # fork, vfork, clone, exec
EXEC_EVENT, WALL = 4, 0x40000000
RIP = 16 * 8
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, data=0):
    if libc.ptrace(request, pid, 0, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def lines(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


class Program:
    """The code of the file, its functions by address."""

    def __init__(self, path):
        self.content = open(path, "rb").read()
        code = next(f for f in map(str.split, lines("readelf", "-lW", path)) if f[:1] == ["LOAD"] and "E" in f[6:8])
        self.offset, self.start, size = int(code[1], 16), int(code[2], 16), int(code[5], 16)
        symbols = (line.split(maxsplit=2) for line in lines("nm", "--defined-only", path))
        self.functions = {int(a, 16): n for a, t, n in symbols if t in "tT" and 0 <= int(a, 16) - self.start < size}

    def byte(self, address):
        place = address - self.start + self.offset
        return self.content[place:place + 1]


class Process:
    """An address space with breakpoints in it."""

    def __init__(self, pid, program):
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        inode = os.stat(f"/proc/{pid}/exe").st_ino
        fields = next(f for f in map(str.split, open(f"/proc/{pid}/maps")) if "x" in f[1] and int(f[4]) == inode)
        self.base = int(fields[0].split("-")[0], 16) - (program.start & ~4095)

    def write(self, address, byte):
        os.pwrite(self.memory, byte, self.base + address)


def trace(program, pids, seconds):
    met, processes, of_thread = set(), {}, {}
    registers = ctypes.create_string_buffer(27 * 8)
    for pid in pids:
        processes[pid] = Process(pid, program)
        threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
        for thread in threads:
            ptrace(SEIZE, thread, FOLLOW)
            ptrace(INTERRUPT, thread)
            os.waitpid(thread, WALL)
            of_thread[thread] = processes[pid]
        for address in program.functions:
            processes[pid].write(address, b"\xcc")
        for thread in threads:
            ptrace(CONT, thread)

    def stopped(thread, status):
        signal_number, event = os.WSTOPSIG(status), status >> 16
        if event == EXEC_EVENT:
            of_thread.pop(thread, None)
            return ptrace(DETACH, thread)
        if thread not in of_thread:
            text = open(f"/proc/{thread}/status").read()
            pid = int(text.split("Tgid:")[1].split()[0])
            of_thread[thread] = processes.setdefault(pid, Process(pid, program))
        if event:
            return ptrace(CONT, thread)
        if signal_number == signal.SIGTRAP:
            process = of_thread[thread]
            ptrace(GETREGS, thread, ctypes.addressof(registers))
            address = struct.unpack_from("Q", registers, RIP)[0] - 1 - process.base
            if address in program.functions:
                met.add(address)
                process.write(address, program.byte(address))
                struct.pack_into("Q", registers, RIP, process.base + address)
                ptrace(SETREGS, thread, ctypes.addressof(registers))
                signal_number = 0
        ptrace(CONT, thread, signal_number)

    def over(*_):
        raise InterruptedError

    signal.signal(signal.SIGALRM, over)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            thread, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                stopped(thread, status)
        except InterruptedError:
            break
        except OSError:
            continue  # it has ended
    signal.setitimer(signal.ITIMER_REAL, 0)
    for process in processes.values():
        for address in program.functions:
            try:
                process.write(address, program.byte(address))
            except OSError:
                break
    return sorted(program.functions[address] for address in met)


def runs(pid, path):
    try:
        return os.path.samefile(f"/proc/{pid}/exe", path)
    except OSError:
        return False


def main():
    path, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 25
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and runs(pid, path)]
    if not pids:
        sys.exit(f"{sys.argv[0]}: no process runs {path}")
    print("\n".join(trace(Program(path), pids, seconds)))


if __name__ == "__main__":
    main()
