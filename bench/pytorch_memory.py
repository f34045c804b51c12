#!/usr/bin/env python3
"""The joint step of specs/cifar100_resnet50_ekd.ddnn in PyTorch: the largest resident set of the process, and seconds a step.

    pip install torch
    python3 bench/pytorch_memory.py

Eager, f32, channels last, ReLU in place, the first stage computed once for all sub-nets, gradients set to none before each
step: what a careful user would write.
"""

import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

DEPTHS = [[3, 4, 6, 3], [2, 3, 4, 2], [1, 2, 2, 1]]
WIDTHS = [64, 128, 256, 512]
BATCH, CLASSES, TEMPERATURE, ATTENTION = 32, 100, 3.0, 0.5


class Bottleneck(nn.Module):
    """A block whose norms are private: one set for each sub-net."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        out = 4 * width
        norms = range(len(DEPTHS))
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(c) for c in (width, width, out)) for _ in norms)
        self.proj = None
        if stride != 1 or inputs != out:
            self.proj = nn.Conv2d(inputs, out, 1, stride, bias=False)
            self.proj_bn = nn.ModuleList(nn.BatchNorm2d(out) for _ in norms)

    def forward(self, x, net):
        bn = self.bn[net]
        y = F.relu(bn[0](self.conv1(x)), inplace=True)
        y = F.relu(bn[1](self.conv2(y)), inplace=True)
        y = bn[2](self.conv3(y))
        y += x if self.proj is None else self.proj_bn[net](self.proj(x))
        return F.relu(y, inplace=True)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inputs, self.stages = 64, nn.ModuleList()
        for stage, (n, width) in enumerate(zip(DEPTHS[0], WIDTHS)):
            blocks = []
            for i in range(n):
                blocks.append(Bottleneck(inputs, width, 2 if stage and i == 0 else 1))
                inputs = 4 * width
            self.stages.append(nn.ModuleList(blocks))
        self.heads = nn.ModuleList(nn.Linear(inputs, CLASSES) for _ in DEPTHS)

    def forward(self, x):
        x = F.relu(self.stem_bn(self.stem(x)), inplace=True)
        prefix = [x]
        for block in self.stages[0]:
            prefix.append(block(prefix[-1], 0))
        logits, maps = [], []
        for net, depth in enumerate(DEPTHS):
            y = prefix[depth[0]]
            for stage in range(1, 4):
                for block in self.stages[stage][: depth[stage]]:
                    y = block(y, net)
            maps.append(y)
            logits.append(self.heads[net](y.mean((2, 3))))
        return logits, maps


def attention(value):
    a = value.sum(1).flatten(1)
    return (a - a.mean(1, keepdim=True)) / (a.var(1, keepdim=True) + 1e-5).sqrt()


def loss_of(logits, maps, label):
    loss = sum(F.cross_entropy(l, label) for l in logits)
    teacher = F.softmax(logits[0].detach() / TEMPERATURE, 1)
    for student in range(1, len(logits)):
        log_student = F.log_softmax(logits[student] / TEMPERATURE, 1)
        loss = loss + F.kl_div(log_student, teacher, reduction="batchmean") * TEMPERATURE**2
        loss = loss + ATTENTION * F.mse_loss(attention(maps[student]), attention(maps[0]).detach())
    return loss


def largest_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    torch.set_num_threads(2)
    net = Nested().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    image = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    label = torch.randint(0, CLASSES, (BATCH,))
    before, seconds = largest_mib(), []
    for _ in range(4):
        start = time.time()
        optimizer.zero_grad(set_to_none=True)
        loss_of(*net(image), label).backward()
        optimizer.step()
        seconds.append(time.time() - start)
    print(f"torch {torch.__version__}: {before:.0f} MiB before the first step, {largest_mib():.0f} MiB at most")
    print("seconds a step:", ", ".join(f"{s:.2f}" for s in seconds))


if __name__ == "__main__":
    main()
