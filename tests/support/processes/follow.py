"""Prints the whole log of a job as `fastdistill` does, then what became of it; its arguments are
DASHBOARD JOB PATIENCE_SECONDS SILENCE_SECONDS."""

import sys

from fastdistill_ray.cluster.dashboard import Dashboard
from fastdistill_ray.run import following
from fastdistill_ray.run.following import JobLog

address, job, patience, silence = sys.argv[1:]
following.SILENCE_SECONDS = float(silence)
details = JobLog(Dashboard(address), job).follow(patience=float(patience))
print(f"ended: {details.status.value if details else 'no answer'}")
