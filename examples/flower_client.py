"""Four Flower clients train on private clips; their server looks at one update.

  pip install 'vidleak_jax[flower]'
  python examples/flower_client.py

Each client trains C3D on four clips of its own: one epoch in minibatches of
two, with momentum. The server is a Flower server whose strategy also keeps what
it sent and what one client answered. What it keeps becomes a leak, and is
attacked; the clips serve for the scores alone.
"""

import jax
import numpy as np
import optax
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

import vidleak_jax as vl
from vidleak_jax import data

NUM_CLIENTS, CLIPS_EACH, WATCHED = 4, 4, 2
RATE, MOMENTUM, MINIBATCH = 1e-3, 0.9, 2
CLIP_SHAPE, NUM_CLASSES = (4, 16, 16, 3), 10


def network():
  """Returns the network that server and clients share."""
  return vl.victims.c3d(CLIP_SHAPE, NUM_CLASSES, preset='small')


def private_clips(client):
  """Returns the clips [N, T, H, W, C] and labels [N] of one client."""
  frames, size = CLIP_SHAPE[:2]
  sample = data.load(
      'photo_motion', split='train', num_clips=CLIPS_EACH, num_frames=frames,
      frame_stride=2, image_size=size, original_size=size, seed=client)
  labels = np.random.default_rng(client).permutation(NUM_CLASSES)[:CLIPS_EACH]
  return np.asarray(sample.batch.clips), labels.astype(np.int32)


def pack(params):
  """Returns the weights as Flower sends them."""
  return ArrayRecord([np.asarray(leaf) for leaf in jax.tree.leaves(params)])


def unpack(record):
  """Returns weights from what Flower sent."""
  shapes = jax.eval_shape(network().init, jax.random.key(0))
  return jax.tree.unflatten(jax.tree.structure(shapes),
                            record.to_numpy_ndarrays())


def train(params, clips, labels, order):
  """One epoch of a client, in a loop of its own."""
  optimizer = optax.sgd(RATE, MOMENTUM)
  gradient = jax.jit(jax.grad(network().loss))
  state = optimizer.init(params)
  for start in range(0, len(order), MINIBATCH):
    rows = order[start:start + MINIBATCH]
    change, state = optimizer.update(
        gradient(params, clips[rows], labels[rows]), state)
    params = optax.apply_updates(params, change)
  return params


client_app = ClientApp()


@client_app.train()
def answer(message: Message, context: Context) -> Message:
  """Trains on this client's clips and sends the weights back."""
  client = int(context.node_config['partition-id'])
  clips, labels = private_clips(client)
  order = np.random.default_rng().permutation(len(clips))  # nobody knows it
  trained = train(unpack(message.content['arrays']), clips, labels, order)
  return Message(RecordDict({
      'arrays': pack(trained),
      'metrics': MetricRecord({'num-examples': len(clips), 'client': client}),
  }), reply_to=message)


class Curious(FedAvg):
  """FedAvg that also keeps one client's weights of the first round."""
  sent = received = None

  def configure_train(self, server_round, arrays, config, grid):
    """Keeps what is sent."""
    if server_round == 1:
      self.sent = arrays
    return super().configure_train(server_round, arrays, config, grid)

  def aggregate_train(self, server_round, replies):
    """Keeps what the watched client answers."""
    replies = list(replies)
    for reply in replies:
      if server_round == 1 and reply.has_content() and (
          reply.content['metrics']['client'] == WATCHED):
        self.received = reply.content['arrays']
    return super().aggregate_train(server_round, replies)


def run_flower():
  """Returns the weights before and after the watched client's training."""
  strategy = Curious(
      fraction_evaluate=0.0, min_train_nodes=NUM_CLIENTS,
      min_available_nodes=NUM_CLIENTS)
  server_app = ServerApp()

  @server_app.main()
  def serve(grid: Grid, context: Context) -> None:
    del context
    strategy.start(grid, pack(network().init(jax.random.key(0))), num_rounds=2)

  run_simulation(server_app, client_app, num_supernodes=NUM_CLIENTS,
                 backend_config={'client_resources': {'num_cpus': 1}})
  return unpack(strategy.sent), unpack(strategy.received)


def to_leak(before, after):
  """Returns what the server saw of one client, with the protocol's facts."""
  client = vl.FedAvg(
      per='batch', local_epochs=1, local_batch_size=MINIBATCH,
      optimizer='momentum', momentum=MOMENTUM, local_learning_rate=RATE)
  return vl.Leak(
      before, jax.tree.map(np.subtract, before, after),
      vl.PublicInfo(clip_shape=CLIP_SHAPE, batch_size=CLIPS_EACH,
                    victim=network().spec, federated=client.to_spec()))


def attack(leak, num_steps=2000):
  """Attacks a leak of the watched client; returns the answer and its scores."""
  found = vl.attack(network(), leak, vl.attacks.ig(num_steps=num_steps),
                    key=jax.random.key(1))
  clips, labels = private_clips(WATCHED)  # for the scores alone
  other, _ = private_clips(WATCHED + 1)
  scores = vl.evaluate(found, clips, labels, unrelated=other)
  print(f'gradient residual {found.gradient_residual[0]:.3f}, labels right '
        f'{scores.label_accuracy:.0%}')
  print('dB of each clip   ', np.round(scores.psnr, 1))
  print('its mean colour   ', np.round(scores.psnr_mean_frame, 1))
  print('an unrelated clip ', np.round(scores.psnr_unrelated, 1))
  return found, scores


def main():
  """Runs the federation, then the attack."""
  leak = to_leak(*run_flower())
  leak.save('runs/flower')
  attack(leak)


if __name__ == '__main__':
  main()
