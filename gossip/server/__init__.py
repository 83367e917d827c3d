"""Where the central variable w~ of asynchronous EASGD and Downpour lives: one process, or a thread in each worker.

protocol.py says what workers and shards say to each other, shard.py what a shard does to its part of w~, serve.py is
the loop around it, client.py the worker's side. `python -m gossip.server` is a server process on its own.
"""
