"""Prints the whole log of a job as `fastdistill` does, then what became of it.

python follow.py DASHBOARD JOB PATIENCE_SECONDS
"""

import sys

from fastdistill_ray.cluster.dashboard import Dashboard
from fastdistill_ray.run.following import JobLog

address, job, patience = sys.argv[1:]
details = JobLog(Dashboard(address), job).follow(patience=float(patience))
print(f"ended: {details.status.value if details else 'no answer'}")
