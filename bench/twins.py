#!/usr/bin/env python3
"""The training steps that compare.py measures, in PyTorch: the same layers, losses and update, one process for one
measurement.

    python3 bench/twins.py resnet18 --precision bf16 --compile --threads 2 --steps 5
    python3 bench/twins.py joint50 --count

Written as a careful user would: channels last, ReLU in place, gradients set to none before each step, and for joint steps
what sub-nets have in common computed once (`joint50`, `resnet56_ekd`) or not (`joint50_forwards`). Prints one JSON object:
the median of the steps, the loss, the largest resident set, the seconds from the start of the process to the end of the
first step, and those that torch.compile took of it (the first step less a later one).
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as missing:
    print(f"PyTorch cannot be imported ({missing}); see bench/README.md", file=sys.stderr)
    sys.exit(3)

TEMPERATURE, ATTENTION = 3.0, 0.5
# Steps before the clock runs, as in `ddnnc bench`.
WARM_UP = 2


@dataclass
class Twin:
    """A backbone with a 3×3 stem, the sub-nets nested in it, and how their step is written here."""

    block: str
    stem: int  # its channels
    widths: list  # of the stages; every stage but the first begins with stride 2
    depths: list  # of each sub-net in each stage, the full net first
    batch: int
    classes: int = 10
    weight_decay: float = 5e-4
    attention: tuple = ()  # the stages whose maps are paired
    prefix_once: bool = True
    side: int = 32  # of an image


WIDE = [64, 128, 256, 512]
JOINT50 = Twin("bottleneck", 64, WIDE, [[3, 4, 6, 3], [2, 3, 4, 2], [1, 2, 2, 1]], 32, attention=(3,))
TWINS = {
    "resnet18": Twin("basic", 64, WIDE, [[2, 2, 2, 2]], 128),
    "resnet50": Twin("bottleneck", 64, WIDE, [[3, 4, 6, 3]], 32),
    "joint50": JOINT50,
    "joint50_forwards": replace(JOINT50, prefix_once=False),
    "resnet56_ekd": Twin(
        "basic", 16, [16, 32, 64], [[n] * 3 for n in (9, 7, 5, 3)], 128, 100, weight_decay=1e-4, attention=(2,)
    ),
    "mobilenetv2": Twin(
        "inverted", 32, [16, 24, 32, 64, 96, 160, 320], [[1, 2, 3, 4, 3, 3, 1]], 64, 1000, weight_decay=4e-5, side=224
    ),
}


class Block(nn.Module):
    """Convolutions shared by the sub-nets, with norms for each group of sub-nets that see values of their own."""

    def __init__(self, kind, inputs, width, stride, groups):
        super().__init__()
        if kind == "basic":
            layers = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            layers = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.out = layers[-1][1]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in layers)
        self.bns = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in layers) for _ in range(groups))
        self.proj = None
        if stride != 1 or inputs != self.out:
            self.proj = nn.Conv2d(inputs, self.out, 1, stride, bias=False)
            self.proj_bns = nn.ModuleList(nn.BatchNorm2d(self.out) for _ in range(groups))

    def forward(self, x, group):
        y = x
        for conv, bn in zip(self.convs[:-1], self.bns[group]):
            y = F.relu(bn(conv(y)), inplace=True)
        y = self.bns[group][-1](self.convs[-1](y))
        y += x if self.proj is None else self.proj_bns[group](self.proj(x))
        return F.relu(y, inplace=True)


class Nested(nn.Module):
    """All sub-nets of a backbone; of one net alone it is that net.

    Sub-nets of equal depths in all stages before one see the same values in it, as far as each goes: they are a group of
    that stage, which has its norms in common and, if `prefix_once`, is computed once.
    """

    def __init__(self, twin):
        super().__init__()
        self.depths, self.attention, self.prefix_once = twin.depths, twin.attention, twin.prefix_once
        self.stem = nn.Conv2d(3, twin.stem, 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(twin.stem)
        inputs, self.stages, self.groups = twin.stem, nn.ModuleList(), []
        for stage, width in enumerate(twin.widths):
            # The number of a sub-net's group, groups that go deeper first.
            before = [tuple(depth[:stage]) for depth in self.depths]
            deepest = {key: max(d[stage] for d, k in zip(self.depths, before) if k == key) for key in before}
            order = sorted(deepest, key=lambda key: -deepest[key])
            self.groups.append([order.index(key) for key in before])
            blocks = nn.ModuleList()
            for i in range(max(deepest.values())):
                users = sum(i < depth for depth in deepest.values())
                block = Block(twin.block, inputs, width, 2 if stage and i == 0 else 1, users)
                blocks.append(block)
                inputs = block.out
            self.stages.append(blocks)
        self.heads = nn.ModuleList(nn.Linear(inputs, twin.classes) for _ in self.depths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        known, logits, maps = {}, [], []
        for net, depth in enumerate(self.depths):
            if not self.prefix_once or not known:
                known = {"stem": F.relu(self.stem_bn(self.stem(x)), inplace=True)}
            y, last = known["stem"], []
            for stage, blocks in enumerate(self.stages):
                group = self.groups[stage][net]
                for i in range(depth[stage]):
                    if (stage, group, i) not in known:
                        known[stage, group, i] = blocks[i](y, group)
                    y = known[stage, group, i]
                last.append(y)
            maps.append([last[stage] for stage in self.attention])
            logits.append(self.heads[net](y.mean((2, 3))))
        return logits, maps


class Inverted(nn.Module):
    """A block of MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, inputs, out, expand, stride):
        super().__init__()
        hidden = inputs * expand
        widen = [] if expand == 1 else [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(True)]
        self.layers = nn.Sequential(
            *widen,
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(True),
            nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out),
        )
        self.skips = stride == 1 and inputs == out

    def forward(self, x):
        return x + self.layers(x) if self.skips else self.layers(x)


