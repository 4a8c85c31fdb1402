"""A folder of Python files that nobody asked for: each writes its name to ``EPSOPT_CANARY`` when it is imported."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

FIRED = """
import posix  # nothing that may be a stranger itself, nor what is not there yet when Python starts
file = posix.open(posix.environ[b"EPSOPT_CANARY"], posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o600)
posix.write(file, f"{__file__}\\n".encode())
"""
OPTIONAL = """
dill opt_einsum pynvml numpy_typing cloudpickle numexpr bottleneck pyarrow polars cudf cupy jax tensorflow lmdb redis
uvloop orjson ujson simplejson brotli zstandard lz4 snappy xxhash h5py zarr tqdm psutil IPython ipywidgets matplotlib
seaborn pyro funsor pykeops cvxpy triton apex deepspeed xformers onnx numba psycopg2 greenlet cmaes fakeredis boto3
kaleido orca ipykernel readline sitecustomize usercustomize
""".split()  # what libraries look for and may not find, and what Python looks for itself
PLUGINS = ("torch.backends", "fsspec.specs", "sqlalchemy.dialects", "optuna.storages", "plotly.renderers", "joblib")


def write_strangers(folder: Path) -> Path:
    """Write a file for every module that is known here, installed or standard, and a package ``epsopt``.

    Returns:
        The folder.
    """
    installed = {name for name in importlib.metadata.packages_distributions() if name.isidentifier()}
    names = {*OPTIONAL, *installed, *sys.stdlib_module_names} - {"epsopt", "__main__"}
    for name in names:
        (folder / f"{name}.py").write_text(FIRED)
    metadata = folder / "strangers-1.0.dist-info"  # an installed package, as plugins are looked for
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    groups = (f"[{group}]\nstranger = plugged_in\n" for group in PLUGINS)
    (metadata / "entry_points.txt").write_text("".join(groups))
    (folder / "plugged_in.py").write_text(FIRED)
    package = folder / "epsopt"
    package.mkdir()
    for name in ("__init__", "zoo", "cli", "studies", "surrogate", "optimize", "demo"):
        (package / f"{name}.py").write_text(FIRED)
    return folder
