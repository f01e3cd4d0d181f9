"""Installs vidleak_jax; pyproject.toml names what builds it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (
    ROOT / 'vidleak_jax' / '_version.py').read_text())[1]

# What `vidleak_jax.optional` names when it is missing.
PARTS = {
    'video': ['av>=14'],              # videos are read, comparisons written
    'photos': ['scikit-image>=0.26'],  # the photographs of photo_motion
    'sweep': ['pyarrow'],             # a sweep's rows as one table
    'tensorboard': ['tensorboardX'],
}
ALL = [package for part in PARTS.values() for package in part]

setup(
    name='vidleak_jax',
    version=VERSION,
    description='How much of a private video leaks through federated gradients',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    project_urls={'Paper': 'https://arxiv.org/abs/2509.09742'},
    keywords=['federated learning', 'gradient inversion', 'privacy', 'video',
              'JAX'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Environment :: GPU',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Security',
        'Typing :: Typed',
    ],
    python_requires='>=3.11',
    packages=find_packages(include=['vidleak_jax', 'vidleak_jax.*']),
    package_data={'vidleak_jax': ['py.typed'],
                  'vidleak_jax.evaluation.report': ['*.html'],
                  'vidleak_jax.attacks.features': ['*.safetensors'],
                  'vidleak_jax.superres': ['*.safetensors'],
                  'vidleak_jax.victims': ['*.safetensors']},
    entry_points={'console_scripts': [
        'vidleak = vidleak_jax.cli.__main__:main']},
    install_requires=[
        'jax>=0.10,<0.13',
        'flax>=0.12,<0.13',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12,<1.0',
        'jaxtyping>=0.2.30',    # shapes in the signatures of public names
        'numpy',
        'scipy',
        'absl-py',
        'ml_collections>=1.1',
        'safetensors',
        'rich',
        'dm-pix>=0.4',
        'pillow',  # resizes wherever a clip enters or is enlarged
        'tensorflow-datasets>=4.9.10',
        'importlib_resources',  # TFDS asks for it without TensorFlow
    ],
    extras_require={
        **PARTS,
        'all': ALL,
        'cuda': ['jax[cuda12]>=0.10,<0.13'],
        'tpu': ['jax[tpu]>=0.10,<0.13'],
        'ray': ['ray>=2.50'],
        'slurm': ['submitit>=1.5'],
        'optuna': ['optuna>=4'],
        'accounting': ['dp-accounting>=0.4'],  # DP-SGD with sampled batches
        'torch': ['torch'],  # only to convert .pth files
        'notebooks': ['nbclient', 'ipykernel', 'matplotlib'],
        'flower': ['flwr[simulation]>=1.42'],  # examples/flower_client.py
        'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=1.0',
                 'latex2mathml'],  # `make docs`
        'test': [*ALL, 'pytest', 'pytest-xdist', 'chex', 'ruff', 'mypy',
                 'matplotlib', 'setuptools>=77'],  # a test builds the wheel
        'peers': ['torch', 'torchvision', 'breaching', 'transformers',
                  'spandrel'],
    },
)
