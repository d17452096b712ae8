"""The memory, cores and GPU memory of SageMaker's instance types, by family and size.

Source: "Amazon EC2 instance types", the specifications of general purpose, compute optimized, memory optimized and
accelerated computing instances. The families below have the same memory for each vCPU in all their sizes.
"""

import re
from collections.abc import Mapping

from mammopipe.pipelines.config.compute import gpus_of

GIB_A_VCPU: Mapping[str, float] = {
    **dict.fromkeys(("t3", "m4", "m5", "m5d", "m6i", "m6id", "m6g", "m7i", "m7g", "g4dn", "g5", "g6"), 4),
    **dict.fromkeys(("c5", "c5d", "c6i", "c6id", "c6g", "c7i", "c7g"), 2),
    **dict.fromkeys(("r5", "r5d", "r6i", "r6id", "r7i", "g6e"), 8),
}
"""Memory in GiB for each vCPU."""
EXCEPTIONS: Mapping[str, tuple[int, float]] = {
    "p3.2xlarge": (8, 61),
    "p3.8xlarge": (32, 244),
    "p3.16xlarge": (64, 488),
    "p3dn.24xlarge": (96, 768),
    "p4d.24xlarge": (96, 1152),
    "p4de.24xlarge": (96, 1152),
    "p5.4xlarge": (16, 256),
    "p5.48xlarge": (192, 2048),
    "p5e.48xlarge": (192, 2048),
    "p5en.48xlarge": (192, 2048),
    "t3.medium": (2, 4),
    "t3.large": (2, 8),
}
"""Number of vCPUs and memory in GiB of types that do not follow their family."""
GPU_GIB: Mapping[str, float] = {
    "g4dn": 16, "g5": 24, "g6": 24, "g6e": 48, "p3": 16, "p3dn": 32, "p4d": 40, "p4de": 80, "p5": 80, "p5e": 141,
    "p5en": 141,
}  # fmt: skip
"""Memory in GiB of one GPU of a family."""
_SIZE = re.compile(r"(\d*)xlarge")


def vcpus_of(instance_type: str) -> int:
    """Return the number of vCPUs of an instance type such as `ml.m5.xlarge`; 1 if its size is not known."""
    name = instance_type.removeprefix("ml.")
    if name in EXCEPTIONS:
        return EXCEPTIONS[name][0]
    size = name.partition(".")[2]
    found = _SIZE.fullmatch(size)
    return 4 * int(found[1] or 1) if found else 2 if size == "large" else 1


def memory_gib(instance_type: str) -> float:
    """Return the memory of an instance type in GiB; 0 if its family is not known."""
    name = instance_type.removeprefix("ml.")
    if name in EXCEPTIONS:
        return EXCEPTIONS[name][1]
    family, _, size = name.partition(".")
    known = size == "large" or _SIZE.fullmatch(size) is not None
    return vcpus_of(instance_type) * GIB_A_VCPU.get(family, 0) if known else 0


def gpu_memory_gib(instance_type: str) -> float:
    """Return the memory of one GPU of an instance type in GiB; 0 if it has none, or one of unknown memory."""
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return GPU_GIB.get(family, 0) if gpus_of(instance_type) else 0
