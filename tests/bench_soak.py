"""Bench of a long run: many starts in one process, whose memory is watched."""

import os
import pickle
from pathlib import Path
from typing import Any

import cocotb

from hwgate.sim.bench_engine import Recorder, reset, run_start
from hwgate.sim.records import Job

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory of this process that is in use, as Linux counts it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@cocotb.test()
async def run(dut: Any) -> None:
    """Do the job in ``$HWGATE_JOB``; outcomes, and resident bytes after each start, go to files
    in the folder ``$HWGATE_OUTCOMES``, so that this process keeps none."""
    job: Job = pickle.loads(Path(os.environ["HWGATE_JOB"]).read_bytes())
    recorder, folder = Recorder(job), Path(os.environ["HWGATE_OUTCOMES"])
    resident = []
    await reset(dut)
    for index, start in enumerate(job.starts):
        outcome = await run_start(dut, job, start, recorder)
        with (folder / f"{index}").open("wb") as file:
            pickle.dump(outcome, file)
        del outcome
        resident.append(resident_bytes())
    (folder / "resident").write_bytes(pickle.dumps(resident))
