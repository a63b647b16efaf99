"""``make bench``: run every benchmark; the real data sets are looked for beside the checkout."""

import sys

from benchmarks.main_job import measure_main_job

if __name__ == "__main__":
    sys.exit(measure_main_job(sys.argv[1:]))
