"""The memory that this process has taken, by the kernel's own count."""

from pathlib import Path

STATUS = Path("/proc/self/status")
FIGURES = {"process_memory_mib": "VmHWM", "process_memory_anonymous_mib": "RssAnon"}


def process_memory() -> dict[str, float]:
    """The peak of resident memory, and what of the present is of no file, under the keys of results.json, in MiB.

    What is of a file, as the code of libraries, the kernel can take back at any time. Empty where there is no Linux.
    """
    return {key: mib for key, name in FIGURES.items() if (mib := _mib(name)) is not None}


def resident_mib() -> float:
    """What is resident now; 0 where there is no Linux."""
    return _mib("VmRSS") or 0.0


def _mib(name: str) -> float | None:
    if not STATUS.exists():
        return None
    counts = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(counts[name].split()[0]) / 1024
