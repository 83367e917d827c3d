"""One script a claim, run from the checkout as `python -m benchmarks.NAME [--json FILE] [--quick]`.

Every figure is a ratio within one run whose variants take turns, because machines drift; a bar is printed beside what
was measured and judged by the reader. Imports everything; nothing imports this.
"""
