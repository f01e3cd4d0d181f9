import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import structure, tokens
from vidleak_jax.victims.introspection.graph import evaluate
from vidleak_jax.victims.introspection.planner import introspect
from vidleak_jax.victims.torch_import.from_torch import torch_to_jax

torch = pytest.importorskip('torch')
F = torch.nn.functional
CLIP = 4, 16, 16, 3


class Block(torch.nn.Module):
  """A pre-activation block, as users write them."""

  def __init__(self, width_in, width, stride):
    super().__init__()
    self.bn1 = torch.nn.BatchNorm3d(width_in, eps=1e-3)
    self.conv1 = torch.nn.Conv3d(width_in, width, 3, stride, 1, bias=False)
    self.bn2 = torch.nn.BatchNorm3d(width)
    self.conv2 = torch.nn.Conv3d(width, width, 3, padding='same')
    self.shortcut = (None if stride == 1 else
                     torch.nn.Conv3d(width_in, width, 1, stride))

  def forward(self, x):
    y = F.silu(self.bn1(x), inplace=True)
    if self.shortcut is not None:
      x = self.shortcut(y)
    y = self.conv1(y)
    y = self.conv2(F.silu(self.bn2(y)))
    y += x
    return y


class PreActivation(torch.nn.Module):

  def __init__(self):
    super().__init__()
    self.stem = torch.nn.Conv3d(3, 4, 3, (1, 2, 2), 1)
    self.pool = torch.nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    self.blocks = torch.nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
    self.norm = torch.nn.GroupNorm(2, 8)
    self.head = torch.nn.Linear(8, 5)

  def forward(self, x):
    x = self.blocks(self.pool(self.stem(x)))
    x = F.softplus(self.norm(x)).mean([2, 3, 4])
    return self.head(F.dropout(x, 0.5, self.training))


def transformer(name):
  video_resnet()  # transformers imports torchvision where it is installed
  transformers = pytest.importorskip('transformers')
  sizes = {'image_size': 16, 'num_frames': 4, 'hidden_size': 16,
           'num_hidden_layers': 1, 'num_attention_heads': 2,
           'intermediate_size': 32, 'num_labels': 5}
  patch = {'tubelet_size': [2, 8, 8]} if name == 'Vivit' else {'patch_size': 8}
  config = getattr(transformers, f'{name}Config')(**sizes, **patch)
  return getattr(transformers, f'{name}ForVideoClassification')(config)


@functools.cache
def video_resnet():
  """torchvision's module of video networks, with stubs for its operators."""
  if importlib.util.find_spec('torchvision') is None:
    return None, None
  library = torch.library.Library('torchvision', 'FRAGMENT')
  for name in ('nms', 'qnms'):  # they may not fit this torch; none is needed
    try:
      library.define(f'{name}(Tensor dets, Tensor scores, float iou) -> Tensor')
    except RuntimeError:
      pass  # they are there
  return importlib.import_module('torchvision.models.video.resnet'), library


