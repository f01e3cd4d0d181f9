"""Stores the answers of transformers' networks.

  python make_transformers.py
"""

import torch
import transformers
from common import NUM_CLASSES, store

SIZE = {
    'image_size': 16, 'num_frames': 4, 'num_channels': 3, 'hidden_size': 16,
    'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32,
    'num_labels': NUM_CLASSES, 'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0, 'attn_implementation': 'eager',
}
SHAPE = 4, 16, 16, 3


def main():
  torch.manual_seed(0)
  vivit = transformers.VivitForVideoClassification(
      transformers.VivitConfig(tubelet_size=[2, 8, 8], **SIZE))
  store('vivit', vivit, SHAPE,
        lambda clips: vivit(clips.permute(0, 1, 4, 2, 3)).logits)
  timesformer = transformers.TimesformerForVideoClassification(
      transformers.TimesformerConfig(patch_size=8, **SIZE))
  store('timesformer', timesformer, SHAPE,
        lambda clips: timesformer(clips.permute(0, 1, 4, 2, 3)).logits)
  videomae = transformers.VideoMAEForVideoClassification(
      transformers.VideoMAEConfig(patch_size=8, tubelet_size=2,
                                  use_mean_pooling=True, **SIZE))
  store('videomae', videomae, SHAPE,
        lambda clips: videomae(clips.permute(0, 1, 4, 2, 3)).logits)
  for layer_type, widths in {'basic': [4, 8], 'bottleneck': [8, 16]}.items():
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=widths, depths=[1, 2],
            layer_type=layer_type, num_labels=NUM_CLASSES))
    store(f'resnet_{layer_type}', resnet, (32, 32, 3),
          lambda frames, net=resnet: net(frames.permute(0, 3, 1, 2)).logits,
          0.1)


if __name__ == '__main__':
  main()
