"""Compares the losses of `relation` and their gradients with the same written in PyTorch.

    pip install -r tests/pytorch/requirements.txt
    cargo build --release
    python tests/pytorch/compare_relation.py

Two small networks of different widths, each the other's teacher, fresh weights from `ddnnc step --init`, a random batch. The
losses below are those of Park et al. 2019 in PyTorch's own functions: Gram matrices for the distances, normalised
differences of all pairs and their products for the angles, `smooth_l1_loss`, and gradients by autograd, in f64. Exit status
1 where a loss or a gradient is out of bounds: 1e-5 of the loss, 1e-4 of the gradient's largest entry.
"""

import argparse
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

SPEC = """model relation

input  image : f32[3, 8, 8]
target label : class[5]

backbone net(width) {
    stage s1 = conv(width, 3) |> tanh
    stage s2 = conv(2 * width, 3, stride = 2) |> tanh |> global_avg_pool
    head     = linear(classes)
}

network large = net(width = 6)
network small = net(width = 3)

distill large -> small { relation(at = [s1 -> s2, s2], weight = 0.5, detach = false) }
distill small -> large { relation(distance = 3, angle = 25) }

train { data = cifar10, batch = 16 }
"""
# teacher, student, stage of each, whether the teacher learns too, weights of distances and of angles
TERMS = [
    ("large", "small", "s1", "s2", True, (0.5, 1.0)),
    ("large", "small", "s2", "s2", True, (0.5, 1.0)),
    ("small", "large", "s2", "s2", False, (3.0, 25.0)),
]


def distances(e):
    squares = e.square().sum(1)
    squared = squares[:, None] + squares[None, :] - 2 * e @ e.T
    # No gradient on the diagonal, where a root has none.
    d = torch.where(torch.eye(len(e), dtype=torch.bool), torch.ones(()), squared).sqrt()
    d = d * (1 - torch.eye(len(e), dtype=e.dtype))
    return d / d[d > 0].mean()


def angles(e):
    u = F.normalize(e[None] - e[:, None], dim=2)
    return torch.bmm(u, u.transpose(1, 2))


def forward(weights, net, image):
    s1 = F.conv2d(image, weights[f"{net}.s1.0.conv1.weight"], padding=1).tanh()
    s2 = F.conv2d(s1, weights[f"{net}.s2.0.conv1.weight"], padding=1, stride=2).tanh().mean((2, 3))
    logits = F.linear(s2, weights[f"{net}.head.linear1.weight"], weights[f"{net}.head.linear1.bias"])
    return {"s1": s1.mean((2, 3)), "s2": s2}, logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ddnnc", default="target/release/ddnnc")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec, weights, batch, out = (
            f"{folder}/{name}" for name in ("spec.ddnn", "w.safetensors", "b.safetensors", "o.safetensors")
        )
        with open(spec, "w") as file:
            file.write(SPEC)
        step = [args.ddnnc, "-q", "step", spec]
        subprocess.run([*step, "--init", weights], check=True)
        torch.manual_seed(1)
        image, label = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
        save_file({"image": image, "label": label}, batch)
        run = [*step, "--weights", weights, "--batch", batch, "--out", out, "--device", args.device]
        subprocess.run(run, check=True)
        ours, tensors = load_file(out), load_file(weights)

    tensors = {name: t.double().requires_grad_(True) for name, t in tensors.items()}
    nets = {net: forward(tensors, net, image.double()) for net in ("large", "small")}
    expected = {f"loss.ce.{net}": F.cross_entropy(logits, label) for net, (_, logits) in nets.items()}
    total = sum(expected.values())
    for teacher, student, at, to, learns, weights in TERMS:
        theirs, own = nets[teacher][0][at], nets[student][0][to]
        theirs = theirs if learns else theirs.detach()
        stage = to if at == to else f"{at}_{to}"
        for kind, relation, weight in zip(("distance", "angle"), (distances, angles), weights):
            loss = F.smooth_l1_loss(relation(own), relation(theirs))
            expected[f"loss.relation_{kind}.{teacher}.{student}.{stage}"] = loss
            total = total + weight * loss
    total.backward()
    expected["loss.total"] = total
    expected |= {f"grad.{name}": t.grad for name, t in tensors.items()}
    bad = 0
    for name, value in expected.items():
        if name not in ours:
            print(f"{name}: ddnnc does not give it")
            bad += 1
            continue
        value, found = value.detach(), ours[name].double()
        difference = ((found - value).abs().max() / value.abs().max()).item()
        bound = 1e-5 if name.startswith("loss") else 1e-4
        ok = difference <= bound
        bad += not ok
        print(f"{name}: {value.abs().max().item():.6g}, relative difference {difference:.1e}{'' if ok else '  <- wrong'}")
    print(f"{len(expected)} tensors, {bad} out of bounds")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
