"""``make bench``: run every benchmark, or those named; the real data sets are looked for beside the checkout."""

import sys

from benchmarks.camera_change import measure_camera_change
from benchmarks.certificate_rates import measure_certificates
from benchmarks.drift import measure_drift
from benchmarks.engine import measure_engine
from benchmarks.few_labels import measure_few_labels
from benchmarks.fine_tuning import measure_fine_tuning
from benchmarks.forecasts import measure_forecasts
from benchmarks.gate_rates import measure_gate
from benchmarks.heads_on_views import measure_views
from benchmarks.imbalance import measure_imbalance
from benchmarks.interval_coverage import measure_intervals
from benchmarks.kills import measure_kills
from benchmarks.main_job import measure_main_job
from benchmarks.retrainings import measure_retrainings
from benchmarks.selection_quality import measure_selection
from benchmarks.speed import measure_speed

BENCHMARKS = {
    "main-job": measure_main_job,
    "speed": measure_speed,
    "engine": measure_engine,
    "selection": measure_selection,
    "few-labels": measure_few_labels,
    "certificate": measure_certificates,
    "intervals": measure_intervals,
    "camera-change": measure_camera_change,
    "gate": measure_gate,
    "retrainings": measure_retrainings,
    "forecasts": measure_forecasts,
    "kills": measure_kills,
    "fine-tuning": measure_fine_tuning,
    "views": measure_views,
    "imbalance": measure_imbalance,
    "drift": measure_drift,
}


def run_benchmarks(arguments: list[str]) -> int:
    """Run the benchmark named first, with the other arguments, or all without any; return the worst exit code."""
    if not arguments:
        return max(measure([]) for measure in BENCHMARKS.values())
    if arguments[0] not in BENCHMARKS:
        sys.stderr.write(f"no benchmark {arguments[0]!r}; there are: {', '.join(BENCHMARKS)}\n")
        return 2
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(run_benchmarks(sys.argv[1:]))
