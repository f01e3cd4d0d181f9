"""Stores the answers of transformers' networks.

  python make_transformers.py
"""

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
  vivit = transformers.VivitForVideoClassification(
      transformers.VivitConfig(tubelet_size=[2, 8, 8], **SIZE))
  store('vivit', vivit, SHAPE,
        lambda clips: vivit(clips.permute(0, 1, 4, 2, 3)).logits)


if __name__ == '__main__':
  main()
