"""Installs vidleak_jax."""

from setuptools import find_packages, setup

setup(
    name='vidleak_jax',
    version='0.1.0',
    description='How much of a private video leaks through federated gradients',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['vidleak_jax', 'vidleak_jax.*']),
    package_data={'vidleak_jax.evaluation.report': ['page.html'],
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
        'absl-py',
        'ml_collections>=1.1',
        'numpy',
        'scipy',
        'tensorflow-datasets>=4.9.10',
        'importlib_resources',  # TFDS asks for it without TensorFlow
        'dm-pix>=0.4',
        'scikit-image>=0.26',   # the photographs of photo_motion
        'av>=14',
        'pillow',
        'pyarrow',              # tables of sweeps; TFDS brings it anyway
        'rich',
        'safetensors',
        'tensorboardX',
    ],
    extras_require={
        'cuda': ['jax[cuda12]>=0.10,<0.13'],
        'tpu': ['jax[tpu]>=0.10,<0.13'],
        'ray': ['ray>=2.50'],
        'slurm': ['submitit>=1.5'],
        'optuna': ['optuna>=4'],
        'test': ['pytest', 'pytest-xdist', 'chex', 'ruff', 'matplotlib'],
        'torch': ['torch'],     # only to convert .pth files
        'peers': ['torch', 'breaching', 'transformers', 'spandrel'],
    },
)
