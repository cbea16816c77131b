"""What comparisons on a shared machine need: whether it was idle, and the arguments that they have in common."""

import argparse
from pathlib import Path


def idle():
    """Ticks that all processors had nothing to do, and those that passed, since the machine started."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def share(before, after):
    """Of the ticks between two answers of `idle`, those that were idle."""
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def arguments(doc):
    """A parser of what every comparison with Trimwick takes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trimwick", default="target/release/trimwick")
    return parser


def calibrated(doc):
    """The same for those that calibrate SmolLM2 on windows of the fetched texts."""
    parser = arguments(doc)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the fetch scripts put things")
    parser.add_argument("--windows", type=int, default=32)
    return parser
