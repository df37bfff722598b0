"""Giving back the pages of program files that only the imports needed, a third of what PyTorch takes when imported.

They are clean copies of what is on the disk; the kernel maps those that are needed again, in thousandths of a second.
"""

import re
from pathlib import Path

MADV_DONTNEED = 4
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-.p \S+ \S+ [1-9]\d*")  # read-only, of a file


def give_back_code_pages() -> None:
    """Unmaps the pages of files that this process has not written to; does nothing where there is no Linux."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        return
    import ctypes  # PyTorch has it by now; a parser does without

    libc = ctypes.CDLL(None)
    span = None
    for line in maps.read_text().splitlines():
        found = MAPPING.match(line)
        if found:
            span = [int(end, 16) for end in found.groups()]
        elif span and line.startswith("Anonymous:"):
            if line.split()[1] == "0":  # else the loader has written addresses into its pages: they are on no disk
                libc.madvise(ctypes.c_void_p(span[0]), ctypes.c_size_t(span[1] - span[0]), MADV_DONTNEED)
            span = None
