"""report.html and report.md of a run folder, from what the run has so far; needs no cluster."""

import sys

from fastdistill_ray.report.sections import write_report

if __name__ == "__main__":
    print(write_report(sys.argv[1]))
