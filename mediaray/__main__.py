"""`python -m mediaray` is the command line."""

from mediaray.cli import main

main()
