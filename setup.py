"""Packaging of hyperseg_jax. Extras are optional; each says what it is for."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
CONFIGS = sorted(str(p.relative_to(HERE)) for p in (HERE / "configs").glob("*.py"))

EXTRAS = {
    "tpu": ["jax[tpu]"],  # the TPU runtime and compiler
    "torch": ["torch==2.13.0"],  # running an exported model in PyTorch
    "video": ["av>=14"],  # video files (frames in folders need nothing)
    "demo": ["gradio>=5"],  # the web page
    "sweep": ["ray[tune]>=2.40"],  # sweeps over clusters
    "cloud": ["gcsfs>=2025.1", "fsspec>=2025.1"],  # gs:// paths
    "notebooks": ["jupyter>=1.1", "nbclient>=0.10", "ipykernel>=6.29"],  # opening and executing the notebooks
    "test": [
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "scipy>=1.14",  # the assignment solver that matching is checked against
        "torch==2.13.0",  # sampling and losses are checked against it
        "ruff>=0.9",
        "mypy>=1.14",
        "nbclient>=0.10",  # executes the notebook
        "ipykernel>=6.29",
    ],
}

setup(
    name="hyperseg-jax",
    version="0.1.0",
    description="Universal image and video segmentation with vision-language models, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["hyperseg_jax", "hyperseg_jax.*"]),
    package_data={"hyperseg_jax": ["py.typed", "assets/*", "assets/**/*"]},
    data_files=[("share/hyperseg_jax/configs", CONFIGS)],
    install_requires=[
        "jax>=0.10.2,<0.12",
        "flax>=0.12.8,<0.14",
        "optax>=0.2.8,<0.4",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "ml-collections>=1.1,<2",
        "einops>=0.8,<1",
        "chex>=0.1.92,<0.2",
        "transformers>=5.0,<6",  # tokenizers and hub files
        "tokenizers>=0.22,<1",
        "tensorflow-datasets>=4.9.10,<5",  # readers of prepared datasets
        "numpy>=2.0,<3",
        "pillow>=11,<14",
        "safetensors>=0.5,<1",
        "pycocotools>=2.0.8,<3",
        "rich>=13.9,<16",
        "matplotlib>=3.9,<4",
        "tensorboardX>=2.6,<3",  # scalars for TensorBoard without TensorFlow
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hyperseg=hyperseg_jax.commands.main:main"]},
    classifiers=["License :: OSI Approved :: Apache Software License", "Programming Language :: Python :: 3.11"],
)
