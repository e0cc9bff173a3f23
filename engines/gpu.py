"""Which NVIDIA GPU is there, asked of the driver itself: streaming need not import PyTorch to know."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76
"""CUdevice_attribute of the driver API."""


@dataclass(frozen=True, slots=True)
class GPU:
    """The first GPU that CUDA shows to this process."""

    name: str
    compute: str
    """Compute capability: `9.0` of a Hopper."""
    driver: str
    """The newest CUDA version that the driver speaks, e.g. `13.0`."""

    def __str__(self) -> str:
        return f"{self.name} (compute {self.compute}, CUDA {self.driver})"


@cache
def nvidia_gpu() -> GPU | None:
    """The GPU, or None where there is no driver or no device; CUDA_VISIBLE_DEVICES counts."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, number, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number)) or number.value < 1:
        return None
    name = ctypes.create_string_buffer(128)
    if cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, len(name), device):
        return None
    compute = []
    for attribute in (_COMPUTE_MAJOR, _COMPUTE_MINOR):
        if cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
        compute.append(str(number.value))
    if cuda.cuDriverGetVersion(ctypes.byref(version)):
        return None
    major, minor = divmod(version.value, 1000)
    return GPU(name.value.decode(errors="replace"), ".".join(compute), f"{major}.{minor // 10}")
