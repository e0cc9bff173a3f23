"""A wall clock that jumps, for one program and its children, without touching the machine's own.

A small library, compiled on the spot and loaded ahead of all others, adds to the wall clock what stands in a
file; the monotonic clock stays as it is. (What libfaketime does, where it is installed.)
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from pipeline.errors import RunError

_LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const double *step;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AUSTREAM_BENCH_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    step = at == MAP_FAILED ? 0 : at;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, now);
    if (!result && step && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)*step;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    if (!result && step) now->tv_sec += (time_t)*step;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class SteppedClock:
    """The clock of programs that are started with `environment`.

    Raises:
        RunError: there is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RunError(
                "no C compiler for a stand-in of the wall clock, and the machine's own is left alone"
            )
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_LIBRARY)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"],
            check=True,
            capture_output=True,
        )
        self._file = folder / "clock.step"
        self.step(0.0)
        self.environment = {"LD_PRELOAD": str(library), "AUSTREAM_BENCH_CLOCK": str(self._file)}

    def step(self, seconds: float) -> None:
        """From now on the wall clock is so far ahead of the machine's."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))
