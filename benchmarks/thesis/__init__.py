"""The papers' figures and tables as recipes: YAML, run by `gosgd train`, presented in the papers' form.

`python -m benchmarks.thesis` lists and runs them. Modules, lowest first: recipe (what a YAML file says), pretend (small
files in the published formats), measures (figures of one run), work (all runs of a recipe, resumable), plots, pages.
"""
