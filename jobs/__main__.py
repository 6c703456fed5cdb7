"""`python -m jobs`: the same as the console script `attrain`."""

from jobs.cli import main

main()
