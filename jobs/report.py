"""report.html and report.md of a run folder, from what the run has so far; needs no cluster."""

import sys

from fastdistill_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
