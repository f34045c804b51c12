#!/usr/bin/env python3
"""How compile time grows with depth: ResNets of bottleneck blocks with five nested sub-nets, at 1, 2 and 4 times the depth
of ResNet-152, and the spec resnet50_ekd.

    cargo build --release
    python3 bench/compile_time.py
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

STAGES = [3, 8, 36, 3]
SHARES = [1.0, 0.8, 0.6, 0.4, 0.2]


def spec(times):
    base = Path("specs/resnet50_ekd.ddnn").read_text()
    full = [n * times for n in STAGES]
    widths = [64, 128, 256, 512]
    for i, (n, width) in enumerate(zip(full, widths), 1):
        stage = f"{n} * bottleneck({width})" if i == 1 else (
            f"bottleneck({width}, stride = 2), {n - 1} * bottleneck({width})")
        base = re.sub(rf"stage s{i} = .*", f"stage s{i} = {stage}", base)
    nets = []
    for k, share in enumerate(SHARES):
        depth = [max(1, round(n * share)) for n in full]
        nets.append(f"subnet n{k} = resnet" + ("" if k == 0 else f" depth {depth}"))
    base = re.sub(r"subnet full.*\nsubnet medium.*\nsubnet small.*", "\n".join(nets), base)
    students = ", ".join(f"n{k}" for k in range(1, len(SHARES)))
    return base.replace("distill full -> [medium, small]", f"distill n0 -> [{students}]")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddnnc", default="target/release/ddnnc")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{'spec':28} {'operators':>9} {'launches':>8} {'ms':>8} {'ns per n log n':>14}")
    with tempfile.TemporaryDirectory() as folder:
        files = [("resnet50_ekd", Path("specs/resnet50_ekd.ddnn"))]
        for times in (1, 2, 4):
            path = Path(folder) / f"resnet{times}.ddnn"
            path.write_text(spec(times))
            files.append((f"ResNet-152 x {times}, 5 sub-nets", path))
        for name, path in files:
            runs = []
            for _ in range(args.rounds):
                done = subprocess.run([args.ddnnc, "compile", "--json", str(path)], capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout))
            ms = statistics.median(run["compile_ms"] for run in runs)
            n = runs[0]["operators_before_fusion"]
            print(f"{name:28} {n:9} {runs[0]['launches']:8} {ms:8.1f} {1e6 * ms / (n * math.log2(n)):14.0f}")


if __name__ == "__main__":
    main()
