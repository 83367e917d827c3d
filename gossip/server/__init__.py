"""Where the central variable w~ of asynchronous EASGD and Downpour lives: one process, or a thread in each worker.

protocol.py says what workers and shards say to each other, shard.py what a shard does to its part of w~, serve.py is
the loop around it, client.py the worker's side, process.py a server process; `python -m gossip.server` is one on its
own, for programs that no launcher looks after. near.py is the way to a server of the same host. far.py is the one from
another host, whose worker gate.py lets in, and for which stand_in.py stands there.
"""
