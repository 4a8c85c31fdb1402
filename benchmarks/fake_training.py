"""A training program for tests of the loop: writes tiny checkpoints, fast. Imports nothing that takes time.

python -I -S fake_training.py --out RUN --lr X [--epochs N] [--seconds AN_EPOCH] [--mode MODE]
       [--continue-from CHECKPOINT] [--hold N]

MODE is ok; fail; diverges after its first epoch; deaf to SIGTERM; unmeasured; late with what it measured; saves when
it is asked to end; clears its folder before it begins; or vanishes with its folder in the end. After N epochs it waits
until there is a file ``go`` in its folder or in the one around it, however slow the machine is that looks at it.
"""

# pathlib takes longer to import than all the rest to run.
# ruff: noqa: PTH102, PTH104, PTH106, PTH107, PTH110, PTH118, PTH119, PTH123, PTH208
import json
import os
import signal
import struct
import sys
import time

given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
out, lr, mode = given["--out"], float(given["--lr"]), given.get("--mode", "ok")
with open(os.path.join(out, "attempts"), "a") as file:
    file.write(f"{os.getpid()}\n")
with open(os.path.join(out, "argv"), "wb") as file:
    file.write("\0".join(sys.argv).encode(errors="surrogateescape"))
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "fail":
    sys.stderr.write("Traceback (most recent call last):\nValueError: lr is no good\n")
    sys.exit(3)
sys.stdout.write("training\n")
sys.stdout.flush()


def save(epoch: int) -> None:
    # Unlike any other checkpoint, or it would be an alias of that one; and of one lineage with all others, even when
    # the system's process IDs begin at 1 again between two runs.
    weights = struct.pack("<4f", 1.0 + lr, 2.0, 3.0 + 0.001 * epoch, 30_000.0 + 0.01 * os.getpid())
    said = {} if mode in ("unmeasured", "late") else measure(epoch)
    if mode == "diverges" and epoch > 1:
        weights, said = struct.pack("<4f", *4 * [float("nan")]), {}
    about = {"config": {"lr": lr, "who": os.path.basename(out)}, "metrics": said, "epoch": epoch}
    header = json.dumps(
        {
            "__metadata__": {name: json.dumps(value) for name, value in about.items()},
            "weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        }
    ).encode()
    path = os.path.join(out, f"epoch_{epoch:03d}.safetensors")
    with open(path + ".tmp", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + weights)
    os.rename(path + ".tmp", path)


def measure(epoch: int) -> dict[str, float]:
    return {"coverage": 1.0 - lr * epoch / 10, "dist_corr": lr * epoch / 10, "rad_hier": -lr}


def remove() -> None:
    for name in os.listdir(out):
        os.remove(os.path.join(out, name))
    os.rmdir(out)


def end(*_: object) -> None:
    save(epoch)
    sys.exit()


if mode == "clears":
    remove()
    time.sleep(0.5)
    os.mkdir(out)
first = epoch = 1 + int(given.get("--continue-from", "epoch_000.safetensors")[-15:-12])
if mode == "saves":
    signal.signal(signal.SIGTERM, end)


def hold(epoch: int) -> None:
    if epoch == int(given.get("--hold", "-1")):
        while not (os.path.exists(os.path.join(out, "go")) or os.path.exists(os.path.join(out, "..", "go"))):
            time.sleep(0.01)


hold(0)
for epoch in range(first, int(given.get("--epochs", "1")) + 1):
    time.sleep(float(given.get("--seconds", "0")))
    save(epoch)
    if mode == "late":  # a logger that writes when it likes, after the checkpoint
        time.sleep(float(given.get("--seconds", "0")))
        log = os.path.join(out, "metrics.csv")
        with open(log, "a") as file:
            metrics = measure(epoch)
            names = "" if file.tell() else ",".join(("epoch", *metrics)) + "\n"
            file.write(names + ",".join(map(str, (epoch, *metrics.values()))) + "\n")
    hold(epoch)
if mode == "vanishes":
    remove()
