"""Runs the benchmark: `python -m benchmarks.run [--only http,upload] [--systems celery,bentoml]`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, report
from benchmarks.report import Report
from benchmarks.sections.dispatch import measure_dispatch
from benchmarks.sections.hallo2 import measure_hallo2
from benchmarks.sections.http_load import measure_http
from benchmarks.sections.live import measure_live
from benchmarks.sections.memory import measure_memory
from benchmarks.sections.speech import measure_speech
from benchmarks.sections.text_to_video import measure_text_to_video
from benchmarks.sections.upload import measure_upload
from benchmarks.sections.upscale import measure_upscale
from benchmarks.systems import ROOT, SYSTEMS, Place, System

Section = Callable[[Place, list[System]], Report]
SECTIONS: dict[str, Section] = {
    "http": measure_http,
    "dispatch": measure_dispatch,
    "upscale": measure_upscale,
    "memory": measure_memory,
    "upload": measure_upload,
    "live": measure_live,
    "speech": measure_speech,
    "text_to_video": measure_text_to_video,
    "hallo2": measure_hallo2,
}


def _names(known: dict[str, object], text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", default=list(SECTIONS), type=lambda text: _names({**SECTIONS}, text))
    parser.add_argument("--systems", default=list(SYSTEMS), type=lambda text: _names({**SYSTEMS}, text))
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-bench/bin/python")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/out")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    facts = machine.facts()
    reports: list[Report] = []
    report.console.print(facts)
    with tempfile.TemporaryDirectory(prefix="mediaray-bench-") as folder:
        place = Place(Path(folder), arguments.peers_python.absolute())
        for name in arguments.only:
            reports.append(SECTIONS[name](place, [SYSTEMS[system] for system in arguments.systems]))
            report.show(reports[-1])
            report.write(arguments.out, facts, reports)


if __name__ == "__main__":
    main()
