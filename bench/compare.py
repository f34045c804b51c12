#!/usr/bin/env python3
"""ddnnc against PyTorch, and burn, on the CPU: training steps, in turns; medians and ratios.

    cargo build --release && cargo build --release -p ddnnc-cpu --example limits
    pip install --no-deps -r bench/requirements.txt
    python3 bench/compare.py [--specs resnet18,joint50] [--precisions f32,bf16] [--peers eager,compiled,burn] [--threads 2,1]

In each round everything that is compared on one spec and number of threads, all precisions together, runs once, each in a
process of its own between two multiply-add probes. A run beside which a probe falls below 0.93 of the best probe seen was
disturbed; it is repeated, at most --retries times.
bench/README.md says what is measured and how to read the table. Exit status: 0 done, 1 the two do not do the same work,
2 wrong command line, 3 something is missing or failed.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SPECS = {
    "resnet18": FOLDER / "specs" / "resnet18.ddnn",
    "resnet50": FOLDER / "specs" / "resnet50.ddnn",
    "joint50": FOLDER / "specs" / "joint50.ddnn",
    "resnet56_ekd": FOLDER.parent / "specs" / "cifar100_resnet56_ekd.ddnn",
    "mobilenetv2": FOLDER / "specs" / "mobilenetv2.ddnn",
}
# What the twins of a spec are called; joint50 is written with the common prefix computed once, and with three forwards.
TWINS = {spec: [spec] for spec in SPECS} | {"joint50": ["joint50", "joint50_forwards"]}
PYTORCH = ["eager", "compiled"]
# What bench/burn is written for, in f32.
BURN = ["resnet18", "resnet50"]
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
    cache: Path = None  # where it keeps what it compiles; None where it compiles nothing
    cold: dict = None  # with that cache empty
    runs: list = field(default_factory=list)  # one for each round; None where every try was disturbed

    def case(self):
        return self.spec, self.precision, self.threads

    def label(self):
        return f"{self.spec} {self.precision} {self.threads}: {self.name}"


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

    def measure_quietly(self, candidate, steps, retries, cold=False):
        for _ in range(1 + retries):
            if cold:
                shutil.rmtree(candidate.cache, ignore_errors=True)
                candidate.cache.mkdir()
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
    programs = [
        (args.ddnnc, "cargo build --release"),
        (args.probe, "cargo build --release -p ddnnc-cpu --example limits"),
    ]
    if "burn" in args.peers:
        programs.append((args.burn, "cargo build --release --manifest-path bench/burn/Cargo.toml"))
    for path, how in programs:
        if not os.access(path, os.X_OK):
            raise Missing(f"there is no {path}; build it: {how}")
    if set(args.peers) & set(PYTORCH):
        tried = subprocess.run([args.python, "-c", "import torch"], capture_output=True, text=True)
        if tried.returncode != 0:
            last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
            raise Missing(
                f"{args.python} cannot import torch ({last}); pip install --no-deps -r bench/requirements.txt, "
                "or --peers none to measure ddnnc alone"
            )


def candidates(args, caches):
    """Everything to measure; what stands together is compared in the same rounds."""
    found = []
    for spec in args.specs:
        for threads in args.threads:
            for precision in args.precisions:
                case = (spec, precision, threads)
                if not args.no_ddnnc:
                    command = [args.ddnnc, "bench", str(SPECS[spec]), "--json", "--device", "cpu"]
                    command += ["--threads", str(threads), "--set", f"train.precision={precision}"]
                    found.append(Candidate(*case, "ddnnc", command))
                for twin in TWINS[spec]:
                    for peer in PYTORCH:
                        if peer in args.peers:
                            found += [pytorch(args, caches, case, twin, peer, malloc) for malloc in args.malloc]
                if "burn" in args.peers and spec in BURN and precision == "f32":
                    command = [args.burn, spec, "--threads", str(threads)]
                    found.append(Candidate(*case, "burn", command, {"RAYON_NUM_THREADS": str(threads)}))
    return found


def pytorch(args, caches, case, twin, peer, malloc):
    _, precision, threads = case
    name = f"PyTorch {peer}" + (", three forwards" if twin.endswith("_forwards") else "")
    name += ", stock malloc" if malloc == "stock" else ""
    command = [args.python, str(FOLDER / "twins.py"), twin, "--precision", precision, "--threads", str(threads)]
    environment = {"OMP_NUM_THREADS": str(threads)} | (TUNED if malloc == "tuned" else {})
    if peer == "eager":
        return Candidate(*case, name, command, environment)
    cache = Path(caches) / "_".join([twin, precision, str(threads), malloc])
    # Its compiled C++ headers lie under the folder for temporary files, whatever the cache is.
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TMPDIR": str(cache)}
    return Candidate(*case, name, [*command, "--compile"], environment, cache)


def same_work(args):
    """Whether every twin has the parameters and multiply-accumulates of its spec; says where not."""
    same = True
    for spec in args.specs:
        compiled = run([args.ddnnc, "compile", "--json", str(SPECS[spec])], {})[0]
        tensors = run([args.ddnnc, "inspect", "--json", str(SPECS[spec])], {})[0]["parameters"]
        ours = {
            "parameters": [net["parameters"] for net in compiled["subnets"]],
            "all_parameters": sum(math.prod(t["shape"]) for t in tensors if t["kind"] == "parameter"),
            "step_macs": compiled["step_macs"],
            "batch": compiled["batch"],
        }
        found = []
        if set(args.peers) & set(PYTORCH):
            command = [args.python, str(FOLDER / "twins.py"), TWINS[spec][0], "--count"]
            found.append(("PyTorch", run(command, {})[0]))
        if "burn" in args.peers and spec in BURN:
            found.append(("burn", run([args.burn, spec, "--count"], {})[0]))
        for peer, theirs in found:
            for key in theirs:
                if ours[key] != theirs[key]:
                    note(f"{spec}: {key}: {ours[key]} in ddnnc, {theirs[key]} in {peer}")
                    same = False
    return same


def ratio_of(a, b, usable):
    """How many times as long as `b` the candidate `a` takes: the median over the rounds in which both were quiet."""
    pairs = [(x, y) for x, y in zip(a.runs, b.runs) if usable(x, a.threads) and usable(y, b.threads)]
    return statistics.median(x["step_ms"] / y["step_ms"] for x, y in pairs) if pairs else None


def summary(all_candidates, machine):
    """One record for each candidate, and one for each comparison with the fastest peer."""
    # The best probe may have been seen late: what it shows to be disturbed does not count.
    usable = lambda figures, threads: figures and machine.quiet(threads, figures["probe_gflops"])
    records, of = [], {}
    for c in all_candidates:
        base = next((b for b in all_candidates if b.case() == c.case() and b.name == "ddnnc"), None)
        good = [one for one in c.runs if usable(one, c.threads)]
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
        if base:
            record["ratio"] = ratio_of(c, base, usable)
        if c.cache:
            cold = c.cold if usable(c.cold, c.threads) else {}
            record |= {"first_step_ms": cold.get("first_step_ms"), "compile_ms": cold.get("compile_ms")}
        elif good:
            record["first_step_ms"] = statistics.median(one["first_step_ms"] for one in good)
        records.append(record)
        of[id(c)] = record

    best = []
    for spec, threads in dict.fromkeys((c.spec, c.threads) for c in all_candidates):
        timed = [c for c in all_candidates if (c.spec, c.threads) == (spec, threads) and "step_ms" in of[id(c)]]
        precisions = list(dict.fromkeys(c.precision for c in timed))
        for among in [[p] for p in precisions] + ([precisions] if len(precisions) > 1 else []):
            fastest = lambda ours: min(
                (c for c in timed if c.precision in among and (c.name == "ddnnc") == ours),
                key=lambda c: of[id(c)]["step_ms"], default=None,
            )
            a, b = fastest(True), fastest(False)
            if a and b:
                x, y = of[id(a)], of[id(b)]
                best.append({
                    "spec": spec, "threads": threads, "among": among[0] if len(among) == 1 else "any",
                    "ddnnc": a.precision, "against": f"{b.name}, {b.precision}",
                    "ddnnc_ms": x["step_ms"], "against_ms": y["step_ms"], "ratio": ratio_of(b, a, usable),
                    "peak_ratio": x["peak_rss_bytes"] / y["peak_rss_bytes"],
                    "ddnnc_first_step_ms": x.get("first_step_ms"), "against_first_step_ms": y.get("first_step_ms"),
                })
    return records, best


def cell(record, key, scale, digits):
    value = record.get(key)
    return "–" if value is None else f"{value * scale:.{digits}f}"


def table_of_best(best):
    """A Markdown table: ddnnc against the fastest peer, in each precision and with all precisions allowed."""
    lines = [
        "| spec | threads | precision | ddnnc, ms | the fastest peer | its, ms | ratio | peak, ratio | first step after, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in best:
        first = f"{cell(r, 'ddnnc_first_step_ms', 1e-3, 2)} / {cell(r, 'against_first_step_ms', 1e-3, 1)}"
        cells = [
            r["spec"], str(r["threads"]), r["among"], f"{cell(r, 'ddnnc_ms', 1, 1)} ({r['ddnnc']})", r["against"],
            cell(r, "against_ms", 1, 1), cell(r, "ratio", 1, 2), cell(r, "peak_ratio", 1, 2), first,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(records):
    """A Markdown table."""
    lines = [
        "| spec | precision | threads | | step, ms | least – most | × ddnnc | peak, MiB | first step after, s "
        "| torch.compile, s | loss | quiet rounds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        spread = f"{cell(r, 'step_ms_least', 1, 0)} – {cell(r, 'step_ms_most', 1, 0)}"
        cells = [
            r["spec"], r["precision"], str(r["threads"]), r["what"], cell(r, "step_ms", 1, 1), spread,
            cell(r, "ratio", 1, 2), cell(r, "peak_rss_bytes", 2**-20, 0), cell(r, "first_step_ms", 1e-3, 2),
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
    parser.add_argument("--specs", type=several(SPECS), default=list(SPECS))
    parser.add_argument("--precisions", type=several(["f32", "bf16"]), default=["f32", "bf16"])
    parser.add_argument("--peers", type=several([*PYTORCH, "burn"]), default=PYTORCH, help="eager, compiled, burn, or none")
    parser.add_argument("--malloc", type=several(["tuned", "stock"]), default=["tuned"], help="of PyTorch: tuned, stock")
    parser.add_argument("--threads", type=counts, default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed in each run, after two that are not")
    parser.add_argument("--retries", type=int, default=4, help="of a disturbed run")
    parser.add_argument("--quiet", type=float, default=0.93, help="least share of the best probe")
    parser.add_argument("--no-check", action="store_true", help="do not compare parameters and multiply-accumulates")
    parser.add_argument("--no-ddnnc", action="store_true", help="measure the peers alone")
    parser.add_argument("--ddnnc", default="target/release/ddnnc")
    parser.add_argument("--burn", default="bench/burn/target/release/burn-twin")
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
    for case in dict.fromkeys((c.spec, c.threads) for c in everything):
        compared = [c for c in everything if (c.spec, c.threads) == case]
        for c in compared:
            if c.cache:
                # What it compiles here, it finds in the rounds.
                c.cold = machine.measure_quietly(c, 1, min(args.retries, 2), cold=True)
                note(f"{c.label()}: compiled, first step after {c.cold['first_step_ms'] / 1e3:.0f} s" if c.cold
                     else f"{c.label()}: compiled, disturbed")
        for number in range(args.rounds):
            for c in compared:
                figures = machine.measure_quietly(c, args.steps, args.retries)
                c.runs.append(figures)
                shown = f"{figures['step_ms']:.1f} ms" if figures else "disturbed"
                note(f"{c.label()}: round {number + 1}: {shown}")
    records, best = summary(everything, machine)
    if args.json:
        print(json.dumps({"best_probe_gflops": machine.best, "records": records, "best": best}, indent=2))
    else:
        print(table(records))
        if best:
            print("\n" + table_of_best(best))
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
