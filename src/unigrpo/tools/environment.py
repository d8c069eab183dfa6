"""The machine as this package sees it: ``python -m unigrpo.tools.environment``. The first thing to add to a report of a problem."""

from __future__ import annotations

import json
import os
import platform

from unigrpo.core import cli
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


def main() -> None:
    parser = cli.parser("unigrpo.tools.environment", "Tell versions, devices and threads.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    args = parser.parse_args()
    told = describe()
    if args.json:
        print(json.dumps(told, indent=2))
        return
    for name, value in told.items():
        shown = [f"{k} {v}" for k, v in flat(value).items()] if isinstance(value, dict) else [str(value)]
        print("\n".join(f"{name if i == 0 else '':<13}{line}" for i, line in enumerate(shown)))


if __name__ == "__main__":
    cli.run(main)
