#!/usr/bin/env python3
"""Exports every net of specs to ONNX and compares ONNX Runtime with `ddnnc step --eval`.

Each spec gets random weights and running statistics. Each of its nets is exported, goes through ONNX's checker, and runs in ONNX
Runtime on batches of one and of three random images; its logits may differ from ours by a small part of the largest. Beside
that: the file holds the tensors and the texts of the safetensors file of the same net, and the example of docs/cli.md gives
the probabilities of `ddnnc predict`. Status 1 where anything differs. `bash .ci/onnx` installs what this needs.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".onnx"))

try:
    import numpy as np
    import onnx
    import onnxruntime
    from PIL import Image
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file
except ImportError as error:
    print(f"{error}: `bash .ci/onnx` installs what this needs")
    sys.exit(3)

# Of the largest logit. Sums of f32 in another order, through up to fifty layers.
TOLERANCE = 2e-5
# Of a random net, which may magnify rounding: in the worst of 600 seeds f32 on the CPU is as far from f64 as ONNX Runtime is.
RANDOM_TOLERANCE = 1e-4
# Where all logits are smaller, the values on the way to them are what rounding is measured by: a random net may end in a ReLU
# that nothing passes, or in the sigmoid of -30, which ONNX Runtime takes for 0.
LEAST = 1e-3
COLOUR = ", normalize = normalize(mean = [0.1, 0.2, 0.3], std = [0.4, 0.5, 0.6])"
# A net that every pixel of an image matters to, for the example of docs/cli.md.
SMALL = f"""model photo
input  image : f32[3, 21, 28]
target label : class[5]
backbone net {{ head = conv(8, 3) |> relu |> flatten |> linear(classes) }}
subnet small = net
train {{ data = image_folder(path = "data"{COLOUR}) }}
"""
BATCHES = (1, 3)


class Check:
    def __init__(self, ddnnc, folder):
        self.ddnnc = ddnnc
        self.folder = pathlib.Path(folder)
        self.nets = 0
        self.numbers = 0
        self.worst = (0.0, "none")
        # Values that one model of a cascade has for another.
        self.handed_on = 0
        self.operators = set()
        # Nets whose logits are all smaller than LEAST, which say little.
        self.silent = []
        self.wrong = []

    def run(self, *args):
        done = subprocess.run(
            [self.ddnnc, "--quiet", *map(str, args)], capture_output=True, text=True, cwd=self.folder
        )
        if done.returncode != 0:
            raise RuntimeError(f"ddnnc {' '.join(map(str, args))}\n{done.stderr}")
        return done.stdout

    def session(self, path):
        """ONNX Runtime on a file, once the checker has passed it."""
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        self.operators |= {node.op_type for node in model.graph.node}
        self.nets += 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def fails(self, what):
        self.wrong.append(what)
        print(f"  WRONG {what}", flush=True)

    def spec(self, name, text, device):
        """Every net of a spec."""
        noise = np.random.default_rng(zlib.crc32(name.encode()))
        spec = self.folder / "spec.ddnn"
        spec.write_text(text)
        precision = ["--set", "train.precision=f32"]
        declared = json.loads(self.run("inspect", spec, "--json"))
        nets = [net["name"] for net in declared["nets"]]
        self.run("step", spec, "--init", "fresh", "--seed", 1)
        save_file(randomised(load_file(self.folder / "fresh"), noise), self.folder / "w")
        wanted = []
        for n in BATCHES:
            shape = [n, *declared["input"]["shape"]]
            # Large enough for activations to reach all of their pieces.
            image = 4 * noise.standard_normal(shape).astype(np.float32)
            label = noise.integers(0, declared["target"]["classes"], n)
            save_file({"image": image, "label": label}, self.folder / "b")
            self.run(
                "step", spec, "--weights", "w", "--batch", "b", "--out", "g", "--eval", "--device", device, *precision
            )
            wanted.append((image, load_file(self.folder / "g")))
        for net in nets:
            try:
                self.net(f"{name}, {net}", spec, net, wanted)
                if net == nets[0]:
                    self.same_as_safetensors(f"{name}, {net}", spec, net)
            except Exception as error:
                self.fails(f"{name}, {net}: {error}")
        if len(nets) > 1:
            for order in (nets[::-1], nets):
                what = f"{name}, {' -> '.join(order)}"
                try:
                    self.cascade(what, spec, order, wanted)
                except Exception as error:
                    self.fails(f"{what}: {error}")

    def cascade(self, name, spec, nets, wanted):
        """The models of a cascade, one after the other: each gives the logits that its net alone gives."""
        self.run("export", spec, "--weights", "w", "--cascade", ",".join(nets), "-o", "stage.onnx")
        sessions = [self.session(self.folder / f"stage.{net}.onnx") for net in nets]
        for image, results in wanted:
            values = {"image": image}
            for net, session in zip(nets, sessions):
                names = [output.name for output in session.get_outputs()]
                given = session.run(names, {i.name: values[i.name] for i in session.get_inputs()})
                if set(names) & set(values):
                    self.fails(f"{name}: {net} hands on what is there")
                values |= dict(zip(names, given))
                self.compare(f"{name}, {net}, {len(image)} images", values.pop("logits"), results[f"logits.{net}"])
        self.handed_on += len(values) - 1

    def net(self, name, spec, net, wanted):
        path = self.folder / "net.onnx"
        self.run("export", spec, "--weights", "w", "--subnet", net, "-o", path)
        session = self.session(path)
        for image, results in wanted:
            (theirs,) = session.run(["logits"], {"image": image})
            self.compare(f"{name}, {len(image)} images", theirs, results[f"logits.{net}"])

    def compare(self, name, theirs, ours):
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            return self.fails(f"{name}: {theirs.dtype}{theirs.shape}, not {ours.dtype}{ours.shape}")
        scale = np.abs(ours).max()
        if scale < LEAST:
            self.silent.append(name)
            scale = LEAST
        difference = np.abs(theirs.astype(np.float64) - ours) / scale
        mismatches = np.sum(~(difference <= (RANDOM_TOLERANCE if name.startswith("seed") else TOLERANCE)))
        self.numbers += ours.size
        self.worst = max(self.worst, (difference.max(), name))
        if mismatches:
            self.fails(f"{name}: {mismatches} of {ours.size} logits differ, by up to {difference.max():.2e}")

    def forms(self, program):
        """A graph of what no spec leads to, with the logits of the evaluator."""
        subprocess.run([program, self.folder], check=True)
        wanted = load_file(self.folder / "forms.safetensors")
        session = self.session(self.folder / "forms.onnx")
        (theirs,) = session.run(["logits"], {"image": wanted["image"]})
        self.compare("forms", theirs, wanted["logits"])

    def same_as_safetensors(self, name, spec, net):
        """An ONNX file holds what a safetensors file of the same net holds."""
        path = self.folder / "net.safetensors"
        self.run("export", spec, "--weights", "w", "--subnet", net, "-o", path)
        model = onnx.load(self.folder / "net.onnx")
        with safe_open(path, "np") as file:
            texts, names = file.metadata(), set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        if {p.key: p.value for p in model.metadata_props} != texts:
            self.fails(f"{name}: the metadata of the two formats differ")
        held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        if not all(n in held and np.array_equal(held[n], t) for n, t in tensors.items()):
            self.fails(f"{name}: the tensors of the two formats differ")
        if any("/" not in n for n in held.keys() - names):
            self.fails(f"{name}: tensors that the net does not have")

    def example(self):
        """The program in docs/cli.md gives what `ddnnc predict` gives, of grey and of coloured images."""
        docs = (ROOT / "docs/cli.md").read_text()
        (program,) = [code for code in re.findall(r"```python\n(.*?)```", docs, re.S) if "onnxruntime" in code]
        noise = np.random.default_rng(7)
        Image.fromarray(noise.integers(0, 256, (61, 90, 3)).astype(np.uint8)).save(self.folder / "photo.png")
        for what, text in (("colour", SMALL), ("grey", SMALL.replace("[3, 21, 28]", "[1, 21, 28]").replace(COLOUR, ""))):
            spec = self.folder / "spec.ddnn"
            spec.write_text(text)
            self.run("step", spec, "--init", "w", "--seed", 3)
            for ending in ("onnx", "safetensors"):
                self.run("export", spec, "--weights", "w", "--subnet", "small", "-o", f"small.{ending}")
            predicted = self.run("predict", "small.safetensors", "photo.png", "--json", "--device", "reference")
            classes = json.loads(predicted)["images"][0]["classes"]
            done = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT / ".onnx")},
            )
            lines = [line.split() for line in done.stdout.splitlines()]
            theirs = {int(line[0]): float(line[-1]) for line in lines}
            ours = {c["class"]: c["probability"] for c in classes}
            # Pillow rounds pixels to 8 bits on the way.
            near = theirs.keys() == ours.keys() and all(abs(theirs[c] - ours[c]) <= 0.001 for c in ours)
            if done.returncode != 0 or not near:
                self.fails(f"the example of docs/cli.md in {what}: {theirs}, not {ours}\n{done.stderr}")


def randomised(weights, noise):
    """Weights of matrices as they are; gains, biases and statistics such that none of them can be left out or taken for another."""
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            positive = name.endswith((".weight", ".running_var"))
            numbers = noise.uniform(0.5, 1.5, tensor.shape) if positive else 0.3 * noise.standard_normal(tensor.shape)
            weights[name] = numbers.astype(np.float32)
    return weights


def small(text):
    """Maps a twelfth as large, and no layer of 4096."""
    return text.replace("224, 224]", "64, 64]").replace("4096", "256")


def without_files(text):
    """No network loads a file."""
    return re.sub(r"(, )?load = \"[^\"]*\"", "", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddnnc", default=ROOT / "target/release/ddnnc", help="the program [target/release/ddnnc]")
    parser.add_argument("--random", metavar="A..B", default="", help="random specs of these seeds as well")
    parser.add_argument(
        "--examples",
        type=pathlib.Path,
        default=ROOT / "target/debug/examples",
        help="where `random_specs` and `onnx_forms` lie [target/debug/examples, where `cargo test` builds them]",
    )
    parser.add_argument("specs", nargs="*", help="these specs only [all under specs/, and tests/onnx/operators.ddnn]")
    args = parser.parse_args()
    begin = time.monotonic()
    given = [pathlib.Path(spec) for spec in args.specs]
    specs = given or [ROOT / "tests/onnx/operators.ddnn", *sorted((ROOT / "specs").glob("*.ddnn"))]
    with tempfile.TemporaryDirectory() as folder:
        check = Check(pathlib.Path(args.ddnnc).resolve(), folder)
        for path in specs:
            # The evaluator in f64 is the definition; it takes too long for networks of a use.
            device = "reference" if path.parent.name == "onnx" else "cpu"
            check.spec(path.stem, without_files(small(path.read_text())), device)
        if args.random:
            first, end = map(int, args.random.split(".."))
            for seed in range(first, end):
                command = [args.examples / "random_specs", "--print", "--seeds", str(seed)]
                text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                check.spec(f"seed {seed}", without_files(text), "reference")
        if not given:
            check.forms(args.examples / "onnx_forms")
            check.example()
    print(f"operators {', '.join(sorted(check.operators))}")
    print(f"{check.nets} nets, {check.numbers} logits ({len(check.silent)} times all below {LEAST})")
    print(f"{check.handed_on} values handed on in cascades")
    print(f"largest difference {check.worst[0]:.1e} of the largest logit ({check.worst[1]})")
    for name in check.silent:
        if not name.startswith("seed"):
            check.fails(f"{name}: no logit is as large as {LEAST}")
    print(f"{len(check.wrong)} wrong, in {time.monotonic() - begin:.0f} s")
    sys.exit(1 if check.wrong or not check.nets or not (given or check.handed_on) else 0)


if __name__ == "__main__":
    main()
