"""Usages in docstrings run as they stand."""

import doctest
import importlib

import pytest

MODULES = (
    'api', 'attacks.auto', 'attacks.analytic.rgap',
    'attacks.matching.adam_matching', 'attacks.matching.defense_aware',
    'attacks.matching.feature_matching', 'attacks.matching.gradient_matching',
    'clients.fedavg', 'clients.fedsgd',
    'clients.observe', 'experiments.leaking', 'optional', 'options', 'recipes',
    'types.leak', 'victims', 'victims.base')


@pytest.mark.parametrize('name', MODULES)
def test_docstrings(name):
  module = importlib.import_module(f'vidleak_jax.{name}')
  ran = doctest.testmod(module)
  assert ran.attempted and not ran.failed