def torchvision_network(name):
  """torchvision's network with few channels and one block a stage."""
  resnet, _ = video_resnet()
  if resnet is None:
    pytest.skip('needs torchvision')
  simple, factorised = resnet.Conv3DSimple, resnet.Conv2Plus1D
  makers = {
      'r3d_18': [simple] * 4,
      'mc3_18': [simple] + [resnet.Conv3DNoTemporal] * 3,
      'r2plus1d_18': [factorised] * 4}[name]
  narrow = resnet.VideoResNet.__new__(resnet.VideoResNet)
  torch.nn.Module.__init__(narrow)
  narrow.inplanes = 4
  narrow.stem = torch.nn.Sequential(
      torch.nn.Conv3d(3, 4, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
      torch.nn.BatchNorm3d(4), torch.nn.ReLU(inplace=True))
  for i, (maker, width) in enumerate(zip(makers, (4, 4, 6, 6)), 1):
    setattr(narrow, f'layer{i}', narrow._make_layer(
        resnet.BasicBlock, maker, width, 1, 1 if i == 1 else 2))
  narrow.avgpool = torch.nn.AdaptiveAvgPool3d((1, 1, 1))
  narrow.fc = torch.nn.Linear(6, 5)
  return narrow


NETWORKS = {
    'pre_activation': (PreActivation, 'NCTHW'),
    **{name: (lambda name=name: torchvision_network(name), 'NCTHW')
       for name in ('r3d_18', 'mc3_18', 'r2plus1d_18')},
    **{name: (lambda name=name: transformer(name), 'NTCHW')
       for name in ('VideoMAE', 'Vivit', 'Timesformer')},
}


def build(name):
  """A module in float64 whose norms are neither 0 nor 1."""
  torch.manual_seed(0)
  make, layout = NETWORKS[name]
  module = make().double().eval()
  with torch.no_grad():
    for key, leaf in [*module.named_parameters(), *module.named_buffers()]:
      if leaf.ndim == 1 and leaf.is_floating_point():
        leaf.uniform_(0.5, 1.5)
      elif leaf.ndim == 3 and 'embed' in key:
        leaf.normal_()
  return module, layout


def torch_answers(module, layout, clips, label):
  """Logits, gradients by name, and the clip's gradient of their square."""
  order = {'NCTHW': (0, 4, 1, 2, 3), 'NTCHW': (0, 1, 4, 2, 3)}[layout]
  x = torch.tensor(clips, requires_grad=True)
  with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
    scores = module(x.permute(order))
    scores = getattr(scores, 'logits', scores)
    loss = F.cross_entropy(scores, torch.tensor(label))
    named = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    size = sum((g ** 2).sum() for g in found)
    second, = torch.autograd.grad(size, x)
  return (scores.detach().numpy(), {
      name: g.detach().numpy() for name, g in zip(named, found)},
          second.numpy())


@pytest.mark.parametrize('name', NETWORKS)
def test_answers_as_torch_does(name):
  module, layout = build(name)
  clips = np.random.default_rng(0).uniform(size=(2, *CLIP))
  label = [1, 3]
  scores, gradient, second = torch_answers(module, layout, clips, label)
  with jax.enable_x64(True):
    logits, params = torch_to_jax(module, CLIP, layout)

    def loss(params, clips):
      return -jnp.mean(jax.nn.log_softmax(logits(params, clips))[
          jnp.arange(2), jnp.array(label)])

    def size(clips):
      found = jax.grad(loss)(params, clips)
      return sum(jnp.sum(g ** 2) for g in jax.tree.leaves(found))

    found = jax.jit(lambda clips: (
        logits(params, clips), jax.grad(loss)(params, clips),
        jax.grad(size)(clips)))(clips)
    found = jax.device_get(found)
  stats = found[1].pop('batch_stats', {})
  assert all(not np.any(leaf) for leaf in stats.values())
  assert set(found[1]) == set(gradient)
  close(found[0], scores)
  for key, expected in gradient.items():
    close(found[1][key], expected, max(np.abs(g).max()
                                       for g in gradient.values()))
  close(found[2], second)


def close(found, expected, scale=None):
  scale = scale or np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=1e-9 * scale, rtol=0)


@pytest.mark.parametrize('name', NETWORKS)
def test_layer_graph_of_an_imported_network(name):
  module, layout = build(name)
  logits, params = torch_to_jax(module.float(), CLIP, layout)
  graph = introspect(logits, params, CLIP)
  clip = np.random.default_rng(1).uniform(size=CLIP).astype(np.float32)
  expected = logits(params, clip[None])[0]
  np.testing.assert_allclose(
      evaluate(graph, params, clip), expected,
      atol=1e-5 * np.abs(expected).max(), rtol=0)
  assert not [n for n in graph.unsupported if 'understood' in n]
  assert graph.head is not None
  forms = {node.op.form for node in graph.of_kind('norm')}
  if layout == 'NTCHW':
    assert forms == {'layer'} and len(graph.of_kind('attention'))
    assert tokens.find(graph).order.size == np.prod(CLIP)
  else:
    assert forms == {'fixed', 'group'} if name == 'pre_activation' else {
        'fixed'}
    assert len(structure.blocks(graph)) == (
        2 if name == 'pre_activation' else 4)


def test_lowerings_agree_and_any_batch_size():
  logits, params = torch_to_jax(PreActivation(), CLIP)
  fast, _ = torch_to_jax(PreActivation(), CLIP, lowering='matmul')
  clips = np.random.default_rng(0).uniform(size=(3, *CLIP)).astype(np.float32)
  answer = logits(params, clips)
  np.testing.assert_allclose(fast(params, clips), answer, atol=1e-5)
  np.testing.assert_allclose(logits(params, clips[:1]), answer[:1], atol=1e-5)


def test_mistakes_are_told():
  class Odd(torch.nn.Module):

    def forward(self, x):
      return torch.linalg.svdvals(x.flatten(2).flatten(0, 1))[None]

  with pytest.raises(UserError, match=r'without a rule: aten\..*svd'):
    torch_to_jax(Odd(), CLIP)
  with pytest.raises(UserError, match=r'adaptive pooling of \(4, 16, 16\)'):
    torch_to_jax(torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool3d(3), torch.nn.Flatten()), CLIP)
  with pytest.raises(UserError, match=r'scores \[B, K\] are needed'):
    torch_to_jax(torch.nn.Conv3d(3, 4, 3), CLIP)
  with pytest.raises(UserError, match='NCTHW'):
    torch_to_jax(PreActivation(), CLIP, 'NDHWC')
