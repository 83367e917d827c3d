"""Starting jobs: the command line, the entry of one worker, and the supervisor of one host's workers."""
