"""The exit codes of `attrain run`, by which a launcher knows what to do."""

DONE = 0
"""Done, or there already."""
FAILED = 1
"""Failed in another way than those below."""
MISSING_INPUT = 69
"""An input is missing."""
NO_RECORD = 70
"""All went well, but the record is not seen."""
STORE_FAILED = 73
"""The store can not be written."""
REQUEUE = 75
"""Left a checkpoint, and wants to be run again."""
BAD_SETTINGS = 78
"""Bad settings, bad data or another plan's code: the same would happen again."""
