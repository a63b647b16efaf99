"""Ties the life of a started process to its starter's: whoever was started ends when the starter is gone, however.

``python -m regraft.serving.process.leash PID MODULE ARGS`` runs a module so for the process PID that starts it.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time

import psutil

LOOK_S = 0.2
END_S = 10.0
HOLDER = "REGRAFT_LEASH_HOLDER"
"""Tells what a leashed process starts which process that was."""
_PR_SET_PDEATHSIG = 1


def leash_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``python -m module`` until this process ends, by itself or by any signal."""
    return [sys.executable, "-m", "regraft.serving.process.leash", str(os.getpid()), module, *arguments]


def hold(starter: int) -> None:
    """End this process, with all it started, as soon as its parent is not the process ``starter``; returns at once."""
    threading.Thread(target=_watch, args=(starter,), name="leash", daemon=True).start()


def hold_worker() -> None:
    """Do as ``hold`` for a process whose starter was itself started by this module, else for the parent it has now.

    The kernel is asked first: it ends a process even while a C library keeps every Python thread from running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    hold(int(os.environ.get(HOLDER) or os.getppid()))


def end_tree(process: subprocess.Popen[bytes]) -> int:
    """Kill a process that leads a group, the group, and all it started in other groups; return its exit code.

    Raises:
        psutil.TimeoutExpired: If one of them is stuck in the kernel.
    """
    started = _list_descendants(process.pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    _kill(started)
    return process.wait(END_S)


def _watch(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(LOOK_S)
    _kill(_list_descendants(os.getpid()))
    os._exit(1)


def _list_descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, END_S)


def main() -> None:
    """Run the module that the command line names."""
    starter, module = int(sys.argv[1]), sys.argv[2]
    sys.argv[:] = [module, *sys.argv[3:]]
    os.environ[HOLDER] = str(os.getpid())
    hold(starter)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending: asked once more, it would end with another code
        # Also when the module ended by itself: it may have seen its input close before the starter was seen to be gone.
        _kill(_list_descendants(os.getpid()))


if __name__ == "__main__":
    main()
