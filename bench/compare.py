#!/usr/bin/env python3
"""ddnnc against PyTorch on the CPU: the training steps of bench/specs, interleaved; medians and ratios.

    cargo build --release && cargo build --release -p ddnnc-cpu --example limits
    pip install --no-deps -r bench/requirements.txt
    python3 bench/compare.py [--specs resnet18,joint50] [--precisions f32,bf16] [--peers eager,compiled] [--threads 2,1]

In each round everything that is compared runs once, each in a process of its own between two multiply-add probes. A run
beside which a probe falls below 0.93 of the best probe seen was disturbed; it is repeated, at most --retries times.
bench/README.md says what is measured and how to read the table. Exit status: 0 done, 1 the two do not do the same work,
2 wrong command line, 3 something is missing or failed.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SPECS = ["resnet18", "resnet50", "joint50"]
# What the twins of a spec are called; joint50 is written with the common prefix computed once, and with three forwards.
TWINS = {"resnet18": ["resnet18"], "resnet50": ["resnet50"], "joint50": ["joint50", "joint50_forwards"]}
# Large blocks stay in the heap and are used again, where stock malloc maps and unmaps them in every step.
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
# A probe, the command, the probe once more, in one process group, so that a prefix holds for all three.
BETWEEN_PROBES = 'p=$1 t=$2; shift 2; "$p" "$t" && "$@" && "$p" "$t"'


class Missing(Exception):
    """Something that the comparison needs is not there or failed."""


@dataclass
class Candidate:
    """One thing to measure: a program, its environment and what it gave."""

    spec: str
    precision: str
    threads: int
    name: str
    command: list
    environment: dict = field(default_factory=dict)
    cold: dict = None
    runs: list = field(default_factory=list)  # one for each round; None where every try was disturbed

    def case(self):
        return self.spec, self.precision, self.threads


class Machine:
    """Runs commands beside probes and remembers the best probe for each number of threads."""

    def __init__(self, args):
        self.args, self.best = args, {}

    def calibrate(self, threads):
        for _ in range(3):
            self.saw(threads, run([*self.args.prefix, self.args.probe, str(threads)], {}))

    def saw(self, threads, found):
        rate = found[0]["f32_gflops"]
        self.best[threads] = max(self.best.get(threads, 0.0), rate)
        return rate

    def quiet(self, threads, rate):
        return rate >= self.args.quiet * self.best[threads]

    def measure(self, candidate, steps):
        """The figures of one run with the lower of its two probes."""
        command = ["sh", "-c", BETWEEN_PROBES, "sh", self.args.probe, str(candidate.threads)]
        command += [*candidate.command, "--steps", str(steps)]
        before, figures, after = run([*self.args.prefix, *command], candidate.environment)
        figures["probe_gflops"] = min(self.saw(candidate.threads, [one]) for one in (before, after))
        return figures

    def measure_quietly(self, candidate, steps):
        for _ in range(1 + self.args.retries):
            figures = self.measure(candidate, steps)
            if self.quiet(candidate.threads, figures["probe_gflops"]):
                return figures
            note(f"  disturbed: {figures['probe_gflops']:.0f} of {self.best[candidate.threads]:.0f} GFLOP/s")
        return None


def note(text):
    print(text, file=sys.stderr, flush=True)


def run(command, environment):
    """The JSON objects that a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    except OSError as error:
        raise Missing(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise Missing(f"{shlex.join(command)} ended with status {done.returncode}\n{done.stderr.strip()}")
    objects, decoder, text = [], json.JSONDecoder(), done.stdout.strip()
    while text:
        found, end = decoder.raw_decode(text)
        objects.append(found)
        text = text[end:].lstrip()
    return objects


def require(args):
    """Stops with a message where a program or PyTorch is missing."""
    for path, how in [
        (args.ddnnc, "cargo build --release"),
        (args.probe, "cargo build --release -p ddnnc-cpu --example limits"),
    ]:
        if not os.access(path, os.X_OK):
            raise Missing(f"there is no {path}; build it: {how}")
    if args.peers:
        tried = subprocess.run([args.python, "-c", "import torch"], capture_output=True, text=True)
        if tried.returncode != 0:
            last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
            raise Missing(
                f"{args.python} cannot import torch ({last}); pip install --no-deps -r bench/requirements.txt, "
                "or --peers none to measure ddnnc alone"
            )


def candidates(args, caches):
    found = []
    for spec in args.specs:
        for precision in args.precisions:
            for threads in args.threads:
                case = (spec, precision, threads)
                if not args.no_ddnnc:
                    command = [args.ddnnc, "bench", str(FOLDER / "specs" / f"{spec}.ddnn"), "--json", "--device", "cpu"]
                    command += ["--threads", str(threads), "--set", f"train.precision={precision}"]
                    found.append(Candidate(*case, "ddnnc", command))
                for twin in TWINS[spec]:
                    for peer in args.peers:
                        for malloc in args.malloc:
                            found.append(pytorch(args, caches, case, twin, peer, malloc))
    return found


def pytorch(args, caches, case, twin, peer, malloc):
    _, precision, threads = case
    name = f"PyTorch {peer}" + (", three forwards" if twin.endswith("_forwards") else "")
    name += ", stock malloc" if malloc == "stock" else ""
    command = [args.python, str(FOLDER / "twins.py"), twin, "--precision", precision, "--threads", str(threads)]
    command += ["--compile"] if peer == "compiled" else []
    # Empty at the start, so that the first run compiles everything and the later ones find it.
    cache = Path(caches) / "_".join([twin, precision, str(threads), malloc])
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": str(threads)}
    return Candidate(*case, name, command, environment | (TUNED if malloc == "tuned" else {}))


def same_work(args):
    """Whether every twin has the parameters and multiply-accumulates of its spec; says where not."""
    same = True
    for spec in args.specs:
        ours = run([args.ddnnc, "compile", "--json", str(FOLDER / "specs" / f"{spec}.ddnn")], {})[0]
        theirs = run([args.python, str(FOLDER / "twins.py"), TWINS[spec][0], "--count"], {})[0]
        pairs = [
            ("multiply-accumulates of a step", ours["step_macs"], theirs["step_macs"]),
            ("parameters", [net["parameters"] for net in ours["subnets"]], theirs["parameters"]),
        ]
        for what, a, b in pairs:
            if a != b:
                note(f"{spec}: {what}: {a} in ddnnc, {b} in PyTorch")
                same = False
    return same


def summary(all_candidates, machine):
    """One record for each candidate; ratios are to ddnnc in the same round."""
    records = []
    for c in all_candidates:
        # The best probe may have been seen late: what it shows to be disturbed does not count.
        usable = lambda figures: figures and machine.quiet(c.threads, figures["probe_gflops"])
        base = next((b for b in all_candidates if b.case() == c.case() and b.name == "ddnnc"), None)
        good = [one for one in c.runs if usable(one)]
        ratios = [a["step_ms"] / b["step_ms"] for a, b in zip(c.runs, base.runs if base else []) if usable(a) and usable(b)]
        record = {
            "spec": c.spec, "precision": c.precision, "threads": c.threads, "what": c.name,
            "rounds": len(c.runs), "quiet_rounds": len(good),
        }
        if good:
            times = [one["step_ms"] for one in good]
            record |= {
                "step_ms": statistics.median(times), "step_ms_least": min(times), "step_ms_most": max(times),
                "peak_rss_bytes": statistics.median(one["peak_rss_bytes"] for one in good),
                "loss": good[-1].get("loss"),
                "probe_gflops": statistics.median(one["probe_gflops"] for one in good),
            }
        if ratios:
            record["ratio"] = statistics.median(ratios)
        if c.cold:
            record |= {"first_step_ms": c.cold.get("first_step_ms"), "compile_ms": c.cold.get("compile_ms")}
        records.append(record)
    return records


def table(records):
    """A Markdown table."""
    def cell(record, key, scale, digits):
        value = record.get(key)
        return "–" if value is None else f"{value * scale:.{digits}f}"

    lines = [
        "| spec | precision | threads | | step, ms | least – most | × ddnnc | peak, MiB | first step after, s "
        "| torch.compile, s | loss | quiet rounds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        spread = f"{cell(r, 'step_ms_least', 1, 0)} – {cell(r, 'step_ms_most', 1, 0)}"
        cells = [
            r["spec"], r["precision"], str(r["threads"]), r["what"], cell(r, "step_ms", 1, 1), spread,
            cell(r, "ratio", 1, 2), cell(r, "peak_rss_bytes", 2**-20, 0), cell(r, "first_step_ms", 1e-3, 1),
            cell(r, "compile_ms", 1e-3, 1) if r.get("compile_ms") else "–", cell(r, "loss", 1, 3),
            f"{r['quiet_rounds']}/{r['rounds']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments():
    def several(allowed):
        def parse(text):
            words = [w for w in text.split(",") if w not in ("", "none")]
            for word in words:
                if allowed and word not in allowed:
                    raise argparse.ArgumentTypeError(f"{word}: not one of {', '.join(allowed)}")
            return words
        return parse

    def counts(text):
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specs", type=several(SPECS), default=SPECS)
    parser.add_argument("--precisions", type=several(["f32", "bf16"]), default=["f32", "bf16"])
    parser.add_argument("--peers", type=several(["eager", "compiled"]), default=["eager", "compiled"], help="or none")
    parser.add_argument("--malloc", type=several(["tuned", "stock"]), default=["tuned"], help="of PyTorch: tuned, stock")
    parser.add_argument("--threads", type=counts, default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed in each run, after two that are not")
    parser.add_argument("--retries", type=int, default=4, help="of a disturbed run")
    parser.add_argument("--quiet", type=float, default=0.93, help="least share of the best probe")
    parser.add_argument("--no-cold", action="store_true", help="do not measure the start of a process with empty caches")
    parser.add_argument("--no-check", action="store_true", help="do not compare parameters and multiply-accumulates")
    parser.add_argument("--no-ddnnc", action="store_true", help="measure PyTorch alone")
    parser.add_argument("--ddnnc", default="target/release/ddnnc")
    parser.add_argument("--probe", default="target/release/examples/limits")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--prefix", type=shlex.split, default=[], help='put before each timed command, such as "nice -n -5"')
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def compare(args, caches):
    if args.peers and not args.no_check and not same_work(args):
        return 1
    machine = Machine(args)
    for threads in args.threads:
        machine.calibrate(threads)
    everything = candidates(args, caches)
    cases = list(dict.fromkeys(c.case() for c in everything))
    for case in cases:
        compared = [c for c in everything if c.case() == case]
        for c in compared:
            # Also where it is not asked for, as torch.compile must not compile within a round.
            if not args.no_cold or "--compile" in c.command:
                note(f"{c.spec} {c.precision} {c.threads}: {c.name}, cold")
                cold = machine.measure(c, 1)
                c.cold = None if args.no_cold else cold
        for number in range(args.rounds):
            for c in compared:
                figures = machine.measure_quietly(c, args.steps)
                c.runs.append(figures)
                shown = f"{figures['step_ms']:.1f} ms" if figures else "disturbed"
                note(f"{c.spec} {c.precision} {c.threads}: round {number + 1}: {c.name}: {shown}")
    records = summary(everything, machine)
    if args.json:
        print(json.dumps({"best_probe_gflops": machine.best, "records": records}, indent=2))
    else:
        print(table(records))
        best = ", ".join(f"{rate:.0f} GFLOP/s on {threads}" for threads, rate in machine.best.items())
        print(f"\nMedians; the best probe: {best} (threads).")
    return 0


def main():
    args = arguments()
    try:
        require(args)
        with tempfile.TemporaryDirectory() as caches:
            sys.exit(compare(args, caches))
    except Missing as missing:
        note(f"error: {missing}")
        sys.exit(3)


if __name__ == "__main__":
    main()
