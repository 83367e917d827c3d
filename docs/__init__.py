"""Documentation, and what keeps its generated parts current. Not installed."""
