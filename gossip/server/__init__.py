"""Where the central variable w~ of asynchronous EASGD and Downpour lives: one process, or a thread in each worker.

protocol.py says what workers and shards say to each other, shard.py what a shard does to its part of w~, serve.py is
the loop around it, client.py the worker's side, process.py a server process; `python -m gossip.server` is one on its
own, for programs that no launcher looks after.
"""
