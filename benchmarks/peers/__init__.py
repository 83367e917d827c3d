"""The same job under this project and under the libraries that do its work: `python -m benchmarks.peers`.

Modules, lowest first: engines (one file a library), table (one row an engine), environments (what libraries need),
sheets (what workers and the benchmark write down for each other), worker (one process of a job), launch (the processes
of a job), figures (what a job's sheets amount to), pages (tables). Workers of other libraries run in environments of
their own, in which nothing of this project is installed: `engines`, `sheets` and `worker` import torch and numpy alone.
"""
