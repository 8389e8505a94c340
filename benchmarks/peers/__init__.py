"""The same no-op work on other stacks. Runs in `.venv-bench`, never imported by the project."""
