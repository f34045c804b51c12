#!/usr/bin/env python3
"""What it costs to train the sub-nets of a spec together: the joint step against each sub-net trained alone.

    cargo build --release
    python3 bench/joint_cost.py specs/cifar100_resnet56_ekd.ddnn [--batch 32] [--rounds 5] [--threads 2]

For norms private, private everywhere and shared, makes a spec of each sub-net alone (its depth of the backbone, no
distillation) from the joint one, and runs `ddnnc bench` on all of them in turns, several rounds. Printed are medians:
the joint step, the sum of the steps alone, the ratio of times, and the ratio of multiply-accumulates, which is the share
that sharing leaves.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NORMS = {"private": "private", "private everywhere": "private_everywhere", "shared": "shared"}


def blocks(text, word):
    """Texts of the top-level `word ... { ... }` blocks."""
    found = []
    for start in re.finditer(rf"^{word}\b[^\n{{]*\{{", text, re.M):
        depth, end = 1, start.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append(text[start.start():end])
    return found


def alone(text, net):
    """The spec of one sub-net by itself."""
    for block in blocks(text, "distill"):
        text = text.replace(block, "")
    lines = []
    for line in text.splitlines():
        declared = re.match(r"subnet\s+(\w+)", line)
        if not declared or declared.group(1) == net:
            lines.append(line)
    return "\n".join(lines) + "\n"


def with_norm(text, norm):
    changed = re.sub(r"norm = [a-z_]+", f"norm = {norm}", text)
    if "norm =" not in changed:
        sys.exit("the spec has no `norm =` to change")
    return changed


def run(ddnnc, *args):
    done = subprocess.run([ddnnc, *args], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(args)}\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="+", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ddnnc", default="target/release/ddnnc")
    args = parser.parse_args()
    batch = [f"--batch={args.batch}"] if args.batch else []
    print(f"{'spec':24} {'norm':19} {'joint ms':>9} {'alone ms':>9} {'time':>6} {'MACs':>6}   alone, each")
    with tempfile.TemporaryDirectory() as folder:
        for spec in args.specs:
            source = spec.read_text()
            nets = re.findall(r"^subnet\s+(\w+)", source, re.M)
            for name, norm in NORMS.items():
                joint = with_norm(source, norm)
                files = {}
                for net, text in [("", joint)] + [(net, alone(joint, net)) for net in nets]:
                    files[net] = Path(folder) / f"{spec.stem}_{net or 'joint'}.ddnn"
                    files[net].write_text(text)
                macs = {net: run(args.ddnnc, "compile", "--json", *batch, str(f))["step_macs"] for net, f in files.items()}
                times = {net: [] for net in files}
                for _ in range(args.rounds):
                    for net, file in files.items():
                        bench = run(
                            args.ddnnc, "bench", "--json", *batch, f"--threads={args.threads}",
                            f"--steps={args.steps}", str(file),
                        )
                        times[net].append(bench["step_ms"])
                joint_ms = statistics.median(times[""])
                each = {net: statistics.median(times[net]) for net in nets}
                # Rounds are compared with themselves, so that a slow moment hits both sides.
                ratios = [times[""][i] / sum(times[net][i] for net in nets) for i in range(args.rounds)]
                share = macs[""] / sum(macs[net] for net in nets)
                print(
                    f"{spec.stem:24} {name:19} {joint_ms:9.1f} {sum(each.values()):9.1f} "
                    f"{statistics.median(ratios):6.3f} {share:6.3f}   "
                    + ", ".join(f"{net} {ms:.1f}" for net, ms in each.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
