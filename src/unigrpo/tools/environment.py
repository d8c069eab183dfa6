"""The machine as this package sees it: the first thing to add to a report of a problem."""

from __future__ import annotations

import os
import platform

from unigrpo.study import provenance
from unigrpo.study.run_folder import flat


def describe() -> dict:
    """Code, versions, devices (memory in MB) and threads."""
    import torch  # alone knows which devices it can use

    return {
        "commit": provenance.commit(),
        "source_hash": provenance.source_hash(),
        "platform": platform.platform(),
        "versions": provenance.versions(),
        "devices": {
            "cpu": {"name": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            **{
                f"cuda:{i}": {"name": p.name, "memory_mb": p.total_memory // 2**20}
                for i, p in enumerate(map(torch.cuda.get_device_properties, range(torch.cuda.device_count())))
            },
        },
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
    }


def lines(described: dict) -> list[str]:
    """The same for people."""
    rows = []
    for name, value in described.items():
        facts = [f"{k} {v}" for k, v in flat(value).items()] if isinstance(value, dict) else [str(value)]
        rows += [f"{name if i == 0 else '':<13}{fact}" for i, fact in enumerate(facts)]
    return rows
