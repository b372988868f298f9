"""The child process that runs one program: its limits, its walls, and what it says at the end.

`code_execution` starts this file as a script in a fresh interpreter; it needs the standard library
alone. The walls, on Linux (x86-64, arm64):

* a seccomp filter that lets through a list of harmless system calls and refuses every other: no
  socket, no process or thread, no signal to others, no file opened for writing, made, renamed or
  removed, no change of limits, owners or mounts; it can never be taken off again;
* where the system permits it, user, network and IPC namespaces of its own as a second wall, and
  Landlock (Linux 5.13), which leaves only Python's own folders and system libraries to be read;
* limits of CPU time, memory, open files; no core file; file size and processes 0.

A program is Python in this very interpreter, beside the code below. Without Landlock it can read
what the user can read, with nowhere to send it. That it passed is told by a number which is read
from a pipe only after the test has returned, so that ending early, printing or exiting with 0
passes nothing. A program written to deceive can still find that pipe, or return an object that
equals everything: against that no test in the same process helps.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import sys
import types

MAX_MESSAGE_CHARS = 300
_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000  # CLONE_NEWUSER, _NEWNET, _NEWIPC
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
# Landlock: calls (of both machines) and rights (linux/landlock.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ALL_RIGHTS, _READ_FILE, _READ_FOLDER, _PATH_BENEATH = (1 << 13) - 1, 1 << 2, 1 << 3, 1
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/dev/null", "/dev/urandom",
)  # fmt: skip

# BPF: load a word of seccomp_data; jump; return (linux/bpf_common.h, linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last with errno EPERM
_NO_SUCH_CALL = 0x00050000 | 38  # ENOSYS: glibc then takes the older call
_X32 = 0x40000000  # calls of x86-64's other table
_NUMBER, _ARCH = 0, 4
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: the others can send signals.
_FCNTL = (0, 1, 2, 3, 4, 1030)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

# Numbers of the calls let through (asm/unistd_64.h, asm-generic/unistd.h); '-' where there is none.
_CALLS = """
read 0 63          write 1 64          close 3 57           fstat 5 80
newfstatat 262 79  stat 4 -            lstat 6 -            lseek 8 62
mmap 9 222         mprotect 10 226     munmap 11 215        brk 12 214
rt_sigaction 13 134    rt_sigprocmask 14 135    rt_sigreturn 15 139    rt_sigpending 127 136
rt_sigtimedwait 128 137    pread64 17 67    readv 19 65     writev 20 66
access 21 -        faccessat 269 48    faccessat2 439 439   pipe 22 -
pipe2 293 59       poll 7 -            ppoll 271 73         select 23 -
pselect6 270 72    sched_yield 24 124  mremap 25 216        msync 26 227
mincore 27 232     madvise 28 233      dup 32 23            dup2 33 -
dup3 292 24        pause 34 -          nanosleep 35 101     clock_nanosleep 230 115
getitimer 36 102   alarm 37 -          setitimer 38 103     getpid 39 172
exit 60 93         exit_group 231 94   uname 63 160         getdents64 217 61
getcwd 79 17       chdir 80 49         fchdir 81 50         readlink 89 -
readlinkat 267 78  umask 95 166        gettimeofday 96 169  getrlimit 97 163
getrusage 98 165   sysinfo 99 179      times 100 153        getuid 102 174
getgid 104 176     geteuid 107 175     getegid 108 177      getppid 110 173
getpgrp 111 -      getpgid 121 155     getsid 124 156       getgroups 115 158
getresuid 118 148  getresgid 120 150   capget 125 90        sigaltstack 131 132
statfs 137 43      fstatfs 138 44      arch_prctl 158 -     gettid 186 178
time 201 -         futex 202 98        sched_getaffinity 204 123    sched_getparam 143 121
sched_getscheduler 145 120    set_tid_address 218 96      clock_gettime 228 113
clock_getres 229 114    set_robust_list 273 99    get_robust_list 274 100
epoll_create1 291 20    epoll_ctl 233 21
epoll_wait 232 -   epoll_pwait 281 22  eventfd2 290 19      getrandom 318 278
membarrier 324 283 rseq 334 293        statx 332 291        restart_syscall 219 128
getcpu 309 168     getpriority 140 141 fadvise64 221 223    wait4 61 260
waitid 247 95
"""
# Calls let through with some arguments alone, or refused so that an older one is tried.
_NARROW = {
    "open": (2, None), "openat": (257, 56), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "kill": (62, 129), "tgkill": (234, 131), "clone3": (435, 435),
    "openat2": (437, 437),
}  # fmt: skip
# Machine -> (which of the two numbers, its AUDIT_ARCH).
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def _argument(index: int, high: bool = False) -> Instruction:
    """Loads half of an argument of the call; both machines are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Lets a call through if an argument is among some."""
    tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_argument(index), *tests, (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]


def _reads_alone(index: int) -> list[Instruction]:
    """Lets a call through if the flags of an argument open a file for reading."""
    return [
        _argument(index),
        (_ANY_BIT, 0, 1, _WRITES),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _empty(index: int) -> list[Instruction]:
    """Lets a call through if an argument, a pointer, is null."""
    return [
        _argument(index),
        (_EQUAL, 0, 2, 0),
        _argument(index, high=True),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]


def filter_program(machine: str, pid: int) -> list[Instruction]:
    """The seccomp filter of a machine for a process; KeyError for a machine it is not made for."""
    which, arch = _MACHINES[machine]
    words = _CALLS.split()
    plain = [words[at + 1 + which] for at in range(0, len(words), 3)]
    rules: dict[str, list[Instruction]] = {
        "open": _reads_alone(1),
        "openat": _reads_alone(2),
        "fcntl": _one_of(1, _FCNTL),
        "ioctl": _one_of(1, _IOCTL),
        "prlimit64": _empty(2),
        "kill": _one_of(0, (pid,)),
        "tgkill": _one_of(0, (pid,)),
        "clone3": [(_RETURN, 0, 0, _NO_SUCH_CALL)],
        "openat2": [(_RETURN, 0, 0, _NO_SUCH_CALL)],
    }
    made: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for name, rule in rules.items():
        number = _NARROW[name][which]
        if number is not None:
            made += [(_EQUAL, 0, len(rule), number), *rule]
    for number in plain:
        if number != "-":
            made += [(_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]
    return [*made, (_RETURN, 0, 0, _REFUSE)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    ]


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction))]


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def hide_files(libc: ctypes.CDLL) -> bool:
    """Leaves Python's own folders, system libraries and the working folder to be read, no more.

    Returns whether the system could do so; no_new_privs must be set.
    """
    wanted = _Ruleset(_ALL_RIGHTS)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)
    if ruleset < 0:
        return False
    own = (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__), os.getcwd())
    for path in dict.fromkeys((*own, *_SYSTEM)):
        if os.path.exists(path):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = _READ_FILE | (_READ_FOLDER if os.path.isdir(path) else 0)
            rule = _Beneath(rights, folder)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
            os.close(folder)
    done = libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def raise_walls() -> bool:
    """Puts up the walls for the rest of this process; returns whether the filter stands."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.unshare(_NAMESPACES)  # forbidden in many containers; the filter stands without
    made = filter_program(platform.machine(), os.getpid())
    array = (_Instruction * len(made))(*(_Instruction(*one) for one in made))
    whole = _Filter(len(made), array)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    hide_files(libc)
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0) == 0


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Sets the limits of this process, soft and hard; what a system has not is passed over."""
    wanted = {
        "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),  # SIGXCPU, then SIGKILL
        "RLIMIT_AS": (memory_bytes, memory_bytes),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_CORE": (0, 0),
    }
    for name, values in wanted.items():
        # macOS knows a limit of memory and refuses to set it.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), values)


def judge(program: str, test: str) -> str | None:
    """Runs a program, then its test in the same names; returns what went wrong, None if nothing."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        # One after the other: an open bracket or string of the program cannot swallow the test.
        for name, text in (("<program>", program), ("<test>", test)):
            exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        return _told(error)
    return None


def _told(error: BaseException) -> str:
    name = type(error).__name__
    try:
        # Code of the program may run here.
        return f"{name}: {error}" if str(error) else name
    except BaseException:
        return name


def main() -> None:
    """Reads a request from standard input, runs it, and says on standard output how it went."""
    request = json.loads(sys.stdin.buffer.read())
    # Bound now: a program may put other functions in their places.
    read, write, leave, number_fd = os.read, os.write, os._exit, request["number_fd"]
    answer_fd = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    sys.argv = ["program.py"]
    limit(request["cpu_seconds"], request["memory_bytes"])
    if not raise_walls() and request["isolated"]:
        write(answer_fd, b"refused")
        leave(1)
    why = judge(request["program"], request["test"])
    if why is None:
        write(answer_fd, b"passed " + read(number_fd, 64))
    else:
        write(answer_fd, b"failed " + why[:MAX_MESSAGE_CHARS].encode("utf-8", "replace"))
    leave(0)


if __name__ == "__main__":
    main()
