"""How fast networks train: this package, Keras as it comes, and torch, a round each in turn.

    python experiments/speed/training.py --out experiments/speed/training.json \
        --torch /path/to/python/with/torch

Each contender is a process that trains a few batches when it is told to, while the others wait; a
round has one turn of each, so that whatever else the machine does meets all of them. What counts
is the median of a round's ratios to Keras in float32. Ours and Keras's read CIFAR-10 from
TFDS_DATA_DIR, torch a batch that lies ready; the input's share is the time that the batches alone
take, of that of a step.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

NETS = {"resnet20_cifar": (32, 128, 12), "resnet18": (32, 64, 6), "inception_v1": (96, 32, 4)}
KINDS = ("keras float32", "ours", "ours, not deterministic", "torch bfloat16")


def turns(step, input_alone, batch: int, count: int) -> None:
    """Train `count` batches for each line of input; print images/s and the input's share."""
    step()
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        for _ in range(count):
            step()
        trained = time.perf_counter()
        for _ in range(count):
            input_alone()
        share = (time.perf_counter() - trained) / (trained - begun)
        print(json.dumps([batch * count / (trained - begun), share]), flush=True)


def with_tensorflow(kind: str, net: str) -> None:
    """Train by this package, or the same network as Keras alone would."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    from keras_cnns import data, recipe as recipes, runs, train

    size, batch, count = NETS[net]
    settings = [f"model.name={net}", f"data.size={size}", f"data.batch_size={batch}"]
    recipe = recipes.override(recipes.Recipe(), [*settings, "data.name=cifar10"])
    source = runs.open_data(recipe)
    recipe = train.resolve(recipe, source)
    if kind == "ours":
        tf.config.experimental.enable_op_determinism()
    model = train.build(recipe, len(source.labels))
    if kind == "keras float32":
        trainer = keras.Model(model.input, {"predictions": model.get_layer("logits").output})
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        trainer.compile(keras.optimizers.AdamW(1e-3), {"predictions": loss}, metrics=["accuracy"])
    else:
        steps = data.steps_per_epoch(source, batch)
        trainer = train.compiled(model, recipe, steps)
    batches = train.batches(recipe, source, "train", ["predictions"])
    iterator, alone = iter(batches), iter(batches)
    trainer.make_train_function()
    turns(
        lambda: float(trainer.train_function(iterator)["loss"]), lambda: next(alone), batch, count
    )


def with_torch(net: str) -> None:
    """Train torchvision's network in bfloat16, channels last."""
    import torch

    # Operators that a build without them lacks, and that importing torchvision asks for.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import torchvision

    size, batch, count = NETS[net]
    if net == "resnet20_cifar":
        from torchvision.models.resnet import BasicBlock, ResNet

        model = ResNet(BasicBlock, [3, 3, 3, 0], num_classes=10)
        # He et al. 2015, section 4.2: 16, 32 and 64 filters, no pooling in the stem.
        model.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        model.bn1, model.maxpool, model.inplanes = torch.nn.BatchNorm2d(16), torch.nn.Identity(), 16
        model.layer1 = model._make_layer(BasicBlock, 16, 3)
        model.layer2 = model._make_layer(BasicBlock, 32, 3, stride=2)
        model.layer3 = model._make_layer(BasicBlock, 64, 3, stride=2)
        model.layer4, model.fc = torch.nn.Identity(), torch.nn.Linear(64, 10)
    elif net == "resnet18":
        model = torchvision.models.resnet18(num_classes=10)
    else:
        model = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = torch.nn.CrossEntropyLoss()
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(model(images), labels)
        found.backward()
        optimizer.step()

    turns(step, lambda: None, batch, count)


def measure(net: str, kinds: list[str], torch: str | None, rounds: int) -> list[dict]:
    """Return the figures of each contender."""
    workers = {}
    for kind in kinds:
        python = torch if kind.startswith("torch") else sys.executable
        command = [python, __file__, "--worker", kind, net]
        workers[kind] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert workers[kind].stdout.readline() == "ready\n", f"{kind} did not start"
    found = {kind: [] for kind in kinds}
    for turn in range(rounds):
        order = kinds if turn % 2 else kinds[::-1]
        for kind in order:
            workers[kind].stdin.write("go\n")
            workers[kind].stdin.flush()
            found[kind].append(json.loads(workers[kind].stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    base = [rate for rate, _ in found["keras float32"]]
    rows = []
    for kind, turns_ in found.items():
        ratios = [rate / other for (rate, _), other in zip(turns_, base, strict=True)]
        rows.append(
            {
                "network": net,
                "contender": kind,
                "images_per_second": round(statistics.median(rate for rate, _ in turns_), 1),
                "to_keras_float32": round(statistics.median(ratios), 2),
                "ratios": [round(ratio, 2) for ratio in ratios],
                "input_share": round(statistics.median(share for _, share in turns_), 3),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure what is asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--torch", help="a Python that has torch and torchvision")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    if wanted.worker:
        kind, net = wanted.worker
        return with_torch(net) if kind.startswith("torch") else with_tensorflow(kind, net)
    kinds = [kind for kind in KINDS if wanted.torch or not kind.startswith("torch")]
    rows = [
        row
        for net in wanted.nets.split(",")
        for row in measure(net, kinds, wanted.torch, wanted.rounds)
    ]
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    record = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "bfloat16": sorted({"amx_bf16", "avx512_bf16"} & set(flags)),
            "load": os.getloadavg()[0],
        },
        "rounds": wanted.rounds,
        "results": rows,
    }
    text = json.dumps(record, indent=1) + "\n"
    print(text)
    if wanted.out:
        wanted.out.write_text(text)


if __name__ == "__main__":
    main()
