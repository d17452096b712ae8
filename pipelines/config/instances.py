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
LOCAL_DISK_GB: Mapping[str, Mapping[str, int]] = {
    "g4dn": {"xlarge": 125, "2xlarge": 225, "4xlarge": 225, "8xlarge": 900, "12xlarge": 900, "16xlarge": 900},
    **{
        family: {
            "xlarge": 250, "2xlarge": 450, "4xlarge": 600, "8xlarge": 900,
            **dict(zip(("12xlarge", "16xlarge", "24xlarge", "48xlarge"), larger, strict=True)),
        }
        for family, larger in {
            "g5": (3800, 1900, 3800, 7600), "g6": (3760, 1880, 3760, 7520), "g6e": (3800, 1900, 3800, 7600)
        }.items()
    },
    "p3dn": {"24xlarge": 1800},
    **dict.fromkeys(("p4d", "p4de"), {"24xlarge": 8000}),
    "p5": {"4xlarge": 3840, "48xlarge": 30_720},
    **dict.fromkeys(
        ("m5d", "r5d"),
        {
            "large": 75, "xlarge": 150, "2xlarge": 300, "4xlarge": 600, "8xlarge": 1200,
            "12xlarge": 1800, "16xlarge": 2400, "24xlarge": 3600,
        },
    ),
    "c5d": {
        "large": 50, "xlarge": 100, "2xlarge": 200, "4xlarge": 400, "9xlarge": 900,
        "12xlarge": 1800, "18xlarge": 1800, "24xlarge": 3600,
    },
    **dict.fromkeys(
        ("c6id", "m6id", "r6id"),
        {
            "large": 118, "xlarge": 237, "2xlarge": 474, "4xlarge": 950, "8xlarge": 1900,
            "12xlarge": 2850, "16xlarge": 3800, "24xlarge": 5700, "32xlarge": 7600,
        },
    ),
}  # fmt: skip
"""Size in GB of all local disks of an instance together, by family and size."""
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


def local_disk_gb(instance_type: str) -> int:
    """Return the size in GB of all local disks of an instance type; 0 if it has none, or they are not known."""
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    return LOCAL_DISK_GB.get(family, {}).get(size, 0)


def gpu_memory_gib(instance_type: str) -> float:
    """Return the memory of one GPU of an instance type in GiB; 0 if it has none, or one of unknown memory."""
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return GPU_GIB.get(family, 0) if gpus_of(instance_type) else 0