class MobileNet(nn.Module):
    """MobileNetV2 for one sub-net."""

    def __init__(self, twin):
        super().__init__()
        layers = [nn.Conv2d(3, twin.stem, 3, 2, 1, bias=False), nn.BatchNorm2d(twin.stem), nn.ReLU6(True)]
        inputs, [depth], strides = twin.stem, twin.depths, [1, 2, 2, 2, 1, 2, 1]
        for width, blocks, stride in zip(twin.widths, depth, strides):
            for i in range(blocks):
                layers.append(Inverted(inputs, width, 1 if len(layers) == 3 else 6, stride if i == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(True)
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, twin.classes))

    def forward(self, x):
        return [self.head(self.layers(x).mean((2, 3)))], [[]]


def build(twin):
    return MobileNet(twin) if twin.block == "inverted" else Nested(twin)


def attention_map(value):
    """The sum over channels, standardised per image."""
    a = value.float().sum(1).flatten(1)
    return (a - a.mean(1, keepdim=True)) / (a.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def loss_of(logits, maps, label):
    logits = [one.float() for one in logits]
    loss = sum(F.cross_entropy(one, label) for one in logits)
    teacher = F.softmax(logits[0].detach() / TEMPERATURE, 1)
    for student in range(1, len(logits)):
        log_student = F.log_softmax(logits[student] / TEMPERATURE, 1)
        loss = loss + F.kl_div(log_student, teacher, reduction="batchmean") * TEMPERATURE**2
        for ours, full in zip(maps[student], maps[0]):
            loss = loss + ATTENTION * F.mse_loss(attention_map(ours), attention_map(full).detach())
    return loss


def process_age():
    """Seconds since this process started."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss():
    """The largest resident set so far in bytes (VmHWM: unlike getrusage's, it forgets what stood before exec)."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def count(net, twin):
    """Multiply-accumulates of one step's convolutions and products, forward and backward, and parameters of each sub-net.

    By hand: torch.utils.flop_counter takes the gradients of a depthwise convolution for those of a whole one.
    """
    macs = []

    def add(module, inputs, output):
        per_output = module.weight[0].numel()  # of one group
        # The image has no gradient.
        macs.append(output.numel() * per_output * (3 if inputs[0].requires_grad else 2))

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    net(torch.randn(2, 3, twin.side, twin.side))
    total = sum(macs) * twin.batch // 2
    parameters = []
    for depth in twin.depths:
        one = build(replace(twin, depths=[depth]))
        parameters.append(sum(p.numel() for p in one.parameters()))
    together = sum(p.numel() for p in net.parameters())
    return {
        "step_macs": int(total), "parameters": parameters, "all_parameters": together, "batch": twin.batch,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("twin", choices=TWINS)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, f32 products on matrix units")
    parser.add_argument("--count", action="store_true", help="print parameters and multiply-accumulates; measure nothing")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    on_gpu = args.device == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = True  # the fastest of cuDNN's ways, found in the first step
    twin = TWINS[args.twin]
    twin = replace(twin, batch=args.batch or twin.batch)
    net = build(twin).to(memory_format=torch.channels_last)
    if args.count:
        print(json.dumps(count(net, twin)))
        return
    net = net.to(args.device)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=twin.weight_decay, fused=True)
    image = torch.rand(twin.batch, 3, twin.side, twin.side).to(memory_format=torch.channels_last) * 2 - 1
    label = torch.arange(twin.batch) % twin.classes
    image, label = image.to(args.device), label.to(args.device)

    def forward(image, label):
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            logits, maps = net(image)
        return loss_of(logits, maps, label)

    if args.compile:
        # On a GPU the calls of a step are replayed as CUDA graphs.
        forward = torch.compile(forward, mode="reduce-overhead" if on_gpu else None)

    def step():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = forward(image, label)
        loss.backward()
        optimizer.step()
        value = loss.item()
        # Reading the loss waits for the forward pass alone; what follows it is part of the step.
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start, value

    warm = [step()[0]]
    first_step = process_age()
    warm += [step()[0] for _ in range(WARM_UP - 1)]
    runs = [step() for _ in range(args.steps)]
    seconds = statistics.median(s for s, _ in runs)
    print(json.dumps({
        "model": args.twin, "batch": twin.batch, "precision": args.precision, "compiled": args.compile,
        "threads": args.threads, "steps": args.steps, "step_ms": 1e3 * seconds, "loss": runs[-1][1],
        "peak_rss_bytes": peak_rss(), "first_step_ms": 1e3 * first_step,
        "compile_ms": 1e3 * (warm[0] - seconds) if args.compile else 0.0, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "device_bytes": torch.cuda.max_memory_reserved() if on_gpu else 0,
    }))


if __name__ == "__main__":
    main()
