"""The system calls of our processes, by purpose; a sandbox allows the ones that it needs.

A name that an architecture does not have is ignored there.
"""

import mmap
import os
import socket
import termios
from collections.abc import Mapping
from typing import Final

from pyvmm.arch.confine.seccomp import ALWAYS, Argument, Conditions

Calls = Mapping[str, Conditions]


def _always(names: str) -> Calls:
    return dict.fromkeys(names.split(), ALWAYS)


_MAP_DENYWRITE: Final = 0x800  # which only the dynamic loader gives, for a library's segments
_MAP_TYPE: Final = 0xF
_CLONE_THREAD: Final = 0x10000
_CLONE_NEW_ANYTHING: Final = 0x7E020080  # namespaces
_PR_SET_NAME: Final = 15
_DATA_ONLY: Final = Argument(2, 0, mmap.PROT_EXEC)
_LIBRARY: Final = (
    Argument(2, mmap.PROT_EXEC, mmap.PROT_EXEC | mmap.PROT_WRITE),
    Argument(3, mmap.MAP_PRIVATE | _MAP_DENYWRITE, _MAP_TYPE | _MAP_DENYWRITE),
)
_IOCTLS: Final = (
    *(termios.TCGETS, termios.TCSETS, termios.TCSETSW, termios.TCSETSF, termios.TIOCGPGRP),
    *(termios.TIOCGWINSZ, termios.FIONREAD, termios.FIOCLEX, termios.FIONBIO),
    *(0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D),  # TCGETS2, TCSETS2, TCSETSW2, TCSETSF2
    0x400454D0,  # TUNSETOFFLOAD
)
_WORD: Final = 0xFFFFFFFF

#: Memory: nothing becomes executable but the text of a library.
MEMORY: Final[Calls] = {
    **_always("brk madvise munmap mremap mincore membarrier"),
    "mmap": ((_DATA_ONLY,), _LIBRARY),
    "mprotect": ((_DATA_ONLY,),),
}
#: What every program does.
PROGRAM: Final[Calls] = {
    **_always(
        "exit exit_group futex getpid gettid getppid getuid geteuid getgid getegid getrandom"
    ),
    **_always("getrandom clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time"),
    **_always(
        "uname getpgrp getpgid rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack"
    ),
    **_always("restart_syscall sched_getaffinity sched_yield sysinfo getrusage getcwd umask times"),
    **_always("set_robust_list rseq getrlimit setitimer getitimer arch_prctl set_tid_address"),
    "prlimit64": ((Argument(0, 0),),),
    "prctl": ((Argument(0, _PR_SET_NAME),),),
}
#: Open descriptors, whatever they are.
DESCRIPTORS: Final[Calls] = {
    **_always("read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek"),
    **_always("close close_range fstat fcntl dup dup2 dup3 flock fsync fdatasync ftruncate"),
    **_always("fallocate fadvise64 sync_file_range copy_file_range getdents64 statx fstatfs"),
    **_always("poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait"),
    **_always("pipe pipe2 eventfd2 timerfd_create timerfd_settime"),
    "ioctl": tuple((Argument(1, request, _WORD),) for request in _IOCTLS),
}
#: Sockets that exist, or that a listening one accepts.
CONNECTIONS: Final[Calls] = _always(
    "accept accept4 recvfrom recvmsg sendto sendmsg shutdown getsockopt setsockopt getsockname"
    " getpeername"
)
#: Files by their paths; Landlock decides which.
FILES: Final[Calls] = _always(
    "open openat stat lstat newfstatat readlink readlinkat access faccessat faccessat2 unlink"
    " unlinkat rmdir rename renameat renameat2 mkdir mkdirat"
)
#: What a server of directories does beside that.
SHARES: Final[Calls] = _always(
    "chmod fchmod fchmodat chown fchown lchown fchownat link linkat symlink symlinkat mknod"
    " mknodat truncate utimensat statfs getxattr lgetxattr fgetxattr listxattr llistxattr"
    " flistxattr setxattr fsetxattr setfsuid setfsgid"
)
#: Other processes of ours that have been started before: to wait for them.
CHILDREN: Final[Calls] = _always("wait4 waitid")
#: To signal a process by a descriptor of it that is open already.
SIGNAL_BY_DESCRIPTOR: Final[Calls] = _always("pidfd_send_signal")
#: Connections to other programs of this host, by Unix sockets.
UNIX_SOCKETS: Final[Calls] = {
    "socket": ((Argument(0, socket.AF_UNIX),),),
    **_always("connect"),
}
#: Connections to other hosts.
NETWORK: Final[Calls] = {
    "socket": tuple((Argument(0, family),) for family in (socket.AF_INET, socket.AF_INET6)),
    **_always("connect bind listen"),
}
#: To listen on sockets again.
LISTENERS: Final[Calls] = {
    "socket": ((Argument(0, socket.AF_UNIX),), (Argument(0, socket.AF_INET),)),
    **_always("connect bind listen"),
}


def threads() -> Calls:
    """Return what the threads of this process do: start more, and signal each other."""
    only_threads = Argument(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_NEW_ANYTHING)
    return {"clone": ((only_threads,),), "tgkill": ((Argument(0, os.getpid(), _WORD),),)}
